//! Lanes of a warp that go together, and which of them go next.
//!
//! A warp whose lanes have parted is a list of groups. The group in the deepest call goes first,
//! and among equals the one with the lowest instruction: compilers lay code out so that lanes
//! meet again at a higher one. Groups that meet become one. A group that keeps jumping back while
//! others could go yields to them, so lanes may wait for each other in loops.

use super::registers::FrameBase;
use super::step::Reason;

/// What a return restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFrame {
    /// The call instruction.
    pub call: u32,
    /// The function that called.
    pub function: u32,
    /// Its register frame.
    pub base: FrameBase,
    /// Its local memory.
    pub local_base: u32,
}

/// Lanes at the same instruction with the same calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Next instruction.
    pub pc: u32,
    /// Its lanes.
    pub mask: u32,
    /// Calls that it is in.
    pub frames: Vec<CallFrame>,
    /// Function that it is in.
    pub function: u32,
    /// Its register frame.
    pub base: FrameBase,
    /// Its local memory.
    pub local_base: u32,
    /// Left by an instruction that waits.
    pub token: Option<u64>,
    /// Why it waits.
    pub reason: Option<Reason>,
    /// It was asked in this turn and still waits.
    pub blocked: bool,
    /// It gave way to others.
    pub yielded: bool,
    /// Lanes that it waits for cannot come any more.
    pub forced: bool,
    /// Jumps back since it last gave way.
    pub jumps: u32,
}

impl Group {
    /// Lanes at the start of a kernel.
    pub fn start(mask: u32) -> Group {
        Group {
            pc: 0,
            mask,
            frames: Vec::new(),
            function: 0,
            base: FrameBase::default(),
            local_base: 0,
            token: None,
            reason: None,
            blocked: false,
            yielded: false,
            forced: false,
            jumps: 0,
        }
    }

    /// The lanes of `mask` at `pc`, otherwise as this group.
    pub fn part(&self, mask: u32, pc: u32) -> Group {
        let part = Group {
            frames: self.frames.clone(),
            ..Group::start(mask)
        };
        let Group {
            function,
            base,
            local_base,
            ..
        } = *self;
        Group {
            pc,
            function,
            base,
            local_base,
            ..part
        }
    }

    fn order(&self) -> (bool, usize, u32) {
        (self.yielded, usize::MAX - self.frames.len(), self.pc)
    }

    fn meets(&self, other: &Group) -> bool {
        self.pc == other.pc && self.token == other.token && self.frames == other.frames
    }
}

/// Index of the group that goes next, `None` when all are blocked.
pub fn select(groups: &mut [Group]) -> Option<usize> {
    let open = |g: &Group| !g.blocked;
    if groups.iter().filter(|g| open(g)).all(|g| g.yielded) {
        groups.iter_mut().for_each(|g| g.yielded = false);
    }
    let candidates = groups.iter().enumerate().filter(|(_, g)| open(g));
    candidates.min_by_key(|(_, g)| g.order()).map(|(i, _)| i)
}

/// Joins all groups that have met the one at `index`, and gives its new index.
pub fn merge(groups: &mut Vec<Group>, index: usize) -> usize {
    let mut group = groups.swap_remove(index);
    groups.retain(|other| {
        let met = group.meets(other);
        if met {
            group.mask |= other.mask;
            group.blocked = false;
        }
        !met
    });
    groups.push(group);
    groups.len() - 1
}

/// The instruction at which the group at `index` has to look for others: the lowest one above its
/// own at which a group of the same calls is.
pub fn next_meeting(groups: &[Group], index: usize) -> u32 {
    let group = &groups[index];
    let same_depth = |g: &&Group| g.frames.len() == group.frames.len() && g.pc > group.pc;
    groups
        .iter()
        .filter(same_depth)
        .map(|g| g.pc)
        .min()
        .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(pc: u32, mask: u32) -> Group {
        Group {
            pc,
            mask,
            ..Group::start(0)
        }
    }

    #[test]
    fn lowest_instruction_goes_first_and_deepest_call_before_it() {
        let mut groups = vec![group(9, 1), group(4, 2), group(20, 4)];
        assert_eq!(select(&mut groups), Some(1));
        let frame = CallFrame {
            call: 1,
            function: 0,
            base: FrameBase::default(),
            local_base: 0,
        };
        groups[2].frames.push(frame);
        assert_eq!(select(&mut groups), Some(2));
        groups.iter_mut().for_each(|g| g.blocked = true);
        assert_eq!(select(&mut groups), None);
    }

    #[test]
    fn yielding_lets_others_go_until_all_have_yielded() {
        let mut groups = vec![group(4, 1), group(9, 2)];
        groups[0].yielded = true;
        assert_eq!(select(&mut groups), Some(1));
        groups[1].yielded = true;
        assert_eq!(select(&mut groups), Some(0));
        assert!(!groups[1].yielded);
    }

    #[test]
    fn groups_merge_unless_one_has_arrived_at_a_barrier() {
        let mut groups = vec![
            group(4, 1),
            group(4, 2),
            Group {
                token: Some(0),
                ..group(4, 4)
            },
        ];
        let index = merge(&mut groups, 0);
        assert_eq!((groups.len(), groups[index].mask), (2, 3));
    }
}
