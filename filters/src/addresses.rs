//! Allows or refuses client addresses; learns the client behind trusted proxies.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, request};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::context::RequestContext;
use crate::fault::Path;
use crate::filter::Filter;
use crate::reason::Reason;
use crate::rule::{Rule, RuleKind};
use crate::verdict::{Reply, Verdict};

/// The name under which these rules refuse.
const RULE: &str = "addresses";

/// Address rules of a policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Networks that may call; everything else is refused. Empty: any address not denied may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// Networks that may not call; stronger than `allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-For` or `Forwarded` header is believed, read right to left; a request
    /// with both is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
}

/// Hops of trusted proxies looked at; more than any real path has.
const MAX_HOPS: usize = 32;

/// The address rules of one policy, ready to be asked.
#[derive(Debug)]
pub struct Addresses {
    allow: Networks,
    deny: Networks,
    trusted: Networks,
}

/// A set of networks of both families.
#[derive(Debug, Default)]
pub struct Networks {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

impl Networks {
    /// IPv4-mapped networks (RFC 4291, section 2.5.5.2) count as the IPv4 networks they stand for.
    pub fn new(networks: &[IpNet]) -> Self {
        let mut set = Self::default();
        for network in networks {
            match unmapped(*network).trunc() {
                IpNet::V4(network) => set.v4.insert(network),
                IpNet::V6(network) => set.v6.insert(network),
            };
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Takes time in proportion to the bits of the address, however many networks there are.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).is_some(),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).is_some(),
        }
    }
}

/// The network without the IPv6 form of IPv4 addresses.
pub(crate) fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    let mapped = six.addr().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    let four = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    four.map_or(network, IpNet::V4)
}

impl Addresses {
    pub fn new(spec: &Spec) -> Self {
        Self {
            allow: Networks::new(&spec.allow),
            deny: Networks::new(&spec.deny),
            trusted: Networks::new(&spec.trusted_proxies),
        }
    }

    /// Whom the request speaks for: the first address, from the right, that is no trusted proxy.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, &'static str> {
        let mut client = peer.to_canonical();
        if !self.trusted.contains(client) {
            return Ok(client);
        }
        let hops = match (headers.contains_key(FORWARDED), headers.contains_key("x-forwarded-for")) {
            // A proxy that writes the one lets a client's own copy of the other pass: nothing tells which is whose.
            (true, true) => return Err("both Forwarded and X-Forwarded-For"),
            (true, false) => forwarded(headers)?,
            (false, _) => x_forwarded_for(headers)?,
        };
        for (position, hop) in hops.iter().rev().enumerate() {
            if position == MAX_HOPS {
                return Err("too many hops");
            }
            client = node(hop).ok_or("a hop is not an address")?.to_canonical();
            if !self.trusted.contains(client) {
                break;
            }
        }
        Ok(client)
    }
}

impl Filter for Addresses {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        let denied = |detail: &str| Reply::new(Reason::AddressDenied).rule(RULE).detail(detail).into();
        if !self.trusted.is_empty() {
            match self.client(ctx.client.peer.ip(), &head.headers) {
                Ok(client) => ctx.client.address = client,
                Err(detail) => return denied(detail),
            }
        }
        let client = ctx.client.address;
        if self.deny.contains(client) {
            return denied("denied");
        }
        if !self.allow.is_empty() && !self.allow.contains(client) {
            return denied("not allowed");
        }
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        let at = Path::default().key("addresses");
        let rule = Rule { at, ..Rule::listed(RULE.into(), RuleKind::Addresses, "", 0) };
        vec![rule.reading(&[("source", "address"), ("source", "peer")])]
    }
}

type Hops<'a> = SmallVec<[&'a str; 8]>;

/// The hops of `X-Forwarded-For`, leftmost first.
fn x_forwarded_for(headers: &HeaderMap) -> Result<Hops<'_>, &'static str> {
    let mut hops = Hops::new();
    for value in headers.get_all("x-forwarded-for") {
        let value = value.to_str().map_err(|_| "X-Forwarded-For is not text")?;
        // Empty list elements count for nothing (RFC 9110, section 5.6.1).
        hops.extend(value.split(',').map(str::trim).filter(|hop| !hop.is_empty()));
    }
    Ok(hops)
}

/// The `for` nodes of `Forwarded` (RFC 7239), leftmost first.
fn forwarded(headers: &HeaderMap) -> Result<Hops<'_>, &'static str> {
    let mut hops = Hops::new();
    for value in headers.get_all(FORWARDED) {
        let value = value.to_str().map_err(|_| "Forwarded is not text")?;
        for element in split(value, b',')? {
            if element.is_empty() {
                continue;
            }
            let mut node = None;
            for pair in split(element, b';')? {
                let (name, value) = pair.split_once('=').ok_or("a pair of Forwarded has no value")?;
                if name.trim().eq_ignore_ascii_case("for") && node.replace(value.trim()).is_some() {
                    return Err("an element of Forwarded has two for nodes");
                }
            }
            hops.push(node.ok_or("an element of Forwarded has no for node")?);
        }
    }
    Ok(hops)
}

