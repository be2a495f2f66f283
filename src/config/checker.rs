//! The checks that all parts of the configuration share; faults are collected.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use secrecy::SecretString;

use crate::config::document::KeyPath;
use crate::config::error::ConfigError;
use crate::config::keys;
use crate::config::layers::{Layers, Origin, Spot};
use crate::config::secret::{self, Lookup};
use crate::media::announcement::Announcement;

/// What is known while a configuration is checked, and what was found wrong so far.
pub struct Checker<'a> {
    pub layers: &'a Layers,
    pub lookup: &'a dyn Lookup,
    pub errors: Vec<ConfigError>,
}

/// A path from its parts.
pub fn path(parts: &[&str]) -> KeyPath {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

impl Checker<'_> {
    /// Notes a fault at a value.
    pub fn wrong(&mut self, at: &[&str], message: impl Into<String>, help: impl Into<Option<String>>) {
        self.errors.push(self.layers.error(&path(at), Spot::Value, message.into(), help.into()));
    }

    /// Notes that a key is missing in a table.
    pub fn missing(&mut self, table: &[&str], key: &str, help: &str) {
        if self.is_set(&[table, &[key]].concat()) {
            return; // It is there, and faulty: that was said already.
        }
        let at = path(table);
        let message = format!("`{}` has no `{key}`", keys::shown(&at));
        self.errors.push(self.layers.error(&at, Spot::Key, message, Some(help.to_owned())));
    }

    /// Notes a fault at a key.
    pub fn wrong_key(&mut self, at: &[&str], message: impl Into<String>, help: impl Into<Option<String>>) {
        self.errors.push(self.layers.error(&path(at), Spot::Key, message.into(), help.into()));
    }

    /// Whether a file or a variable sets it.
    pub fn is_set(&self, at: &[&str]) -> bool {
        self.layers.is_set(&path(at))
    }

    /// A text with its references replaced.
    pub fn text(&mut self, at: &[&str], text: &str) -> Option<String> {
        match secret::expand(text, self.layers.dir(&path(at)), self.lookup) {
            Ok(text) => Some(text),
            Err((message, help)) => {
                self.wrong(at, message, help);
                None
            }
        }
    }

    /// A secret, which a file must not hold itself. A variable may: it is where references lead to.
    pub fn secret(&mut self, at: &[&str], text: &str) -> Option<SecretString> {
        let in_file = !matches!(self.layers.origin(&path(at)), Origin::Variable(_));
        if in_file && !secret::is_reference(text) {
            self.refuse_literal(at);
            return None;
        }
        self.text(at, text).map(SecretString::from)
    }

    /// Notes a secret that stands in a file.
    pub fn refuse_literal(&mut self, at: &[&str]) {
        let key = at.last().copied().unwrap_or_default();
        let help = format!(
            "write {key} = \"${{env:NAME}}\" and set NAME, or \"${{file:path}}\", or \"${{cred:name}}\" (systemd)"
        );
        self.wrong(at, format!("`{}` must not hold the secret itself", keys::shown(&path(at))), help);
    }

    /// A value with a text form.
    pub fn parse<T: FromStr<Err: ToString>>(&mut self, at: &[&str], text: &str) -> Option<T> {
        let text = self.text(at, text)?;
        match text.parse::<T>() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(at, error.to_string(), None);
                None
            }
        }
    }

    /// A URL with one of the schemes; a password in it must come by reference.
    pub fn url(&mut self, at: &[&str], text: &str, schemes: &[&str]) -> Option<url::Url> {
        let in_file = !matches!(self.layers.origin(&path(at)), Origin::Variable(_));
        if in_file && secret::is_literal_secret(&[String::new()], text) {
            self.refuse_literal(at);
            return None;
        }
        let text = self.text(at, text)?;
        let example = format!("{}://host:port/path", schemes[0]);
        match url::Url::parse(&text) {
            Ok(url) if schemes.contains(&url.scheme()) && url.host().is_some() => Some(url),
            Ok(url) if url.host().is_some() => {
                let message = format!("the scheme must be {}, not {}", schemes.join(" or "), url.scheme());
                self.wrong(at, message, format!("write it like {example}"));
                None
            }
            Ok(_) => {
                self.wrong(at, "the URL names no host", format!("write it like {example}"));
                None
            }
            Err(error) => {
                self.wrong(at, format!("is not a URL: {error}"), format!("write it like {example}"));
                None
            }
        }
    }

    /// The path of a file that must be there, relative to the file that names it.
    pub fn file(&mut self, at: &[&str], text: &str) -> Option<String> {
        let text = self.text(at, text)?;
        let full = self.layers.dir(&path(at)).join(&text);
        if self.lookup.exists(&full) {
            return Some(full.to_string_lossy().into_owned());
        }
        let help = "a path is relative to the file that names it".to_owned();
        self.wrong(at, format!("there is no file {}", full.display()), help);
        None
    }

    /// The content of a file, relative to the file that names it.
    pub fn content(&mut self, at: &[&str], text: &str) -> Option<String> {
        let text = self.text(at, text)?;
        let full = self.layers.dir(&path(at)).join(&text);
        match self.lookup.read(Path::new(&full)) {
            Ok(content) => Some(content),
            Err(why) => {
                let help = "a path is relative to the file that names it".to_owned();
                self.wrong(at, format!("cannot read {}: {why}", full.display()), help);
                None
            }
        }
    }

    /// An audio file, relative to the file that names it.
    pub fn announcement(&mut self, at: &[&str], text: &str) -> Option<Arc<Announcement>> {
        let file = self.file(at, text)?;
        let bytes = self.lookup.bytes(Path::new(&file));
        match bytes.and_then(|bytes| Announcement::parse(&bytes).map_err(|error| error.to_string())) {
            Ok(announcement) => Some(Arc::new(announcement)),
            Err(why) => {
                self.wrong(at, format!("cannot play {file}: {why}"), None);
                None
            }
        }
    }

    /// Notes a name that nothing is called, with the nearest that there is.
    pub fn dangling<'n>(&mut self, at: &[&str], what: &str, name: &str, known: impl IntoIterator<Item = &'n str>) {
        let known: Vec<&str> = known.into_iter().collect();
        let help = match (keys::nearest(name, known.iter().copied()), known.as_slice()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => format!("there is none; add `[{what}.{name}]`"),
            (None, some) => format!("there are {}", some.join(", ")),
        };
        self.wrong(at, format!("there is no {what} `{name}`"), help);
    }
}
