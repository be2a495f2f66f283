//! From merged values to raw tables. A fault is reported and taken out, then decoding goes on, so that all faults of a
//! file are found at once.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use crate::config::document::KeyPath;
use crate::config::error::ConfigError;
use crate::config::keys;
use crate::config::layers::{Layers, Origin, Spot};
use crate::config::print;
use crate::config::secret;

/// Decodes a table at `at`; `None` only if a fault cannot be taken out.
pub fn decode<T: DeserializeOwned>(
    values: &mut Value,
    at: &[String],
    layers: &Layers,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    const MOST_FAULTS: usize = 200;
    for _ in 0..MOST_FAULTS {
        let error = match values.deserialize::<T>() {
            Ok(decoded) => return Some(decoded),
            Err(error) => error,
        };
        let path: KeyPath = at.iter().chain(&error.path).cloned().collect();
        if let Some(text) = text_of_variable(&error.kind, values, &error.path, &path, layers) {
            replace(values, &error.path, Some(Value::from(text)));
            continue;
        }
        errors.push(explain(&error.kind, &path, layers));
        if error.path.is_empty() || !replace(values, &error.path, None) {
            return None;
        }
    }
    None
}

/// A variable's value that looks like a number or a list, where a text is wanted.
fn text_of_variable(kind: &Kind, values: &Value, inner: &[String], path: &[String], layers: &Layers) -> Option<String> {
    let Kind::InvalidType(actual, wanted) = kind else { return None };
    let from_variable = matches!(layers.origin(path), Origin::Variable(_));
    if !from_variable || !wanted.contains("string") || matches!(actual, Actual::Str(_)) {
        return None;
    }
    match find(values, inner)? {
        Value::Num(_, number) => Some(print::number(*number)),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Char(_, c) => Some(c.to_string()),
        _ => None,
    }
}

fn find<'v>(values: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(values, |value, part| match value {
        Value::Dict(_, dict) => dict.get(part),
        Value::Array(_, items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Takes a value out, or puts another in its place. A list with a faulty item goes as a whole, so that no item changes
/// its number.
fn replace(values: &mut Value, path: &[String], with: Option<Value>) -> bool {
    let [first, rest @ ..] = path else { return false };
    match values {
        Value::Dict(_, dict) if rest.is_empty() => match with {
            Some(value) => dict.insert(first.clone(), value).is_some(),
            None => dict.remove(first).is_some(),
        },
        Value::Dict(_, dict) => {
            let whole_list = with.is_none() && rest.len() == 1 && matches!(dict.get(first), Some(Value::Array(..)));
            if whole_list {
                return dict.remove(first).is_some();
            }
            dict.get_mut(first).is_some_and(|inner| replace(inner, rest, with))
        }
        Value::Array(_, items) => match first.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
            Some(item) if rest.is_empty() => with.is_some_and(|value| {
                *item = value;
                true
            }),
            Some(item) => replace(item, rest, with),
            None => false,
        },
        _ => false,
    }
}

fn explain(kind: &Kind, path: &[String], layers: &Layers) -> ConfigError {
    let name = keys::shown(path);
    let hidden = path.last().is_some_and(|key| secret::looks_secret(key));
    match kind {
        Kind::UnknownField(field, expected) => unknown_key(field, expected, path, layers),
        Kind::UnknownVariant(found, expected) => {
            let help = match keys::nearest(found, expected.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? possible: {}", expected.join(", ")),
                None => format!("possible: {}", expected.join(", ")),
            };
            layers.error(path, Spot::Value, format!("`{found}` is not possible for `{name}`"), Some(help))
        }
        Kind::InvalidType(actual, wanted) | Kind::InvalidValue(actual, wanted) => {
            let found = if hidden { "something else".to_owned() } else { found(actual) };
            let message = format!("`{name}` must be {}, not {found}", words(wanted));
            layers.error(path, Spot::Value, message, None)
        }
        other => layers.error(path, Spot::Value, format!("`{name}`: {other}"), None),
    }
}

/// An unknown key, with the nearest valid one, or the table in which this key is valid.
pub fn unknown_key(field: &str, expected: &[&str], path: &[String], layers: &Layers) -> ConfigError {
    let table = keys::shown(&path[..path.len().saturating_sub(1)]);
    let place = if table.is_empty() { "at the top".to_owned() } else { format!("in `{table}`") };
    let elsewhere = || {
        let tables = keys::tables_with(field);
        (!tables.is_empty()).then(|| format!("`{field}` is a key of {}", tables.join(", ")))
    };
    let help = keys::nearest(field, expected.iter().copied())
        .map(|near| format!("did you mean `{near}`?"))
        .or_else(elsewhere)
        .unwrap_or_else(|| match expected {
            [] => "no key is possible here".to_owned(),
            keys => format!("possible: {}", keys.join(", ")),
        });
    layers.error(path, Spot::Key, format!("unknown key `{field}` {place}"), Some(help))
}

fn words(wanted: &str) -> &str {
    match wanted {
        "a boolean" => "true or false",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "u8" => "a whole number from 0 to 255",
        "u16" | "u32" | "u64" | "usize" => "a whole number, not negative",
        "f32" | "f64" => "a number",
        "a sequence" => "a list like [\"a\", \"b\"]",
        "a map" => "a table",
        "string or map" => "a text or a table",
        wanted if wanted.starts_with("struct ") => "a table",
        wanted => wanted,
    }
}

fn found(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("the text {text:?}"),
        Actual::Bool(flag) => flag.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Takes numbers out that are not within what [`keys::RANGES`] allows.
pub fn check_ranges(values: &mut Dict, layers: &Layers, errors: &mut Vec<ConfigError>) {
    for (pattern, low, high) in keys::RANGES {
        let pattern: Vec<&str> = pattern.split('.').collect();
        let mut path = KeyPath::new();
        check_range(values, &pattern, (*low, *high), &mut path, layers, errors);
    }
}

fn check_range(
    dict: &mut Dict,
    pattern: &[&str],
    bounds: (f64, f64),
    path: &mut KeyPath,
    layers: &Layers,
    errors: &mut Vec<ConfigError>,
) {
    let [first, rest @ ..] = pattern else { return };
    let names: Vec<String> = dict.keys().filter(|key| *first == "*" || key.as_str() == *first).cloned().collect();
    for name in names {
        path.push(name.clone());
        let number = match dict.get(&name) {
            Some(Value::Num(_, number)) if rest.is_empty() => print::number(*number).parse::<f64>().ok(),
            _ => None,
        };
        match (number, dict.get_mut(&name)) {
            (Some(number), _) if !(bounds.0..=bounds.1).contains(&number) => {
                let message = format!("`{}` must be from {} to {}", keys::shown(path), bounds.0, bounds.1);
                errors.push(layers.error(path, Spot::Value, message, None));
                dict.remove(&name);
            }
            (None, Some(Value::Dict(_, inner))) => check_range(inner, rest, bounds, path, layers, errors),
            (None, Some(Value::Array(_, items))) if rest.first() == Some(&"*") => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(index.to_string());
                    if let Value::Dict(_, inner) = item {
                        check_range(inner, &rest[1..], bounds, path, layers, errors);
                    }
                    path.pop();
                }
            }
            _ => {}
        }
        path.pop();
    }
}
