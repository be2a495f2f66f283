//! The configuration in force, as TOML: what every key is, and where it was set. Secrets stay references.

use std::collections::BTreeMap;
use std::fmt::Write;

use figment::value::{Dict, Num, Value};

use crate::config::document::KeyPath;
use crate::config::layers::Layers;
use crate::config::secret;
use crate::config::{ConfigErrors, FileText, Lookup, check_keeping_layers};

/// The configuration in force. With `origin`, each line says which file and line, or which variable, set it.
///
/// # Errors
/// As [`check`](crate::config::check).
pub fn print(
    files: &[FileText],
    env: &BTreeMap<String, String>,
    lookup: &dyn Lookup,
    origin: bool,
) -> Result<String, ConfigErrors> {
    let (layers, result) = check_keeping_layers(files, env, lookup);
    let settings = result?;
    let mut printer = Printer { layers: layers.as_ref(), lookup, origin, out: String::new() };
    if let Some(layers) = &layers {
        printer.table(&layers.values, &mut KeyPath::new());
    }
    let mut out = printer.out;
    for (agent, why) in &settings.off {
        let _ = writeln!(out, "# agent {agent} is off: {why}");
    }
    Ok(out)
}

struct Printer<'a> {
    layers: Option<&'a Layers>,
    lookup: &'a dyn Lookup,
    origin: bool,
    out: String,
}

impl Printer<'_> {
    /// Plain values first, then the tables in it, as TOML wants it.
    fn table(&mut self, table: &Dict, at: &mut KeyPath) {
        let top = at.is_empty();
        let is_empty = |value: &Value| value.as_dict().is_some_and(Dict::is_empty);
        let mut plain: Vec<(&String, &Value)> = table.iter().filter(|(_, value)| !(top && is_empty(value))).collect();
        plain.sort_by_key(|(key, _)| !["name", "kind", "like", "to"].contains(&key.as_str()));
        for (key, value) in plain {
            if !is_section(key, value, top) {
                at.push(key.clone());
                self.line(key, value, at);
                at.pop();
            }
        }
        for (key, value) in table.iter().filter(|(key, value)| is_section(key, value, top)) {
            at.push(key.clone());
            match value {
                Value::Array(_, items) => {
                    for (index, item) in items.iter().enumerate() {
                        at.push(index.to_string());
                        self.section(item, at, ("[[", "]]"));
                        at.pop();
                    }
                }
                value => self.section(value, at, ("[", "]")),
            }
            at.pop();
        }
    }

    fn section(&mut self, value: &Value, at: &mut KeyPath, brackets: (&str, &str)) {
        let Value::Dict(_, table) = value else { return };
        let plain = table.iter().any(|(key, value)| !is_section(key, value, false));
        if plain || table.is_empty() || brackets.0 == "[[" {
            let names = at.iter().enumerate().filter(|(index, _)| !(*index == 1 && at[0] == "route"));
            let header: Vec<String> = names.map(|(_, name)| bare(name)).collect();
            let blank = if self.out.is_empty() { "" } else { "\n" };
            let _ = writeln!(self.out, "{blank}{}{}{}", brackets.0, header.join("."), brackets.1);
        }
        self.table(table, at);
    }

    fn line(&mut self, key: &str, value: &Value, at: &mut KeyPath) {
        let _ = write!(self.out, "{} = {}", bare(key), inline(value, at));
        if self.origin {
            let place = self.layers.and_then(|layers| layers.place(at));
            let _ = write!(self.out, "  # {}", place.as_deref().unwrap_or("built in"));
        }
        self.out.push('\n');
        if key == "instructions_file" {
            self.content(value, at);
        }
    }

    /// The text of a file of instructions, as comments.
    fn content(&mut self, value: &Value, at: &KeyPath) {
        let (Some(layers), Some(name)) = (self.layers, value.as_str()) else { return };
        let Ok(name) = secret::expand(name, layers.dir(at), self.lookup) else { return };
        let text = self.lookup.read(&layers.dir(at).join(name)).unwrap_or_default();
        for line in text.lines() {
            let _ = writeln!(self.out, "#   {line}");
        }
    }
}

/// Whether a value is printed under a header of its own.
fn is_section(key: &str, value: &Value, top: bool) -> bool {
    match value {
        Value::Dict(_, table) => !table.is_empty(),
        Value::Array(_, items) => top && key == "route" && !items.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value, at: &mut KeyPath) -> String {
    match value {
        Value::String(_, text) if secret::is_literal_secret(at, text) => "\"***\"".to_owned(),
        Value::String(_, text) => quoted(text),
        Value::Char(_, c) => quoted(&c.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, value) => number(*value),
        Value::Empty(..) => "\"\"".to_owned(),
        Value::Array(_, items) => {
            let mut shown = Vec::new();
            for (index, item) in items.iter().enumerate() {
                at.push(index.to_string());
                shown.push(inline(item, at));
                at.pop();
            }
            format!("[{}]", shown.join(", "))
        }
        Value::Dict(_, table) => {
            let mut shown = Vec::new();
            for (key, item) in table {
                at.push(key.clone());
                shown.push(format!("{} = {}", bare(key), inline(item, at)));
                at.pop();
            }
            if shown.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", shown.join(", ")) }
        }
    }
}

/// A number as TOML.
pub fn number(value: Num) -> String {
    match (value.to_i128(), value.to_u128(), value.to_f64()) {
        (Some(whole), _, _) => whole.to_string(),
        (_, Some(whole), _) => whole.to_string(),
        (_, _, Some(float)) => format!("{float:?}"),
        _ => "0".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if plain { key.to_owned() } else { quoted(key) }
}
