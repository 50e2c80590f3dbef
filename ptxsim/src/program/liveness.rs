//! Slot assignment: registers that are never live together share storage.
//!
//! nvcc writes PTX in near-SSA form: thousands of registers, of which a few hundred are live at a
//! time. With a slot a register a warp's registers would not fit the cache.
//!
//! Liveness is a thread's, as in a compiler. That is sound for a warp whose lanes have parted,
//! since a slot holds a value per lane and an instruction writes only its active lanes.

use crate::ptx::ast::RegId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What an instruction does to registers and to control flow.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Registers read, the guard and the bases of addresses included.
    pub reads: Vec<RegId>,
    /// Registers written.
    pub writes: Vec<RegId>,
    /// Some lanes may keep the old value: the instruction has a guard or writes parts only.
    pub guarded: bool,
    /// Execution may go on at the next instruction.
    pub falls_through: bool,
    /// Instructions that execution may jump to.
    pub targets: Vec<usize>,
}

/// Where registers live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// Slot of each register in the file of its class.
    pub slot: Vec<u32>,
    /// Slots of each class.
    pub counts: Vec<u32>,
}

/// Assigns a slot to every register. `classes` gives the register file of each; files are
/// independent. A register that is written by an instruction shares no slot with one that the
/// instruction reads, so an executor may write results before it has read all lanes.
///
/// A register that may be read before it is written is live from the start, and so finds its slot
/// as the start left it.
///
/// Linear scan over live intervals without holes; a block's end and start count as live where a
/// value crosses them.
pub fn assign(classes: &[u8], flow: &[Flow]) -> Slots {
    let intervals = Intervals::of(classes.len(), flow);
    let mut order: Vec<usize> = (0..classes.len()).filter(|&r| intervals.used(r)).collect();
    order.sort_by_key(|&register| intervals.start[register]);
    let files = classes
        .iter()
        .max()
        .map_or(0, |&class| usize::from(class) + 1);
    let mut allocators: Vec<SlotAllocator> = (0..files).map(|_| SlotAllocator::default()).collect();
    let mut slot = vec![0; classes.len()];
    for register in order {
        let allocator = &mut allocators[usize::from(classes[register])];
        slot[register] = allocator.take(intervals.start[register], intervals.end[register]);
    }
    // An unused register gets slot 0, which has to exist.
    let counts = (0..files).map(|class| {
        let present = classes.iter().any(|&c| usize::from(c) == class);
        allocators[class].count.max(u32::from(present))
    });
    Slots {
        slot,
        counts: counts.collect(),
    }
}

/// Slots of one class.
#[derive(Default)]
struct SlotAllocator {
    /// Last position and slot of the intervals that have begun.
    active: BinaryHeap<Reverse<(usize, u32)>>,
    /// Slots that are free again; the lowest goes first, which keeps the hot ones together.
    free: BinaryHeap<Reverse<u32>>,
    count: u32,
}

impl SlotAllocator {
    fn take(&mut self, start: usize, end: usize) -> u32 {
        while let Some(&Reverse((last, slot))) = self.active.peek()
            && last < start
        {
            self.active.pop();
            self.free.push(Reverse(slot));
        }
        let slot = match self.free.pop() {
            Some(Reverse(slot)) => slot,
            None => {
                self.count += 1;
                self.count - 1
            }
        };
        self.active.push(Reverse((end, slot)));
        slot
    }
}

/// First and last instruction at which each register is live; start > end if it is never used.
struct Intervals {
    start: Vec<usize>,
    end: Vec<usize>,
}

impl Intervals {
    fn of(registers: usize, flow: &[Flow]) -> Self {
        let mut intervals = Intervals {
            start: vec![usize::MAX; registers],
            end: vec![0; registers],
        };
        let blocks = Blocks::of(flow);
        // By register: blocks that read it before they write it, and blocks that write it for all lanes.
        let mut exposed: Vec<Vec<usize>> = vec![Vec::new(); registers];
        let mut killed: Vec<Vec<usize>> = vec![Vec::new(); registers];
        for block in 0..blocks.count() {
            for (position, instruction) in (blocks.first[block]..).zip(&flow[blocks.range(block)]) {
                for &RegId(register) in &instruction.reads {
                    let register = register as usize;
                    intervals.extend(register, position);
                    if killed[register].last() != Some(&block)
                        && exposed[register].last() != Some(&block)
                    {
                        exposed[register].push(block);
                    }
                }
                for &RegId(register) in &instruction.writes {
                    let register = register as usize;
                    intervals.extend(register, position);
                    if !instruction.guarded && killed[register].last() != Some(&block) {
                        killed[register].push(block);
                    }
                }
            }
        }
        let mut visited = vec![usize::MAX; blocks.count()];
        for register in 0..registers {
            intervals.follow(
                register,
                &blocks,
                &exposed[register],
                &killed[register],
                &mut visited,
            );
        }
        intervals
    }

    fn used(&self, register: usize) -> bool {
        self.start[register] <= self.end[register]
    }

    fn extend(&mut self, register: usize, position: usize) {
        self.start[register] = self.start[register].min(position);
        self.end[register] = self.end[register].max(position);
    }

