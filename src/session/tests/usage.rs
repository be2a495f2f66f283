//! What the agents of a call used, and what it cost.

use super::*;
use crate::config::settings::Price;
use crate::message::{AgentTranscript, CloseReason, Role, Usage};
use crate::session::{CallRecord, Command, Measure};
use crate::testkit::WorldBuilder;

fn price(currency: &str, units: &[(&str, f64)]) -> Price {
    let units = units.iter().map(|(unit, each)| ((*unit).to_owned(), *each)).collect();
    Price { currency: currency.to_owned(), units }
}

fn uses(world: &mut World, unit: &str, amount: f64) {
    world.agent_says(FromAgent::Usage(Usage::of([(unit, Some(amount))]).expect("known")));
}

fn record(world: &mut World) -> CallRecord {
    world.command(Command::End(CloseReason::Operator));
    *world.ended.take().expect("ended").1
}

fn near(cost: Option<crate::session::Cost>, amount: f64) -> bool {
    cost.is_some_and(|cost| (cost.amount - amount).abs() < 1e-9)
}

fn with(prices: Vec<(&'static str, Price)>) -> World {
    let agents = vec!["first", "second", "third"];
    let mut world = WorldBuilder { agents, prices, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world
}

#[test]
fn a_call_is_priced_by_the_table_of_its_agent_and_by_nothing_where_a_priced_unit_was_not_reported() {
    let table = price("EUR", &[("minute", 0.6), ("output_audio_tokens", 0.001)]);
    let mut world = with(vec![("first", table.clone())]);
    uses(&mut world, "output_audio_tokens", 200.0);
    uses(&mut world, "output_audio_tokens", 100.0);
    uses(&mut world, "phases_of_the_moon", 1.0);
    world.run(ms(29_900));
    let told = record(&mut world);
    assert!(near(told.cost.clone(), 0.3 + 0.3) && told.cost.is_some_and(|cost| cost.currency == "EUR"));
    assert_eq!((told.usage["output_audio_tokens"], told.agents[0].usage["phases_of_the_moon"]), (300.0, 1.0));
    assert!(!told.usage.contains_key("replayed_chars"), "nothing was told twice");

    let mut world = with(vec![("first", table)]);
    world.run(ms(1_000));
    let told = record(&mut world);
    assert!(told.cost.is_none() && told.agents[0].cost.is_none(), "unknown is not nothing: {told:?}");
}

#[test]
fn each_agent_of_a_call_is_priced_by_its_own_table_and_what_it_was_told_again_is_counted_apart() {
    let tables = vec![
        ("first", price("USD", &[("input_text_tokens", 0.01)])),
        ("second", price("USD", &[("output_text_tokens", 0.1), ("replayed_chars", 0.001)])),
    ];
    let mut world = with(tables);
    uses(&mut world, "input_text_tokens", 50.0);
    let line = |role, text: &str| {
        FromAgent::Transcript(AgentTranscript { item: None, role, text: text.into(), append: false, is_final: true })
    };
    world.agent_says(line(Role::User, "tell me a story"));
    world.agent_says(line(Role::Agent, "gladly"));
    world.run(ms(900));
    world.lose_agent();
    world.run(ms(100));
    uses(&mut world, "output_text_tokens", 2.0);
    world.run(ms(400));
    let told = record(&mut world);
    assert_eq!(told.agents.len(), 2);
    assert!(near(told.agents[0].cost.clone(), 0.5), "{:?}", told.agents);
    assert_eq!(told.agents[1].usage["replayed_chars"], f64::from("tell me a storygladly".len() as u32));
    assert!(near(told.agents[1].cost.clone(), 0.2 + 0.021) && near(told.cost.clone(), 0.721), "{:?}", told.agents);
    assert_eq!((told.agents[0].lasted_ms, told.agents[1].from_ms), (1_000, 1_000));
    assert!(!told.agents[0].usage.contains_key("replayed_chars"));
    assert!(world.measures.iter().any(|measure| matches!(measure, Measure::Replayed { chars: 21 })));
}

#[test]
fn two_currencies_have_no_sum_and_an_agent_that_was_never_ready_or_runs_here_costs_nothing() {
    let minute = |currency: &str| price(currency, &[("minute", 60.0)]);
    let mut world = with(vec![("first", minute("USD")), ("second", minute("EUR"))]);
    world.run(ms(900));
    world.lose_agent();
    world.run(ms(500));
    let told = record(&mut world);
    assert!(told.cost.is_none() && told.agents.iter().all(|agent| agent.cost.is_some()), "{:?}", told.agents);

    let agents = vec!["-gone", "second", "third"];
    let prices = vec![("-gone", price("USD", &[("output_text_tokens", 1.0)])), ("second", minute("EUR"))];
    let mut world = WorldBuilder { agents, prices, ..WorldBuilder::default() }.start();
    world.run(ms(1_000));
    world.lose_agent();
    world.run(ms(1_000));
    let told = record(&mut world);
    let second = told.agents[1].lasted_ms as f64 / 1_000.0;
    assert!(told.agents.len() == 3 && near(told.cost.clone(), second), "{:?}", told.agents);
}
