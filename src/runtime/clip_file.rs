//! Reads the files of `clip` agents: the agents themselves are pure.

/// The largest file that is played, in bytes.
const LARGEST: u64 = 32 * 1024 * 1024;

/// Reads a clip's file.
///
/// # Errors
/// If it cannot be read or is larger than 32 MiB.
pub fn read(file: &str) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot read the clip {file}: {error}");
    let size = std::fs::metadata(file).map_err(cannot)?.len();
    if size > LARGEST {
        return Err(format!("the clip {file} has {size} bytes; at most {LARGEST} are possible: use Ogg Opus"));
    }
    std::fs::read(file).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_too_large_is_named() {
        let missing = read("/no/such/clip.ogg").expect_err("missing");
        assert!(missing.contains("/no/such/clip.ogg"), "{missing}");
        let path = std::env::temp_dir().join(format!("antiphon-clip-{}", std::process::id()));
        let large = std::fs::File::create(&path).and_then(|file| file.set_len(LARGEST + 1));
        let error = large.map(|()| read(&path.display().to_string()));
        std::fs::remove_file(&path).expect("removes");
        assert!(error.expect("creates").expect_err("too large").contains("Ogg Opus"));
    }
}
