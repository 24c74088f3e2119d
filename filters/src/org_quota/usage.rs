//! `Sforce-Limit-Info`: how many calls of its day an org has used.

use http::{HeaderMap, HeaderName};

/// The response header of Salesforce's REST API.
pub const LIMIT_INFO: HeaderName = HeaderName::from_static("sforce-limit-info");

/// Longest field that is read, in bytes: a few times what Salesforce sends.
const MAX_FIELD: usize = 1_024;

/// Largest number that is believed: a thousand times the daily calls of a large org.
const MAX_CALLS: u64 = 1_000_000_000;

/// Calls used of those allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    /// At least 1.
    pub limit: u64,
}

/// What one response says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Of the whole org.
    pub org: Option<Usage>,
    /// Of one connected app, with its name.
    pub app: Option<(String, Usage)>,
}

/// A field that is none of these; for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the fields of a response; `None` where there are none.
///
/// # Errors
/// Whatever is not of the form `api-usage=10018/100000` or `per-app-api-usage=17/250(appName=name)`, says two
/// things at once, or names numbers that no org has.
pub fn told(headers: &HeaderMap) -> Result<Option<Told>, Malformed> {
    let mut told = Told::default();
    let mut fields = headers.get_all(&LIMIT_INFO).iter().peekable();
    if fields.peek().is_none() {
        return Ok(None);
    }
    let mut length = 0;
    for field in fields {
        length += field.len();
        if length > MAX_FIELD {
            return Err(Malformed("too long"));
        }
        let text = field.to_str().map_err(|_| Malformed("not ASCII"))?;
        for part in parts(text) {
            read(part.trim(), &mut told)?;
        }
    }
    if told.org.is_none() && told.app.is_none() { Err(Malformed("no usage")) } else { Ok(Some(told)) }
}

/// Splits at commas and semicolons that stand in no parentheses: names of apps may hold them.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |char| {
        match char {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(char, ',' | ';')
    })
}

fn read(part: &str, told: &mut Told) -> Result<(), Malformed> {
    let (name, value) = part.split_once('=').ok_or(Malformed("no name"))?;
    match name.trim_end() {
        "api-usage" => {
            let org = usage(value)?;
            if told.org.replace(org).is_some_and(|before| before != org) {
                return Err(Malformed("two usages of one org"));
            }
        }
        "per-app-api-usage" => {
            let named = value.split_once('(').and_then(|(numbers, name)| {
                Some((numbers, name.strip_prefix("appName=")?.strip_suffix(')')?))
            });
            let (numbers, app) = named.ok_or(Malformed("no name of an app"))?;
            let app = (app.to_owned(), usage(numbers)?);
            if told.app.replace(app.clone()).is_some_and(|before| before != app) {
                return Err(Malformed("two usages of apps"));
            }
        }
        // What may be added to the field is not for us.
        _ => {}
    }
    Ok(())
}

fn usage(text: &str) -> Result<Usage, Malformed> {
    let (used, limit) = text.trim().split_once('/').ok_or(Malformed("no limit"))?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse::<u64>().ok() } else { None };
        number.filter(|number| *number <= MAX_CALLS).ok_or(Malformed("not a number of calls"))
    };
    let usage = Usage { used: number(used)?, limit: number(limit)? };
    if usage.limit == 0 { Err(Malformed("a limit of nothing")) } else { Ok(usage) }
}

#[cfg(test)]
mod tests {
    use super::{LIMIT_INFO, Malformed, Told, Usage, told};
    use http::{HeaderMap, HeaderValue};

    fn read(fields: &[&[u8]]) -> Result<Option<Told>, Malformed> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(LIMIT_INFO, HeaderValue::from_bytes(field).unwrap());
        }
        told(&headers)
    }

    #[test]
    fn both_forms_are_read_together_and_apart() {
        assert_eq!(read(&[]), Ok(None));
        let org = Some(Usage { used: 10_018, limit: 100_000 });
        let app = Some(("a, b; c".to_owned(), Usage { used: 17, limit: 250 }));
        assert_eq!(read(&[b"api-usage=10018/100000"]), Ok(Some(Told { org, app: None })));
        let both = Ok(Some(Told { org, app }));
        assert_eq!(read(&[b"api-usage=10018/100000; per-app-api-usage=17/250(appName=a, b; c)"]), both);
        assert_eq!(read(&[b"api-usage=10018/100000", b"per-app-api-usage=17/250(appName=a, b; c)"]), both);
        assert_eq!(read(&[b"api-usage=10018/100000, new-usage=x"]), Ok(Some(Told { org, app: None })));
        assert_eq!(
            read(&[b"api-usage=120/100"]).unwrap().unwrap().org,
            Some(Usage { used: 120, limit: 100 })
        );
    }

    #[test]
    fn what_no_org_says_is_not_believed() {
        let long = format!("api-usage=1/2{}", " ".repeat(1_100));
        for fields in [
            &[&b""[..]][..],
            &[b"api-usage"],
            &[b"api-usage="],
            &[b"api-usage=1"],
            &[b"api-usage=1/0"],
            &[b"api-usage=-1/100"],
            &[b"api-usage=+1/100"],
            &[b"api-usage=1/2/3"],
            &[b"api-usage=1e3/100"],
            &[b"api-usage=99999999999999999999/100"],
            &[b"api-usage=1/1000000001"],
            &[b"api-usage=1/100, api-usage=2/100"],
            &[b"api-usage=1/100", b"api-usage=1/200"],
            &[b"per-app-api-usage=1/100"],
            &[b"per-app-api-usage=1/100(x=y)"],
            &[b"other=1/2"],
            &[b"api-usage=\xff/2"],
            &[long.as_bytes()],
        ] {
            assert!(read(fields).is_err(), "{fields:?}");
        }
    }
}
