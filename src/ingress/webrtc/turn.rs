//! STUN and TURN servers as clients are told, with credentials that expire where a secret is shared.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::config::settings::IceServer;

/// The servers in the form of `RTCConfiguration.iceServers`. `now`: Unix time in seconds; `name` tells calls apart.
///
/// With a shared secret the user name is `expiry:name`, and the password its HMAC-SHA1 in base64 (draft-uberti-behave-
/// turn-rest-00 section 2.2).
pub fn ice_servers(servers: &[IceServer], name: &str, now: u64) -> Vec<Value> {
    let tell = |server: &IceServer| {
        let mut told = json!({ "urls": server.urls });
        if let Some((username, credential)) = credentials(server, name, now) {
            (told["username"], told["credential"]) = (username.into(), credential.into());
        }
        told
    };
    servers.iter().map(tell).collect()
}

/// The same as values of `Link` headers (RFC 9725 section 4.6).
pub fn links(servers: &[IceServer], name: &str, now: u64) -> Vec<String> {
    let of_server = |server: &IceServer| {
        let credentials = credentials(server, name, now);
        let tell = move |url: &String| match &credentials {
            Some((username, credential)) => format!(
                "<{url}>; rel=\"ice-server\"; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
                quoted(username),
                quoted(credential)
            ),
            None => format!("<{url}>; rel=\"ice-server\""),
        };
        server.urls.iter().map(tell).collect::<Vec<_>>()
    };
    servers.iter().flat_map(of_server).collect()
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn credentials(server: &IceServer, name: &str, now: u64) -> Option<(String, String)> {
    if let Some(secret) = &server.secret {
        let username = format!("{}:{name}", now + server.ttl.as_secs());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose_secret().as_bytes());
        let credential = BASE64_STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        return Some((username, credential));
    }
    let credential = server.credential.as_ref()?.expose_secret().to_owned();
    Some((server.username.clone().unwrap_or_default(), credential))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(secret: Option<&str>, credential: Option<&str>) -> IceServer {
        IceServer {
            urls: vec!["turn:turn.example.com".into()],
            username: Some("ann".into()),
            credential: credential.map(|text| text.to_owned().into()),
            secret: secret.map(|text| text.to_owned().into()),
            ttl: Duration::from_secs(600),
        }
    }

    #[test]
    fn credentials_of_a_shared_secret_expire_and_can_be_checked_by_the_server() {
        let told = ice_servers(&[server(Some("secret"), None)], "call", 1_000_000);
        assert_eq!(told[0]["username"], "1000600:call");
        // echo -n 1000600:call | openssl dgst -sha1 -hmac secret -binary | base64
        assert_eq!(told[0]["credential"], EXPECTED);
    }

    const EXPECTED: &str = "U61DGbjRoe4EfxobZaRkLESdlM0=";

    #[test]
    fn fixed_credentials_and_none_are_told_as_they_are() {
        let told = ice_servers(&[server(None, Some("pass")), server(None, None)], "call", 0);
        assert_eq!(told[0]["credential"], "pass");
        assert!(told[1].get("credential").is_none());
        let links = links(&[server(None, Some("pa\"ss"))], "call", 0);
        assert!(links[0].starts_with("<turn:turn.example.com>; rel=\"ice-server\"; username=\"ann\""), "{links:?}");
        assert!(links[0].contains("credential=\"pa\\\"ss\""));
    }
}
