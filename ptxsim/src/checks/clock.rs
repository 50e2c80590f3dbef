//! Vector clocks.

use super::access::Agent;

/// For each agent, up to which of its times everything is known; 0 for agents not listed.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Vec<u32>);

impl Clock {
    #[inline]
    pub fn get(&self, agent: Agent) -> u32 {
        self.0.get(agent.index()).copied().unwrap_or(0)
    }

    /// Raises the time of `agent` to at least `time`.
    #[inline]
    pub fn raise(&mut self, agent: Agent, time: u32) {
        if self.0.len() <= agent.index() {
            self.0.resize(agent.index() + 1, 0);
        }
        let slot = &mut self.0[agent.index()];
        *slot = (*slot).max(time);
    }

    /// Takes the later time of each agent.
    pub fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What an agent knows of the others.
#[derive(Debug, Clone, Default)]
pub(super) struct Knowledge {
    /// What happened before.
    pub seen: Clock,
    /// The part of it that is visible to the async proxy, too.
    pub fenced: Clock,
}

impl Knowledge {
    pub fn join(&mut self, other: &Knowledge) {
        self.seen.join(&other.seen);
        self.fenced.join(&other.fenced);
    }

    pub fn clear(&mut self) {
        self.seen.clear();
        self.fenced.clear();
    }
}
