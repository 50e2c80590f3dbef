//! Which blocks of a launch have synchronised, through atomics and fences.
//!
//! A block releases what it did when it fences and then makes an atomic or volatile write or
//! update; a block acquires with an atomic or volatile read or update of the same word. No fence is
//! asked for on the acquiring side: programs rely on the dependency there. Whether one block's
//! access happened before another's is only asked when their accesses meet, so the releases are
//! kept as a log for each word, and the question is a search.

use std::collections::HashMap;

/// Searches longer than this are given up in favour of "ordered", which costs time only where many
/// blocks synchronise and still race.
const SEARCH_STEPS: usize = 200_000;

/// A block released into a word.
#[derive(Debug, Clone, Copy)]
struct Release {
    block: u32,
    /// Number of the block's acquisitions that came before.
    acquired: u32,
}

#[derive(Debug, Default)]
struct Word {
    log: Vec<Release>,
    /// For each block, times and positions of its releases.
    of_block: HashMap<u32, Vec<(u32, u32)>>,
}

#[derive(Debug, Clone, Default)]
struct Block {
    /// Times start at 0 and rise at each fence.
    time: u32,
    /// Time and acquisitions at the latest fence.
    fenced: Option<(u32, u32)>,
    /// Index of a word and length of its log when the block read it.
    acquired: Vec<(u32, u32)>,
}

/// The order between the blocks of a launch.
#[derive(Debug, Default)]
pub(super) struct BlockOrder {
    blocks: HashMap<u32, Block>,
    index: HashMap<u64, u32>,
    words: Vec<Word>,
}

impl BlockOrder {
    /// The block's own time.
    pub fn time(&self, block: u32) -> u32 {
        // Most kernels never fence, and this is asked at every access.
        if self.blocks.is_empty() {
            0
        } else {
            self.blocks.get(&block).map_or(0, |b| b.time)
        }
    }

    /// Whether the block acquired anything.
    pub fn has_acquired(&self, block: u32) -> bool {
        !self.words.is_empty()
            && self
                .blocks
                .get(&block)
                .is_some_and(|b| !b.acquired.is_empty())
    }

    /// A fence by any thread of the block: cumulative over the block's barriers.
    pub fn fence(&mut self, block: u32) {
        let state = self.blocks.entry(block).or_default();
        state.fenced = Some((state.time, state.acquired.len() as u32));
        state.time += 1;
    }

    /// The block writes the word at `address` atomically.
    pub fn release(&mut self, block: u32, address: u64) {
        let Some((time, acquired)) = self.blocks.get(&block).and_then(|b| b.fenced) else {
            return;
        };
        let index = self.word(address);
        let word = &mut self.words[index];
        let releases = word.of_block.entry(block).or_default();
        if releases.last().is_some_and(|&(known, _)| known == time) {
            return;
        }
        releases.push((time, word.log.len() as u32));
        word.log.push(Release { block, acquired });
    }

    /// The block reads the word at `address` atomically.
    pub fn acquire(&mut self, block: u32, address: u64) {
        let Some(&word) = self.index.get(&address) else {
            return;
        };
        let length = self.words[word as usize].log.len() as u32;
        let state = self.blocks.entry(block).or_default();
        if state
            .acquired
            .iter()
            .rev()
            .take(8)
            .any(|&known| known == (word, length))
        {
            return;
        }
        state.acquired.push((word, length));
    }

    fn word(&mut self, address: u64) -> usize {
        let next = self.words.len() as u32;
        let index = *self.index.entry(address).or_insert(next);
        if index == next {
            self.words.push(Word::default());
        }
        index as usize
    }

    /// Whether what `earlier` did at its `time` happened before what `block` does now.
    pub fn is_before(&self, earlier: u32, time: u32, block: u32) -> bool {
        let Some(state) = self.blocks.get(&block) else {
            return false;
        };
        let mut known: HashMap<u32, u32> = HashMap::new();
        let mut open = vec![(block, state.acquired.len() as u32)];
        let mut steps = 0;
        while let Some((block, count)) = open.pop() {
            let explored = known.insert(block, count).unwrap_or(0);
            let Some(state) = self.blocks.get(&block) else {
                continue;
            };
            let range = explored.min(count) as usize..count as usize;
            let acquired = &state.acquired[range];
            if acquired
                .iter()
                .any(|&(word, length)| self.holds(word, length, earlier, time))
            {
                return true;
            }
            for &(word, length) in acquired {
                steps += length as usize + 1;
                if steps > SEARCH_STEPS {
                    return true;
                }
                let releases = &self.words[word as usize].log[..length as usize];
                let news = releases.iter().filter(|release| {
                    release.acquired > known.get(&release.block).copied().unwrap_or(0)
                });
                open.extend(news.map(|release| (release.block, release.acquired)));
            }
        }
        false
    }

    /// Whether `block` released its accesses at `time` among the first `length` releases.
    fn holds(&self, word: u32, length: u32, block: u32, time: u32) -> bool {
        let releases = self.words[word as usize].of_block.get(&block);
        releases.is_some_and(|all| {
            let first = all.partition_point(|&(released, _)| released < time);
            all.get(first)
                .is_some_and(|&(_, position)| position < length)
        })
    }
}
