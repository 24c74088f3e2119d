//! The page itself: built by `proxy/console/build`, embedded compressed.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use crate::admin::{AdminState, Problem};

/// Where the page is.
pub(crate) const PAGE: &str = "/console/";

/// What the page may do: run its own script, ask this endpoint, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Of a file whose name tells what is in it.
pub(crate) const FOREVER: &str = "public, max-age=31536000, immutable";

/// Bytes before what was compressed, and after it (RFC 1952): a header without a name, a checksum and a length.
const HEADER: usize = 10;
const TRAILER: usize = 8;

/// Most bytes of one file once it is taken apart.
const MAX_FILE: usize = 1 << 20;

/// A file of the page.
#[derive(Clone, Copy, Debug)]
struct Asset {
    /// Tells what is in it, where the page asks for it by name: it can be kept for ever.
    name: &'static str,
    media_type: &'static str,
    gzip: &'static [u8],
}

macro_rules! asset {
    ($stem:literal, $end:literal, $media_type:literal) => {
        Asset {
            name: concat!(
                $stem,
                ".",
                include_str!(concat!("../../console/dist/", $stem, ".", $end, ".hash")),
                ".",
                $end
            ),
            media_type: $media_type,
            gzip: include_bytes!(concat!("../../console/dist/", $stem, ".", $end, ".gz")),
        }
    };
}

const INDEX: Asset = Asset {
    name: "",
    media_type: "text/html; charset=utf-8",
    gzip: include_bytes!("../../console/dist/index.html.gz"),
};

const ASSETS: [Asset; 3] = [
    asset!("app", "js", "text/javascript; charset=utf-8"),
    asset!("app", "css", "text/css; charset=utf-8"),
    asset!("icon", "svg", "image/svg+xml"),
];

pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/console", get(|| async { Redirect::permanent(PAGE) }))
        .route(PAGE, get(|headers: HeaderMap| async move { INDEX.answer(&headers) }))
        .route("/console/{name}", get(asset))
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        let detail = "The page has no such file; load it anew.";
        return Problem::new(StatusCode::NOT_FOUND, detail).into_response();
    };
    let mut response = asset.answer(&headers);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    response
}

impl Asset {
    /// As it is kept where the client takes that, taken apart where not.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let common = [
            (CONTENT_TYPE, self.media_type),
            (VARY, "accept-encoding"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ];
        if accepts_gzip(headers) {
            return (common, [(CONTENT_ENCODING, "gzip")], self.gzip).into_response();
        }
        match self.plain() {
            Some(plain) => (common, plain).into_response(),
            None => Problem::new(StatusCode::NOT_ACCEPTABLE, "Ask for it with gzip.").into_response(),
        }
    }

    fn plain(&self) -> Option<Vec<u8>> {
        let end = self.gzip.len().checked_sub(TRAILER)?;
        decompress_to_vec_with_limit(self.gzip.get(HEADER..end)?, MAX_FILE).ok()
    }
}

/// True where the client says that it takes gzip (RFC 9110, section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut named = None;
    let mut any = false;
    for coding in codings.flat_map(|list| list.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        let wanted = weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => named = Some(wanted),
            "*" => any = wanted,
            _ => {}
        }
    }
    named.unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::{ASSETS, INDEX, accepts_gzip};
    use http::header::ACCEPT_ENCODING;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn the_page_asks_for_the_files_that_there_are_and_for_no_others() {
        let page = String::from_utf8(INDEX.plain().unwrap()).unwrap();
        let asked: Vec<&str> =
            ["href=\"", "src=\""].iter().flat_map(|start| page.split(start).skip(1)).collect();
        let asked: Vec<&str> = asked.iter().map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(asked.len(), ASSETS.len(), "{asked:?}");
        for asset in ASSETS {
            assert!(asked.contains(&asset.name), "{} is not in {asked:?}", asset.name);
        }
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" on"), "{page}");
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = ASSETS.iter().chain([&INDEX]).map(|asset| asset.plain().unwrap().len()).sum();
        assert!((1_000..150 * 1024).contains(&bytes), "{bytes}");
    }

    #[test]
    fn gzip_is_taken_where_it_is_named_or_everything_is() {
        for (value, taken) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate, *", true),
            ("*;q=0.1", true),
            ("gzip;q=0, *", false),
            ("gzip; q=0.000", false),
            ("br", false),
            ("", false),
            ("identity", false),
            ("xgzip", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), taken, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
