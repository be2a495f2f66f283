//! The operator's prices of an agent.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::config::checker::Checker;
use crate::config::raw::RawAgent;
use crate::config::settings::Price;
use crate::config::vendor::VendorKind;
use crate::message::usage::REPLAYED;

/// Units that the relay itself counts, for any kind.
const COUNTED: [&str; 2] = ["minute", REPLAYED];

/// Checks the table: each unit must be one that the kind of agent reports, or else the cost would never be known.
pub fn price(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> Option<Price> {
    if raw.price.is_empty() {
        return None;
    }
    let mut units = BTreeMap::new();
    let kind = raw.kind.as_deref().and_then(VendorKind::named);
    let known = |unit: &str| kind.is_none_or(|kind| kind.units().contains(&unit)) || COUNTED.contains(&unit);
    for (unit, value) in raw.price.iter().filter(|(unit, _)| *unit != "currency") {
        let at = ["agent", name, "price", unit];
        if !known(unit) {
            let reported = kind.map_or(&[][..], VendorKind::units).iter().copied();
            let possible: Vec<&str> = COUNTED.into_iter().chain(reported).collect();
            let message = format!("an agent of kind `{}` reports no `{unit}`", kind.map_or("", VendorKind::label));
            check.wrong_key(&at, message, format!("possible: {}", possible.join(", ")));
            continue;
        }
        match value.as_f64().filter(|amount| *amount >= 0.0) {
            Some(amount) => drop(units.insert(unit.clone(), amount)),
            None => check.wrong(&at, format!("the price per `{unit}` must be a number, not negative"), None),
        }
    }
    let currency = raw.price.get("currency").and_then(Json::as_str).unwrap_or_default();
    if currency.len() == 3 && currency.chars().all(|c| c.is_ascii_uppercase()) {
        return Some(Price { currency: currency.to_owned(), units });
    }
    match raw.price.get("currency") {
        Some(_) => {
            let help = "three capital letters (ISO 4217), like \"USD\"".to_owned();
            check.wrong(&["agent", name, "price", "currency"], "is not a currency", help);
        }
        None => check.missing(&["agent", name, "price"], "currency", "add `currency = \"USD\"`"),
    }
    None
}
