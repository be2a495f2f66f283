//! Limits over several nodes and a real Redis: exact where it can be, bounded where Redis is gone.

#[path = "limits/accuracy.rs"]
mod accuracy;
#[path = "limits/calls.rs"]
mod calls;
mod harness;
#[path = "limits/nodes.rs"]
mod nodes;
#[path = "limits/trouble.rs"]
mod trouble;
