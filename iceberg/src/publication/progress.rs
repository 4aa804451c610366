//! [`Progress`]: what has been written so far, and whether to go on.
use super::Step;
use crate::error::TableError;
use parking_lot::Mutex;
use std::ops::ControlFlow;

/// Why publishing ended early.
#[derive(Debug)]
pub(super) enum Halt {
    /// Something failed.
    Error(TableError),
    /// Whoever watches does not want more.
    Stopped,
}

impl From<TableError> for Halt {
    fn from(error: TableError) -> Self {
        Self::Error(error)
    }
}

/// What has been written so far; shared by those who write at the same time.
pub(super) struct Progress<'a>(Mutex<State<'a>>);

type GoOn<'a> = dyn FnMut(&Step) -> ControlFlow<()> + Send + 'a;

struct State<'a> {
    steps: Vec<Step>,
    go_on: Box<GoOn<'a>>,
    stopped: bool,
}

impl<'a> Progress<'a> {
    /// Nothing yet. `go_on` is asked after each step.
    pub fn new(go_on: impl FnMut(&Step) -> ControlFlow<()> + Send + 'a) -> Self {
        Self(Mutex::new(State { steps: Vec::new(), go_on: Box::new(go_on), stopped: false }))
    }

    /// Whether somebody may write: asked before each step.
    pub fn check(&self) -> Result<(), Halt> {
        if self.0.lock().stopped { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// A step is done.
    pub fn done(&self, step: Step) -> Result<(), Halt> {
        let mut state = self.0.lock();
        let flow = if state.stopped { ControlFlow::Break(()) } else { (state.go_on)(&step) };
        state.steps.push(step);
        state.stopped = flow.is_break();
        if state.stopped { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Everything that was written, in order.
    pub fn steps(self) -> Vec<Step> {
        self.0.into_inner().steps
    }
}
