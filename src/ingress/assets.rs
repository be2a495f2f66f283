//! The files that browsers load: the demo page and the client library. They are built from `clients/`, and part of the
//! binary, so that nothing must be installed beside it.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

/// A file of the binary.
#[derive(Debug)]
pub(super) struct Asset {
    path: &'static str,
    kind: &'static str,
    content: &'static [u8],
    /// Whether it belongs to the demo page; else it is served always.
    demo: bool,
}

macro_rules! asset {
    ($path:literal, $file:literal, $kind:literal, demo: $demo:literal) => {
        Asset { path: $path, kind: $kind, content: include_bytes!(concat!("../../clients/dist/", $file)), demo: $demo }
    };
}

static ASSETS: [Asset; 6] = [
    asset!("/", "index.html", "text/html; charset=utf-8", demo: true),
    asset!("/page.js", "page.js", "text/javascript; charset=utf-8", demo: true),
    asset!("/page.css", "page.css", "text/css; charset=utf-8", demo: true),
    asset!("/icon.svg", "icon.svg", "image/svg+xml", demo: true),
    asset!("/antiphon.js", "antiphon.js", "text/javascript; charset=utf-8", demo: false),
    asset!("/antiphon-worklet.js", "antiphon-worklet.js", "text/javascript; charset=utf-8", demo: false),
];

/// The file at a path, if it is served.
pub(super) fn find(path: &str, demo: bool) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path && (demo || !asset.demo))
}

/// What the page may do (Content Security Policy Level 3): load from here, connect to here, and nothing else. `host` is
/// named for browsers in which `'self'` does not include WebSockets, and because WebTransport has a port of its own.
fn policy(host: Option<&str>) -> String {
    let sockets = host.map(|host| format!(" ws://{host} wss://{host} https://{}:*", name_of(host))).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

impl Asset {
    /// Changes with the content, so that browsers keep a file and ask whether it is current (RFC 9110 section 8.8.3).
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }

    /// The file, or 304 if the client has it. `host` is a `Host` header that can be shown as it is.
    pub(super) fn answer(&self, request: &HeaderMap, host: Option<&str>) -> Response<Full<Bytes>> {
        let tag = self.tag();
        let has =
            |tags: &str| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag || known == "*");
        let known = request.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).is_some_and(has);
        let mut answer = Response::new(if known { Full::default() } else { Full::from(self.content) });
        if known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
        if self.demo {
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            let policy = HeaderValue::try_from(policy(host)).ok();
            headers.extend(policy.map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
        } else {
            // Pages of other origins may import the library; whether they may open sessions is `http.origins`.
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_demo_only_the_library_is_served() {
        for (path, demo, there) in [
            ("/", true, true),
            ("/", false, false),
            ("/page.js", false, false),
            ("/antiphon.js", false, true),
            ("/x", true, false),
        ] {
            assert_eq!(find(path, demo).is_some(), there, "{path} with demo {demo}");
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let asset = find("/antiphon.js", false).unwrap();
        let first = asset.answer(&HeaderMap::new(), None);
        assert_eq!(first.status(), StatusCode::OK);
        let mut request = HeaderMap::new();
        request.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(asset.answer(&request, None).status(), StatusCode::NOT_MODIFIED);
        request.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"other\""));
        assert_eq!(asset.answer(&request, None).status(), StatusCode::OK);
    }

    #[test]
    fn the_page_may_connect_to_its_own_host_only() {
        let answer = find("/", true).unwrap().answer(&HeaderMap::new(), Some("voice.example.com:8080"));
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains(
            "connect-src 'self' ws://voice.example.com:8080 wss://voice.example.com:8080 https://voice.example.com:*;"
        ));
        assert!(!policy.contains("unsafe") && !policy.replace("https://voice.example.com:*", "").contains('*'));
    }
}
