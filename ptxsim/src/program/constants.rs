//! Constants of a program: immediate operands, spread over the lanes.

use crate::exec::registers::Row;
use crate::memory::LANES;
use std::collections::HashMap;
use std::hash::Hash;

/// Distinct constants of one width, in the order of their first use.
#[derive(Debug)]
pub struct Constants<W> {
    rows: Vec<Row<W>>,
    index: HashMap<W, u32>,
}

impl<W> Default for Constants<W> {
    fn default() -> Self {
        Constants {
            rows: Vec::new(),
            index: HashMap::new(),
        }
    }
}

impl<W: Copy + Eq + Hash> Constants<W> {
    /// Index of a constant.
    pub fn intern(&mut self, value: W) -> u32 {
        *self.index.entry(value).or_insert_with(|| {
            self.rows.push([value; LANES]);
            self.rows.len() as u32 - 1
        })
    }

    /// The rows, by index.
    pub fn into_rows(self) -> Vec<Row<W>> {
        self.rows
    }
}
