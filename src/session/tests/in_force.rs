//! What a client is told of the set-up in force: what the route lets it change and the agent takes, and nothing else.

use super::*;
use crate::message::{FromClient, Setup, Tool, TurnDetection, Turns, Update};
use crate::route::plan::{ClientMay, Policy};
use crate::testkit::WorldBuilder;

fn told(world: &World) -> Vec<Setup> {
    let setup = |message: &ToClient| match message {
        ToClient::InForce(setup) => Some(setup.clone()),
        _ => None,
    };
    world.client.messages.iter().filter_map(setup).collect()
}

fn last(world: &World) -> Setup {
    told(world).pop().expect("the set-up was told")
}

fn world(client_may: ClientMay) -> World {
    let policy = Policy { client_may, ..Policy::default() };
    let mut world = WorldBuilder { agents: vec!["first", "second"], policy, ..WorldBuilder::default() }.start();
    world.client_says(FromClient::Describe);
    world.run(ms(100));
    world
}

/// Fields that are no longer as they were at first.
fn changed(world: &World) -> Vec<String> {
    let (first, last) = (&told(world)[0], last(world));
    let all = everything().set_fields();
    let value = |setup: &Setup, field: &str| serde_json::to_value(setup).unwrap()[field].clone();
    all.into_iter().filter(|field| value(first, field) != value(&last, field)).collect()
}

/// Everything that a client can ask for.
fn everything() -> Setup {
    Setup {
        instructions: Some("Be rude.".into()),
        voice: Some("cedar".into()),
        language: Some("de".into()),
        model: Some("big".into()),
        greeting: None,
        transcribe: Some(true),
        turns: Some(Turns { detect: TurnDetection::Manual }),
        tools: Some(vec![Tool::from("look")]),
    }
}

fn update(world: &mut World, setup: Setup) {
    world.client_says(FromClient::Update(Update { setup }));
    world.client_says(FromClient::Describe);
    world.run(ms(100));
}

/// What a field of `client_may` opens.
type Opens = (fn(&mut ClientMay), &'static [&'static str]);

#[test]
fn each_field_of_client_may_opens_its_own_fields_and_no_others() {
    let cases: [Opens; 7] = [
        (|_| {}, &[]),
        (|may| may.instructions = true, &["instructions"]),
        (|may| may.voice = true, &["voice"]),
        (|may| may.language = true, &["language"]),
        (|may| may.model = true, &["model"]),
        (|may| may.turns = true, &["transcribe", "turns"]),
        (|may| may.tools = true, &["tools"]),
    ];
    for (open, fields) in cases {
        let mut may = ClientMay::default();
        open(&mut may);
        let mut world = world(may);
        update(&mut world, everything());
        assert_eq!(changed(&world), fields, "{may:?}");
        let heard: Vec<String> = world
            .told_agent
            .iter()
            .filter_map(|(_, message)| match message {
                crate::message::ToAgent::Update(setup) => Some(setup.set_fields()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(heard, fields, "the agent is told the same: {may:?}");
    }
}

fn all() -> ClientMay {
    ClientMay { instructions: true, voice: true, language: true, model: true, turns: true, tools: true, context: true }
}

#[test]
fn what_the_agent_does_not_take_goes_back_to_what_it_was() {
    let mut world = world(all());
    update(&mut world, Setup { voice: Some("marin".into()), ..Setup::default() });
    world.client_says(FromClient::Update(Update { setup: everything() }));
    world.run(ms(100));
    world.agent_says(FromAgent::NotApplied(vec!["voice".into(), "turns".into()]));
    world.run(ms(100));
    let now = last(&world);
    assert_eq!((now.voice.as_deref(), now.turns), (Some("marin"), None));
    assert_eq!(now.instructions.as_deref(), Some("Be rude."));
    update(&mut world, Setup { voice: Some("ash".into()), ..Setup::default() });
    assert_eq!(last(&world).voice.as_deref(), Some("marin"), "it was told once, and holds");
}

#[test]
fn another_agent_has_what_the_client_asked_for_unless_it_says_otherwise() {
    let mut world = world(all());
    world.agent_says(FromAgent::NotApplied(vec!["voice".into()]));
    update(&mut world, Setup { voice: Some("cedar".into()), ..Setup::default() });
    assert_eq!(last(&world).voice, None);
    world.lose_agent();
    world.run(ms(100));
    assert_eq!(last(&world).voice.as_deref(), Some("cedar"), "the second agent was told, unasked");
}

#[test]
fn who_has_not_asked_is_told_nothing() {
    let mut world = WorldBuilder::default().start();
    world.agent_says(FromAgent::NotApplied(vec!["voice".into()]));
    world.run(ms(100));
    assert!(told(&world).is_empty());
}

#[test]
fn the_instructions_of_the_operator_are_told_to_nobody() {
    let secret = Setup { instructions: Some("Secret.".into()), voice: Some("ash".into()), ..Setup::default() };
    let policy = Policy { client_may: all(), ..Policy::default() };
    let mut world = WorldBuilder { setup: secret, policy, ..WorldBuilder::default() }.start();
    world.client_says(FromClient::Describe);
    world.run(ms(100));
    let started = world.client.messages.iter().find_map(|message| match message {
        ToClient::Started(started) => Some(started.setup.clone()),
        _ => None,
    });
    let shown = Setup { voice: Some("ash".into()), ..Setup::default() };
    assert_eq!(started, Some(Some(Box::new(shown))));
    assert_eq!((last(&world).voice.as_deref(), last(&world).instructions), (Some("ash"), None));
    update(&mut world, Setup { instructions: Some("Be kind.".into()), ..Setup::default() });
    assert_eq!(last(&world).instructions.as_deref(), Some("Be kind."));
    world.agent_says(FromAgent::NotApplied(vec!["instructions".into()]));
    world.run(ms(100));
    assert_eq!(last(&world).instructions, None, "not even where the client's own are not taken");
}