    /// Walks from the blocks that need the value on entry back to those that write it.
    /// `visited` holds the register that last passed through a block as live on entry.
    fn follow(
        &mut self,
        register: usize,
        blocks: &Blocks,
        exposed: &[usize],
        killed: &[usize],
        visited: &mut [usize],
    ) {
        let mut work = exposed.to_vec();
        for &block in exposed {
            visited[block] = register;
        }
        while let Some(block) = work.pop() {
            self.extend(register, blocks.first[block]);
            for &before in &blocks.predecessors[block] {
                self.extend(register, blocks.range(before).end - 1);
                if visited[before] != register && killed.binary_search(&before).is_err() {
                    visited[before] = register;
                    work.push(before);
                }
            }
        }
    }
}

/// Basic blocks.
struct Blocks {
    /// First instruction of each, and the number of instructions at the end.
    first: Vec<usize>,
    predecessors: Vec<Vec<usize>>,
}

impl Blocks {
    fn of(flow: &[Flow]) -> Self {
        let mut leader = vec![false; flow.len() + 1];
        leader[0] = true;
        leader[flow.len()] = true;
        for (position, instruction) in flow.iter().enumerate() {
            for &target in &instruction.targets {
                leader[target.min(flow.len())] = true;
            }
            if !instruction.targets.is_empty() || !instruction.falls_through {
                leader[position + 1] = true;
            }
        }
        let first: Vec<usize> = (0..=flow.len())
            .filter(|&position| leader[position])
            .collect();
        let mut block_of = vec![0; flow.len() + 1];
        for (block, &start) in first.iter().enumerate() {
            let end = first.get(block + 1).copied().unwrap_or(flow.len() + 1);
            block_of[start..end].fill(block);
        }
        let mut blocks = Blocks {
            predecessors: vec![Vec::new(); first.len()],
            first,
        };
        for block in 0..blocks.count() {
            let last = blocks.range(block).end - 1;
            let next = flow[last].falls_through.then_some(last + 1);
            for target in flow[last].targets.iter().copied().chain(next) {
                blocks.predecessors[block_of[target.min(flow.len())]].push(block);
            }
        }
        blocks
    }

    fn count(&self) -> usize {
        self.first.len() - 1
    }

    fn range(&self, block: usize) -> std::ops::Range<usize> {
        self.first[block]..self.first[block + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `reads -> writes`, falling through.
    fn step(reads: &[u32], writes: &[u32]) -> Flow {
        Flow {
            reads: reads.iter().map(|&r| RegId(r)).collect(),
            writes: writes.iter().map(|&r| RegId(r)).collect(),
            falls_through: true,
            ..Flow::default()
        }
    }

    fn branch(reads: &[u32], target: usize) -> Flow {
        Flow {
            targets: vec![target],
            guarded: true,
            ..step(reads, &[])
        }
    }

    fn exit() -> Flow {
        Flow::default()
    }

    #[test]
    fn dead_registers_give_their_slot_away() {
        // r0 = ..; r1 = f(r0); r2 = f(r1); use r2
        let flow = [
            step(&[], &[0]),
            step(&[0], &[1]),
            step(&[1], &[2]),
            step(&[2], &[]),
            exit(),
        ];
        let slots = assign(&[0; 3], &flow);
        assert_eq!(slots.counts, [2]);
        assert_eq!(slots.slot[0], slots.slot[2]);
        assert_ne!(slots.slot[0], slots.slot[1]);
    }

    #[test]
    fn values_live_around_a_loop_keep_their_slot() {
        // r0 is read at the top of the loop and never again below; r1 is written behind that read.
        let flow = [
            step(&[], &[0]),
            step(&[0], &[2]),
            step(&[2], &[]),
            step(&[], &[1]),
            step(&[1], &[3]),
            branch(&[3], 1),
            exit(),
        ];
        let slots = assign(&[0; 4], &flow);
        assert!([1, 2, 3].iter().all(|&r| slots.slot[r] != slots.slot[0]));
    }

    #[test]
    fn a_guarded_write_keeps_the_old_value() {
        // r1 lives only before the guarded write of r0, but r0's old value may pass there.
        let mut guarded = step(&[], &[0]);
        guarded.guarded = true;
        let flow = [
            step(&[], &[1]),
            step(&[1], &[]),
            guarded,
            step(&[0], &[]),
            exit(),
        ];
        let slots = assign(&[0; 2], &flow);
        assert_ne!(slots.slot[0], slots.slot[1]);
        let unguarded = [
            step(&[], &[1]),
            step(&[1], &[]),
            step(&[], &[0]),
            step(&[0], &[]),
            exit(),
        ];
        let slots = assign(&[0; 2], &unguarded);
        assert_eq!(slots.slot[0], slots.slot[1]);
    }

    #[test]
    fn files_are_independent_and_empty_bodies_work() {
        assert_eq!(assign(&[], &[]), Slots::default());
        let flow = [step(&[], &[0, 1]), step(&[0, 1], &[]), exit()];
        assert_eq!(
            assign(&[2, 0], &flow),
            Slots {
                slot: vec![0, 0],
                counts: vec![1, 0, 1]
            }
        );
        assert_eq!(assign(&[0, 0], &[exit()]).counts, [1]);
    }

    #[test]
    fn a_jump_past_the_end_is_an_exit() {
        let flow = [step(&[], &[0]), branch(&[0], 2)];
        assert_eq!(assign(&[0], &flow).counts, [1]);
    }
}