/// Splits outside of quoted strings (RFC 9110, section 5.6.4); a quote that never ends is an error.
fn split(text: &str, at: u8) -> Result<SmallVec<[&str; 8]>, &'static str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (SmallVec::new(), 0, false, false);
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == at && !quoted => {
                parts.push(text.get(start..offset).unwrap_or_default().trim());
                start = offset + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err("a quoted string does not end");
    }
    parts.push(text.get(start..).unwrap_or_default().trim());
    Ok(parts)
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`, each perhaps in
/// quotes; `unknown` and obfuscated nodes are no addresses.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix('"').map_or(Some(text), |rest| rest.strip_suffix('"'))?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::{Networks, node};
    use crate::testing::{Call, TestResources, build, check, get, run};

    const OPEN: &str = "insecure: { anonymous: true }\n";

    #[test]
    fn addresses_are_allowed_and_denied() {
        let policy =
            format!("{OPEN}addresses: {{ allow: [10.0.0.0/8, '2001:db8::/32'], deny: [10.6.6.0/24] }}");
        for (peer, verdict) in [
            ("10.1.2.3", "continue"),
            ("::ffff:10.1.2.3", "continue"),
            ("2001:db8::5", "continue"),
            ("10.6.6.6", "guard: AddressDenied by addresses"),
            ("::ffff:10.6.6.6", "guard: AddressDenied by addresses"),
            ("192.0.2.1", "guard: AddressDenied by addresses"),
            ("2001:db9::5", "guard: AddressDenied by addresses"),
        ] {
            check(&policy, &get("/").peer(peer), verdict);
        }
        check(&format!("{OPEN}addresses: {{ deny: [10.6.6.0/24] }}"), &get("/"), "continue");
    }

    #[test]
    fn mapped_networks_are_the_networks_they_stand_for() {
        let networks =
            Networks::new(&["::ffff:10.0.0.0/104".parse().unwrap(), "192.0.2.77/24".parse().unwrap()]);
        assert!(networks.contains("10.9.9.9".parse().unwrap()));
        assert!(networks.contains("192.0.2.1".parse().unwrap()));
        assert!(!networks.contains("11.0.0.1".parse().unwrap()));
    }

    fn client(call: &Call) -> String {
        let policy = format!("{OPEN}addresses: {{ trustedProxies: [10.0.0.0/8, '2001:db8::/32'] }}");
        let chain = build(&policy, &TestResources::default()).unwrap();
        let (ctx, outcome) = run(&chain, call);
        match outcome {
            Ok(()) => ctx.client.address.to_string(),
            Err(refusal) => refusal.reply.reason.to_string(),
        }
    }

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right() {
        let proxy = || get("/").peer("10.0.0.1");
        for (call, expected) in [
            (get("/").header("x-forwarded-for", "1.1.1.1"), "192.0.2.1"),
            (get("/").header("forwarded", "for=1.1.1.1"), "192.0.2.1"),
            (proxy(), "10.0.0.1"),
            (proxy().header("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.0.0.7"), "1.1.1.1"),
            (proxy().header("x-forwarded-for", "10.0.0.9, 10.0.0.7"), "10.0.0.9"),
            (proxy().header("x-forwarded-for", "nonsense, 1.1.1.1"), "1.1.1.1"),
            (proxy().header("x-forwarded-for", "1.1.1.1, nonsense"), "AddressDenied"),
            (proxy().header("x-forwarded-for", "1.1.1.1, , 10.0.0.7"), "1.1.1.1"),
            (proxy().header("x-forwarded-for", "6.6.6.6").header("x-forwarded-for", "1.1.1.1"), "1.1.1.1"),
            (proxy().header("x-forwarded-for", "1.1.1.1:5678"), "1.1.1.1"),
            (proxy().header("x-forwarded-for", "::ffff:1.1.1.1, ::ffff:10.0.0.2"), "1.1.1.1"),
            (proxy().header("forwarded", "for=6.6.6.6, For=\"[2a00::1]:99\";proto=https"), "2a00::1"),
            (
                proxy()
                    .header("forwarded", "proto=https;for=1.1.1.1;by=_x")
                    .header("x-forwarded-for", "2.2.2.2"),
                "AddressDenied",
            ),
            (proxy().header("forwarded", "for=\"a,b\", for=1.1.1.1"), "1.1.1.1"),
            (proxy().header("forwarded", "for=\", for=1.1.1.1"), "AddressDenied"),
            (proxy().header("forwarded", "for=unknown"), "AddressDenied"),
            (proxy().header("forwarded", "proto=https"), "AddressDenied"),
            (proxy().header("forwarded", "for=1.1.1.1;for=2.2.2.2"), "AddressDenied"),
            (proxy().header("x-forwarded-for", vec!["10.0.0.1"; 33].join(",")), "AddressDenied"),
        ] {
            assert_eq!(client(&call), expected, "{call:?}");
        }
    }

    #[test]
    fn nodes_that_are_no_addresses_are_refused() {
        for text in ["_hidden", "unknown", "1.1.1", "[::1", "\"1.1.1.1", "1.1.1.1\"", "[1.1.1.1]", ""] {
            assert_eq!(node(text), None, "{text}");
        }
    }
}
