//! What is wrong with a configuration: where, what, and how to mend it.

use std::fmt;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    place: Place,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    File(Box<Excerpt>),
    Other(String),
}

/// A line of a file with something marked in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, secrets blacked out.
    pub text: String,
    /// Characters of `text` before the mark.
    pub caret: usize,
    /// Length of the mark, at least 1.
    pub width: usize,
}

impl ConfigError {
    /// A fault at a place in a file.
    pub fn at(excerpt: Excerpt, message: String, help: Option<String>) -> Self {
        Self { place: Place::File(Box::new(excerpt)), message, help }
    }

    /// A fault outside of any file's text: a variable, a file that cannot be read.
    pub fn outside(place: impl Into<String>, message: String, help: Option<String>) -> Self {
        Self { place: Place::Other(place.into()), message, help }
    }

    /// The file or variable.
    pub fn source(&self) -> &str {
        match &self.place {
            Place::File(excerpt) => &excerpt.file,
            Place::Other(place) => place,
        }
    }

    /// Line from 1, where it is in a file.
    pub fn line(&self) -> Option<usize> {
        match &self.place {
            Place::File(excerpt) => Some(excerpt.line),
            Place::Other(_) => None,
        }
    }

    /// Column in characters from 1, where it is in a file.
    pub fn column(&self) -> Option<usize> {
        match &self.place {
            Place::File(excerpt) => Some(excerpt.column),
            Place::Other(_) => None,
        }
    }
}

impl fmt::Display for ConfigError {
    /// `file:line:column: what`, the line, and a caret with the help beside it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Other(place) => {
                write!(f, "{place}: {}", self.message)?;
                if let Some(help) = &self.help {
                    write!(f, "\n    help: {help}")?;
                }
            }
            Place::File(excerpt) => {
                let Excerpt { file, line, column, text, caret, width } = &**excerpt;
                let number = line.to_string();
                let margin = " ".repeat(number.len());
                let tabs = |c: char| if c == '\t' { '\t' } else { ' ' };
                let before: String = text.chars().take(*caret).map(tabs).collect();
                writeln!(f, "{file}:{line}:{column}: {}", self.message)?;
                writeln!(f, " {number} | {text}")?;
                write!(f, " {margin} | {before}{}", "^".repeat(*width))?;
                if let Some(help) = &self.help {
                    write!(f, "\n {margin} = help: {help}")?;
                }
            }
        }
        Ok(())
    }
}

/// All faults of a configuration, in the order of the files. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The faults.
    pub errors: Vec<ConfigError>,
    /// Whether a file could not be read at all, so that nothing was checked.
    pub unreadable: bool,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}\n")?;
        }
        match self.errors.len() {
            1 => write!(f, "1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}
