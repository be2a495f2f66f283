//! Secrets come by reference only: `${env:NAME}`, `${file:path}`, `${cred:name}`.

use std::path::{Path, PathBuf};

/// The world outside of the configuration's text.
pub trait Lookup {
    /// A variable of the environment.
    fn env(&self, name: &str) -> Option<String>;
    /// A file's text, or why it cannot be read.
    ///
    /// # Errors
    /// The reason, in words.
    fn read(&self, path: &Path) -> Result<String, String>;
    /// A file's bytes, or why it cannot be read.
    ///
    /// # Errors
    /// The reason, in words.
    fn bytes(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.read(path).map(String::into_bytes)
    }
    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;
}

/// A text with its references replaced by what they refer to. On error: what is wrong, and how to mend it.
pub fn expand(text: &str, dir: &Path, lookup: &dyn Lookup) -> Result<String, (String, String)> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from_mark) = rest.split_at(at);
        out.push_str(before);
        let Some((reference, after)) = from_mark[2..].split_once('}') else {
            return Err(("a reference is not closed".into(), "write it like `${env:NAME}`".into()));
        };
        out.push_str(&value_of(reference, dir, lookup)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(reference: &str, dir: &Path, lookup: &dyn Lookup) -> Result<String, (String, String)> {
    let unknown = || {
        let help = "write `${env:NAME}`, `${file:path}` or `${cred:name}`".to_owned();
        Err((format!("`${{{reference}}}` is not a reference"), help))
    };
    let Some((kind, name)) = reference.split_once(':') else { return unknown() };
    let read = |path: PathBuf, help: String| match lookup.read(&path) {
        Ok(text) if text.trim().is_empty() => Err((format!("{} is empty", path.display()), help)),
        Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(why) => Err((format!("cannot read {}: {why}", path.display()), help)),
    };
    match kind {
        "env" => match lookup.env(name) {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) => Err((format!("the variable {name} is empty"), format!("set {name}"))),
            None => Err((format!("the variable {name} is not set"), format!("set {name} in antiphon's environment"))),
        },
        "file" => read(dir.join(name), "a path is relative to the file that names it".into()),
        "cred" => match lookup.env("CREDENTIALS_DIRECTORY") {
            _ if name.contains('/') || name.starts_with('.') => unknown(),
            Some(folder) => read(Path::new(&folder).join(name), format!("add `LoadCredential={name}:…` to the unit")),
            None => Err((
                format!("there is no credential `{name}`, because CREDENTIALS_DIRECTORY is not set"),
                format!("start antiphon by systemd with `LoadCredential={name}:…`, or use `${{env:…}}`"),
            )),
        },
        _ => unknown(),
    }
}

/// Whether a text refers to something instead of saying it.
pub fn is_reference(text: &str) -> bool {
    text.contains("${")
}

/// Whether the value at a path is a secret by the name of its key, or a URL with a password in it.
pub fn is_secret(path: &[String], value: &str) -> bool {
    let named = path.iter().rev().find(|part| part.parse::<usize>().is_err());
    let has_password = value.contains("://") && url::Url::parse(value).is_ok_and(|url| url.password().is_some());
    named.is_some_and(|key| looks_secret(key)) || has_password
}

/// Whether the text at a path is a secret that stands there itself.
pub fn is_literal_secret(path: &[String], value: &str) -> bool {
    !is_reference(value) && is_secret(path, value)
}

/// Whether a key names a secret.
pub fn looks_secret(key: &str) -> bool {
    const WORDS: [&str; 8] =
        ["apikey", "secret", "password", "passwd", "authorization", "cookie", "credential", "privatekey"];
    let key: String = key.chars().filter(|c| c.is_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    WORDS.iter().any(|word| key.contains(word)) || key.ends_with("token")
}
