//! The set-up that the agent in use really has, for clients that are told.

use crate::agent::setup::without_effect;
use crate::message::{Setup, ToClient};
use crate::route::plan::Rung;
use crate::session::Session;
use crate::session::clients::merge;

/// What the agent in use was told, less what it reports not to have applied.
#[derive(Debug, Default)]
pub(super) struct InForce {
    setup: Setup,
    /// What was in force before the last change: what a field goes back to that the agent does not take.
    before: Setup,
    /// Fields that the agent does not take.
    not_applied: Vec<String>,
    /// Whether the client wants to know.
    told: bool,
}

impl InForce {
    /// Another agent begins with this set-up, of which these fields are known to have no effect.
    fn on_agent(&mut self, setup: Setup, lacks: Vec<String>) {
        self.before = Setup::default();
        self.setup = restored(setup, &self.before, &lacks);
        self.not_applied = lacks;
    }

    /// The agent is told of these changes.
    fn on_update(&mut self, changes: &Setup) {
        self.before = self.setup.clone();
        self.setup = restored(merge(&self.setup, changes), &self.before, &self.not_applied);
    }

    /// The agent reports what it does not apply.
    fn on_not_applied(&mut self, fields: &[String]) {
        self.setup = restored(self.setup.clone(), &self.before, fields);
        self.not_applied.extend(fields.iter().cloned());
        self.not_applied.sort_unstable();
        self.not_applied.dedup();
    }
}

/// `setup` with these fields as they are in `before`.
fn restored(setup: Setup, before: &Setup, fields: &[String]) -> Setup {
    let mut restored = setup;
    macro_rules! restore {
        ($($field:ident),*) => {$(
            if fields.iter().any(|field| field == stringify!($field)) {
                restored.$field = before.$field.clone();
            }
        )*};
    }
    restore!(instructions, voice, language, model, greeting, transcribe, turns, tools);
    restored
}

/// What of instructions and greeting is the operator's is nobody else's business; `own` is the client's.
fn shown(mut setup: Setup, own: &Setup) -> Setup {
    setup.instructions = setup.instructions.filter(|text| own.instructions.as_ref() == Some(text));
    setup.greeting = setup.greeting.filter(|greeting| own.greeting.as_ref() == Some(greeting));
    setup
}

/// What a client is told when a session starts of the set-up of this agent; nothing if there is nothing to tell.
pub(super) fn told(rung: &Rung, own: &Setup) -> Option<Box<Setup>> {
    let setup = merge(&rung.setup, own);
    let lacks = without_effect(&rung.agent, &setup);
    let mut setup = shown(restored(setup, &Setup::default(), &lacks), own);
    setup.tools = setup.tools.filter(|_| own.tools.is_some());
    (setup != Setup::default()).then(|| Box::new(setup))
}

impl Session {
    /// The client asks for the set-up in force, now and whenever it changes.
    pub(super) fn describe(&mut self) {
        self.in_force.told = true;
        self.say_in_force();
    }

    /// The agent on `rung` is dialled, or takes over.
    pub(super) fn agent_begins(&mut self, rung: usize) {
        let rung = &self.plan.rungs[rung];
        let setup = merge(&rung.setup, &self.setup);
        let lacks = without_effect(&rung.agent, &setup);
        self.change_in_force(|in_force| in_force.on_agent(setup, lacks));
    }

    /// The agent is told of these changes by the client, which asks for the outcome by itself.
    pub(super) fn update_in_force(&mut self, changes: &Setup) {
        self.in_force.on_update(changes);
    }

    /// The agent in use reports what it does not apply.
    pub(super) fn take_not_applied(&mut self, fields: Vec<String>) {
        self.change_in_force(|in_force| in_force.on_not_applied(&fields));
        self.totals.on_not_applied(fields);
    }

    fn change_in_force(&mut self, change: impl FnOnce(&mut InForce)) {
        let before = self.in_force.setup.clone();
        change(&mut self.in_force);
        if self.in_force.told && self.in_force.setup != before {
            self.say_in_force();
        }
    }

    fn say_in_force(&mut self) {
        self.say(ToClient::InForce(shown(self.in_force.setup.clone(), &self.setup)));
    }
}
