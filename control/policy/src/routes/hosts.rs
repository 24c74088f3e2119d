//! Host names to values, most specific first, wildcards included.

use ahash::AHashMap;

/// Values by host name: exact names, then wildcards by length, then the value for every name.
#[derive(Debug)]
pub struct Hosts<T> {
    exact: AHashMap<Box<str>, T>,
    /// By what follows `*.`.
    wildcard: AHashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: AHashMap::new(), wildcard: AHashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// The value of `hostname`, made where there is none; `None` stands for every name.
    pub fn entry(&mut self, hostname: Option<&str>, new: impl FnOnce() -> T) -> &mut T {
        match hostname.map(|name| (name, name.strip_prefix("*."))) {
            Some((_, Some(suffix))) => self.wildcard.entry(suffix.into()).or_insert_with(new),
            Some((name, None)) => self.exact.entry(name.into()).or_insert_with(new),
            None => self.any.get_or_insert_with(new),
        }
    }

    /// The value of exactly this `hostname`; `None` stands for every name.
    pub fn named(&self, hostname: Option<&str>) -> Option<&T> {
        match hostname.map(|name| (name, name.strip_prefix("*."))) {
            Some((_, Some(suffix))) => self.wildcard.get(suffix),
            Some((name, None)) => self.exact.get(name),
            None => self.any.as_ref(),
        }
    }

    /// Asks the values whose name matches `host`, most specific first, until one answers.
    ///
    /// `*.example.com` matches every name below `example.com`, not that name itself.
    pub fn search<'a, R>(&'a self, host: &str, mut ask: impl FnMut(&'a T) -> Option<R>) -> Option<R> {
        if let Some(answer) = self.exact.get(host).and_then(&mut ask) {
            return Some(answer);
        }
        if !self.wildcard.is_empty() {
            let mut rest = host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(answer) = self.wildcard.get(parent).and_then(&mut ask) {
                    return Some(answer);
                }
                rest = parent;
            }
        }
        self.any.as_ref().and_then(ask)
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.any)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain(&mut self.any)
    }
}

/// True where some name matches both; `None` matches every name.
pub fn intersect(listener: Option<&str>, route: Option<&str>) -> bool {
    let (Some(listener), Some(route)) = (listener, route) else { return true };
    match (listener.strip_prefix('*'), route.strip_prefix('*')) {
        (None, None) => listener == route,
        (Some(suffix), None) => below(route, suffix),
        (None, Some(suffix)) => below(listener, suffix),
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
    }
}

/// `suffix` starts with the dot.
fn below(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::{Hosts, intersect};

    #[test]
    fn the_most_specific_name_is_asked_first_and_then_the_others() {
        let mut hosts = Hosts::default();
        for name in ["a.example.com", "*.example.com", "*.b.example.com", "*.com"] {
            hosts.entry(Some(name), || name);
        }
        hosts.entry(None, || "any");
        let order = |host: &str| {
            let mut seen = Vec::new();
            hosts.search(host, |name| {
                seen.push(*name);
                None::<()>
            });
            seen
        };
        assert_eq!(order("a.example.com"), ["a.example.com", "*.example.com", "*.com", "any"]);
        assert_eq!(order("x.b.example.com"), ["*.b.example.com", "*.example.com", "*.com", "any"]);
        assert_eq!(order("b.example.com"), ["*.example.com", "*.com", "any"]);
        assert_eq!(order("example.com"), ["*.com", "any"]);
        assert_eq!(order("com"), ["any"]);
        assert_eq!(order(""), ["any"]);
        assert_eq!(hosts.search("x.b.example.com", |name| Some(*name)), Some("*.b.example.com"));
    }

    #[test]
    fn names_meet_as_gateway_api_says() {
        for (listener, route, meet) in [
            (None, Some("a.example.com"), true),
            (Some("a.example.com"), None, true),
            (Some("a.example.com"), Some("a.example.com"), true),
            (Some("a.example.com"), Some("b.example.com"), false),
            (Some("*.example.com"), Some("a.example.com"), true),
            (Some("*.example.com"), Some("a.b.example.com"), true),
            (Some("*.example.com"), Some("example.com"), false),
            (Some("*.example.com"), Some("badexample.com"), false),
            (Some("a.example.com"), Some("*.example.com"), true),
            (Some("*.a.example.com"), Some("*.example.com"), true),
            (Some("*.a.example.com"), Some("*.b.example.com"), false),
            (Some("*.example.com"), Some("*.badexample.com"), false),
        ] {
            assert_eq!(intersect(listener, route), meet, "{listener:?} {route:?}");
        }
    }
}
