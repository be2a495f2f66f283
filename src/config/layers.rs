//! Layers: built-in defaults, then files, then variables; and where each value of the result came from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use crate::config::defaults;
use crate::config::document::{Document, FileText, KeyPath, Spans};
use crate::config::error::ConfigError;
use crate::config::raw::Raw;
use crate::config::secret::Lookup;

/// Variables with this prefix and a double underscore are configuration.
pub const PREFIX: &str = "ANTIPHON_";

/// Tables whose entries may not be defined twice, in two files.
const NAMED_TABLES: [&str; 5] = ["agent", "tool", "limit", "limits", "hook"];

/// Which part of an entry an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

/// Where a value came from.
pub enum Origin<'a> {
    /// A file.
    File(&'a Document, &'a Spans),
    /// A variable.
    Variable(&'a str),
    /// Nobody set it.
    BuiltIn,
}

/// All layers merged.
pub struct Layers {
    pub values: Dict,
    documents: Vec<Document>,
    /// Which document each route came from, and its number there.
    routes: Vec<(usize, usize)>,
    variables: Vec<(KeyPath, String)>,
    /// `like` of each agent, for values that were inherited.
    pub like: BTreeMap<String, String>,
}

struct Layer(String, Dict);

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.clone())
    }
    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.1.clone()))
    }
}

impl Layers {
    /// Merges files, in order, and variables over the built-in defaults: tables by key, routes one after the other.
    pub fn merge(
        files: &[FileText],
        env: &BTreeMap<String, String>,
        lookup: &dyn Lookup,
    ) -> Result<Layers, Vec<ConfigError>> {
        let (mut documents, mut errors) = (Vec::new(), Vec::new());
        for file in files {
            match Document::parse(file.clone()) {
                Ok(document) => documents.push(document),
                Err(faults) => errors.extend(faults),
            }
        }
        let (variables, env_values) = variables(env, &mut errors);
        errors.extend(duplicates(&documents));
        if !errors.is_empty() {
            return Err(errors);
        }
        let set: Vec<&Dict> = documents.iter().map(|document| &document.values).chain([&env_values]).collect();
        let built_in = Dict::from([("agent".to_owned(), Value::from(defaults::agents(&set, lookup)))]);
        let mut figment =
            Figment::from(Serialized::defaults(Raw::default())).merge(Layer("built-in agents".into(), built_in));
        let mut routes = Vec::new();
        for (index, document) in documents.iter().enumerate() {
            let mut rest = document.values.clone();
            let own = rest.remove("route");
            figment = figment.merge(Layer(document.file.name.clone(), rest));
            if let Some(own) = own {
                routes.extend((0..own.as_array().map_or(1, <[Value]>::len)).map(|number| (index, number)));
                let own = if own.as_array().is_some() { own } else { Value::from(vec![own]) };
                let own = Dict::from([("route".to_owned(), own)]);
                figment = figment.admerge(Layer(document.file.name.clone(), own));
            }
        }
        figment = figment.merge(Layer("environment".into(), env_values));
        let values = figment.extract::<Dict>().map_err(|error| {
            vec![ConfigError::outside("the configuration", format!("cannot be merged: {error}"), None)]
        })?;
        Ok(Layers { values, documents, routes, variables, like: BTreeMap::new() })
    }

