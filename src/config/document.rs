//! One TOML text: its values, and where each of them stands.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::error::{ConfigError, Excerpt};
use crate::config::secret;

/// Path of a key from the top: table names, keys, and positions in lists.
pub type KeyPath = Vec<String>;

/// A configuration file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileText {
    /// As errors name it.
    pub name: String,
    /// What files that it names are relative to.
    pub dir: PathBuf,
    /// Its content.
    pub text: String,
}

/// Where a key and its value stand, in bytes.
#[derive(Clone, Debug)]
pub struct Spans {
    pub key: Range<usize>,
    pub value: Range<usize>,
}

/// A parsed file.
pub struct Document {
    pub file: FileText,
    pub values: Dict,
    spans: HashMap<KeyPath, Spans>,
    secrets: Vec<Range<usize>>,
}

impl Document {
    /// Parses a file; all its syntax errors, one per line.
    pub fn parse(file: FileText) -> Result<Document, Vec<ConfigError>> {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        if !errors.is_empty() {
            let mut found: Vec<ConfigError> = Vec::new();
            for error in errors {
                let end = file.text.len();
                let span = error.span().unwrap_or(end..end);
                let error = syntax_error(&file, span, error.message());
                if found.iter().all(|other| other.line() != error.line()) {
                    found.push(error);
                }
            }
            return Err(found);
        }
        let mut reader = Reader { spans: HashMap::new(), secrets: Vec::new(), path: Vec::new(), text: &file.text };
        let values = reader.table(table.get_ref());
        let Reader { spans, secrets, .. } = reader;
        Ok(Document { values, spans, secrets, file })
    }

    /// Where a key stands in this file.
    pub fn find(&self, path: &[String]) -> Option<&Spans> {
        self.spans.get(path)
    }

    /// Every key of the file with its place.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyPath, &Spans)> {
        self.spans.iter()
    }

    /// The lines around a span, secrets blacked out.
    pub fn excerpt(&self, span: &Range<usize>) -> Excerpt {
        let (line, start) = line_of(&self.file.text, span.start);
        let text = self.file.text[start..].lines().next().unwrap_or_default();
        let mut shown = String::new();
        let (mut caret, mut width) = (0, 0);
        let mut skipped = false;
        for (offset, c) in text.char_indices() {
            let at = start + offset;
            let hidden = self.secrets.iter().any(|secret| secret.contains(&at));
            let piece = match (hidden, skipped) {
                (true, false) => "\"***\"".to_owned(),
                (true, true) => String::new(),
                (false, _) => c.to_string(),
            };
            skipped = hidden;
            let columns = piece.chars().count();
            if at < span.start {
                caret += columns;
            } else if at < span.end {
                width += columns;
            }
            shown.push_str(&piece);
        }
        let column = self.file.text[start..span.start].chars().count() + 1;
        Excerpt { file: self.file.name.clone(), line, column, text: shown, caret, width: width.max(1) }
    }
}

/// Line number from 1 and the offset of its first byte.
fn line_of(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |at| at + 1))
}

/// A syntax error; the value of a line that looks like a secret is not shown, because nobody knows where it ends.
fn syntax_error(file: &FileText, span: Range<usize>, message: &str) -> ConfigError {
    let (line, start) = line_of(&file.text, span.start);
    let text = file.text[start..].lines().next().unwrap_or_default();
    let column = file.text[start..span.start].chars().count() + 1;
    let shown = match text.split_once('=') {
        Some((key, _)) if secret::looks_secret(text) => format!("{key}= ***"),
        _ => text.to_owned(),
    };
    let caret = (column - 1).min(shown.chars().count());
    let end = span.end.min(start + text.len()).max(span.start);
    let width =
        file.text[span.start..end].chars().count().max(1).min(shown.chars().count().saturating_sub(caret).max(1));
    let excerpt = Excerpt { file: file.name.clone(), line, column, text: shown, caret, width };
    ConfigError::at(excerpt, message.to_owned(), None)
}

struct Reader<'t> {
    spans: HashMap<KeyPath, Spans>,
    secrets: Vec<Range<usize>>,
    path: KeyPath,
    text: &'t str,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table.iter() {
            let name = key.get_ref().to_string();
            let inner = self.at(&name, key.span(), value);
            dict.insert(name, inner);
        }
        dict
    }

    fn at(&mut self, name: &str, key: Range<usize>, value: &Spanned<DeValue<'_>>) -> Value {
        self.path.push(name.to_owned());
        self.spans.insert(self.path.clone(), Spans { key, value: value.span() });
        let inner = self.value(value);
        self.path.pop();
        inner
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) -> Value {
        match value.get_ref() {
            DeValue::String(text) => {
                if secret::is_literal_secret(&self.path, text) {
                    self.secrets.push(value.span());
                }
                Value::from(text.as_ref())
            }
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::from(number),
                Err(_) => Value::from(&self.text[value.span()]),
            },
            DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Value::from(*flag),
            DeValue::Datetime(time) => Value::from(time.to_string()),
            DeValue::Array(items) => {
                let items = items.iter().enumerate();
                Value::from(
                    items.map(|(index, item)| self.at(&index.to_string(), item.span(), item)).collect::<Vec<Value>>(),
                )
            }
            DeValue::Table(table) => Value::from(self.table(table)),
        }
    }
}
