//! What an SDP offer may have, looked at before any parser sees it.

/// Bytes of an offer at most.
pub const MAX_BYTES: usize = 16 << 10;
const MAX_MEDIA: usize = 4;
const MAX_CANDIDATES: usize = 32;
const MAX_ATTRIBUTES: usize = 512;

/// Checks an offer's bounds, and leaves its candidates out: a lite agent answers the source of the peer's checks (RFC
/// 8445 section 2.5) and needs none of them, whether they are addresses or names (`.local`).
///
/// # Errors
/// Which bound is broken.
pub fn bounded(offer: &str) -> Result<String, String> {
    if offer.len() > MAX_BYTES {
        return Err(format!("an SDP offer is at most {MAX_BYTES} bytes; this one has {}", offer.len()));
    }
    let count = |prefix: &str| offer.lines().filter(|line| line.starts_with(prefix)).count();
    let bounds = [
        ("m=", MAX_MEDIA, "media lines"),
        ("a=candidate:", MAX_CANDIDATES, "candidates"),
        ("a=", MAX_ATTRIBUTES, "attributes"),
    ];
    for (prefix, most, what) in bounds {
        let have = count(prefix);
        if have > most {
            return Err(format!("an SDP offer has at most {most} {what}; this one has {have}"));
        }
    }
    if !offer.starts_with("v=0") {
        return Err("an SDP offer begins with `v=0` (RFC 8866)".into());
    }
    let kept = |line: &&str| !line.starts_with("a=candidate:") && !line.starts_with("a=end-of-candidates");
    Ok(offer.lines().filter(kept).flat_map(|line| [plain(line), "\r\n"]).collect())
}

/// One channel is what is meant where no number is told (RFC 8866 section 6.6); the engine knows only that form.
fn plain(line: &str) -> &str {
    if line.starts_with("a=rtpmap:") { line.strip_suffix("/1").unwrap_or(line) } else { line }
}

/// The value of the first attribute with this name.
pub fn attribute<'a>(sdp: &'a str, name: &str) -> Option<&'a str> {
    sdp.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether the client asks for something else than to be heard, which WHIP does not know (RFC 9725 section 4.2).
pub fn is_deaf(offer: &str) -> bool {
    let mut audio = false;
    offer.lines().any(|line| {
        if line.starts_with("m=") {
            audio = line.starts_with("m=audio");
        }
        audio && ["a=recvonly", "a=inactive"].contains(&line.trim_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_beyond_a_bound_is_refused_with_the_bound() {
        let refused = |text: String| bounded(&text).unwrap_err();
        assert!(refused(format!("v=0\r\n{}", "a=x\r\n".repeat(600))).contains("512 attributes"));
        assert!(refused(format!("v=0\r\n{}", "m=audio\r\n".repeat(5))).contains("4 media lines"));
        assert!(refused(format!("v=0\r\n{}", "a=candidate:1\r\n".repeat(33))).contains("32 candidates"));
        assert!(refused("v=0".to_owned() + &"x".repeat(MAX_BYTES)).contains("16384 bytes"));
        assert!(refused("hello".to_owned()).contains("v=0"));
    }

    #[test]
    fn names_instead_of_addresses_do_no_harm() {
        let offer = "v=0\r\na=candidate:1 1 udp 2113937151 0f1a-2b.local 51234 typ host\r\na=ice-ufrag:abcd\r\n";
        assert_eq!(bounded(offer).unwrap(), "v=0\r\na=ice-ufrag:abcd\r\n");
        assert_eq!(attribute(offer, "ice-ufrag"), Some("abcd"));
    }

    #[test]
    fn a_single_channel_may_be_told_or_not() {
        let offer = "v=0\r\na=rtpmap:0 PCMU/8000/1\r\na=rtpmap:111 opus/48000/2\r\n";
        assert_eq!(bounded(offer).unwrap(), "v=0\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:111 opus/48000/2\r\n");
    }

    #[test]
    fn a_client_that_wants_to_listen_only_is_told_apart() {
        assert!(is_deaf("m=audio 9\r\na=recvonly\r\n"));
        assert!(!is_deaf("m=audio 9\r\na=sendrecv\r\nm=video 9\r\na=inactive\r\n"));
    }
}
