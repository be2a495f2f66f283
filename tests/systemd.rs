//! What systemd would say of the unit that is shipped.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The shipped unit with the built binary in place of the installed one, in a folder of its own.
fn unit(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/antiphon.service");
    let text = fs::read_to_string(shipped).unwrap().replace("/usr/bin/antiphon", env!("CARGO_BIN_EXE_antiphon"));
    let path = folder.join("antiphon.service");
    fs::write(&path, text).unwrap();
    path
}

fn analyze(arguments: &[&str], unit: &PathBuf) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output()
        .expect("systemd-analyze is there (`make setup` installs it: Debian package systemd)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn systemd_accepts_the_unit_without_a_word() {
    let (accepted, said) = analyze(&["verify", "--man=no"], &unit("verify"));
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("antiphon")).collect();
    assert!(accepted && about_us.is_empty(), "{said}");
}

#[test]
fn the_unit_exposes_little() {
    let (accepted, said) = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"], &unit("security"));
    assert!(accepted, "exposure above 2.0:\n{said}");
}