    /// Where a value came from: the last layer that sets it; for an agent's inherited value, where the other agent
    /// sets it.
    pub fn origin(&self, path: &[String]) -> Origin<'_> {
        if let [table, number, rest @ ..] = path
            && table == "route"
        {
            let place = number.parse::<usize>().ok().and_then(|number| self.routes.get(number));
            let Some(&(document, number)) = place else { return Origin::BuiltIn };
            let document = &self.documents[document];
            let mut own = vec!["route".to_owned(), number.to_string()];
            own.extend_from_slice(rest);
            return document.find(&own).map_or(Origin::BuiltIn, |spans| Origin::File(document, spans));
        }
        if let Some((_, name)) = self.variables.iter().find(|(key, _)| key == path) {
            return Origin::Variable(name);
        }
        let found = self.documents.iter().rev().find_map(|document| Some((document, document.find(path)?)));
        match (found, path) {
            (Some((document, spans)), _) => Origin::File(document, spans),
            (None, [table, agent, rest @ ..]) if table == "agent" && !rest.is_empty() => match self.like.get(agent) {
                Some(base) => {
                    let mut inherited = vec![table.clone(), base.clone()];
                    inherited.extend_from_slice(rest);
                    self.origin(&inherited)
                }
                None => Origin::BuiltIn,
            },
            _ => Origin::BuiltIn,
        }
    }

    /// Whether a file or a variable sets it.
    pub fn is_set(&self, path: &[String]) -> bool {
        !matches!(self.origin(path), Origin::BuiltIn)
    }

    /// What files named by a value are relative to.
    pub fn dir(&self, path: &[String]) -> &Path {
        match self.origin(path) {
            Origin::File(document, _) => &document.file.dir,
            _ => Path::new(""),
        }
    }

    /// `file:line:column`, or the variable.
    pub fn place(&self, path: &[String]) -> Option<String> {
        match self.origin(path) {
            Origin::File(document, spans) => {
                let excerpt = document.excerpt(&spans.key);
                Some(format!("{}:{}:{}", excerpt.file, excerpt.line, excerpt.column))
            }
            Origin::Variable(name) => Some(name.to_owned()),
            Origin::BuiltIn => None,
        }
    }

    /// A fault at a key or value; at the nearest table around it if nobody set it.
    pub fn error(&self, path: &[String], spot: Spot, message: String, help: Option<String>) -> ConfigError {
        let (mut path, mut spot) = (path, spot);
        loop {
            match self.origin(path) {
                Origin::File(document, spans) => {
                    let span: Range<usize> = if spot == Spot::Key { spans.key.clone() } else { spans.value.clone() };
                    return ConfigError::at(document.excerpt(&span), message, help);
                }
                Origin::Variable(name) => return ConfigError::outside(name, message, help),
                Origin::BuiltIn if path.len() <= 1 => {
                    return ConfigError::outside("the configuration", message, help);
                }
                Origin::BuiltIn => {
                    // The one item of a list that is written as a plain value: the mark stays on the value.
                    let item = path.last().is_some_and(|part| part.parse::<usize>().is_ok()) && path.len() > 2;
                    spot = if item { spot } else { Spot::Key };
                    path = &path[..path.len() - 1];
                }
            }
        }
    }

    /// Every key that a file or a variable sets, with route numbers of the merged list.
    pub fn keys_set(&self) -> Vec<KeyPath> {
        let mut keys: Vec<KeyPath> = self.variables.iter().map(|(key, _)| key.clone()).collect();
        for (index, document) in self.documents.iter().enumerate() {
            let mut own: Vec<_> = document.keys().collect();
            own.sort_by_key(|(path, spans)| (spans.key.start, path.len()));
            for (path, _) in own {
                let mut path = path.clone();
                if path[0] == "route" && path.len() > 1 {
                    let merged =
                        self.routes.iter().position(|(doc, number)| *doc == index && number.to_string() == path[1]);
                    match merged {
                        Some(merged) => path[1] = merged.to_string(),
                        None => continue,
                    }
                }
                keys.push(path);
            }
        }
        keys
    }
}

/// `ANTIPHON_A__B=v` as `a.b = v`; the value is read as TOML where it is a number, a truth value or a list.
fn variables(env: &BTreeMap<String, String>, errors: &mut Vec<ConfigError>) -> (Vec<(KeyPath, String)>, Dict) {
    let (mut keys, mut values) = (Vec::new(), Dict::new());
    for (name, text) in env {
        let Some(key) = name.strip_prefix(PREFIX).filter(|key| key.contains("__")) else { continue };
        let path: KeyPath = key.to_ascii_lowercase().split("__").map(str::to_owned).collect();
        if path.iter().any(String::is_empty) || path[0] == "route" {
            let message = match path[0].as_str() {
                "route" => "routes cannot be set by variables, because they have an order".to_owned(),
                _ => "is not a name like ANTIPHON_LISTEN__HTTP".to_owned(),
            };
            errors.push(ConfigError::outside(name, message, None));
            continue;
        }
        let value = text.parse::<Value>().unwrap_or_else(|_| Value::from(text.as_str()));
        insert(&mut values, &path, value);
        keys.push((path, name.clone()));
    }
    (keys, values)
}

fn insert(dict: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            dict.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = dict.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Names that are defined twice, in one file or in two.
fn duplicates(documents: &[Document]) -> Vec<ConfigError> {
    let mut seen: BTreeMap<(String, String), (&Document, Range<usize>)> = BTreeMap::new();
    let mut errors = Vec::new();
    for document in documents {
        let mut names: Vec<(String, String, Range<usize>)> = Vec::new();
        for table in NAMED_TABLES {
            let Some(Value::Dict(_, entries)) = document.values.get(table) else { continue };
            names.extend(entries.keys().filter_map(|name| {
                let spans = document.find(&[table.to_owned(), name.clone()])?;
                Some((table.to_owned(), name.clone(), spans.key.clone()))
            }));
        }
        let routes = document.values.get("route").and_then(Value::as_array).unwrap_or_default();
        names.extend(routes.iter().enumerate().filter_map(|(number, route)| {
            let name = route.as_dict()?.get("name")?.as_str()?.to_owned();
            let spans = document.find(&["route".to_owned(), number.to_string(), "name".to_owned()])?;
            Some(("route".to_owned(), name, spans.value.clone()))
        }));
        for (table, name, span) in names {
            let key = (table.clone(), name.clone());
            let Some((first, first_span)) = seen.get(&key) else {
                seen.insert(key, (document, span));
                continue;
            };
            let other = first.excerpt(first_span);
            let other = format!("{}:{}:{}", other.file, other.line, other.column);
            let message = format!("{table} `{name}` is defined twice: here and at {other}");
            let help = "rename one of them, or take one out".to_owned();
            errors.push(ConfigError::at(document.excerpt(&span), message, Some(help)));
        }
    }
    errors
}
