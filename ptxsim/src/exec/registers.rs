//! Register files of a warp.

use super::lanes::wide;
use super::value::Word;
use crate::memory::LANES;
use crate::program::Program;
use std::marker::PhantomData;
use std::sync::Arc;

/// One register of a warp.
pub type Row<W> = [W; LANES];

/// Marks a source as an index into the constants.
const CONSTANT: u32 = 1 << 31;

/// What an instruction reads: a register slot of the current frame, or a constant.
#[derive(Debug, PartialEq, Eq)]
pub struct Source<W>(u32, PhantomData<fn() -> W>);

impl<W> Clone for Source<W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for Source<W> {}

impl<W> Source<W> {
    /// A register slot.
    pub fn slot(index: u32) -> Self {
        Source(index, PhantomData)
    }
    /// A constant of the program.
    pub fn constant(index: u32) -> Self {
        Source(index | CONSTANT, PhantomData)
    }
    /// Whether it is a constant.
    pub fn is_constant(self) -> bool {
        self.0 & CONSTANT != 0
    }
}

/// A register slot of the current frame that an instruction writes.
#[derive(Debug, PartialEq, Eq)]
pub struct Dest<W>(u32, PhantomData<fn() -> W>);

impl<W> Clone for Dest<W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for Dest<W> {}

impl<W> Dest<W> {
    /// A register slot.
    pub fn slot(index: u32) -> Self {
        Dest(index, PhantomData)
    }
    /// The slot.
    pub fn index(self) -> u32 {
        self.0
    }
    /// The same slot as a source.
    pub fn source(self) -> Source<W> {
        Source::slot(self.0)
    }
}

/// A predicate that an instruction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predicate {
    /// Slot, or a constant: [`Predicate::TRUE`] and [`Predicate::FALSE`].
    slot: u32,
    /// `!p`.
    negated: bool,
}

impl Predicate {
    /// Always true.
    pub const TRUE: Predicate = Predicate {
        slot: CONSTANT,
        negated: true,
    };
    /// Always false.
    pub const FALSE: Predicate = Predicate {
        slot: CONSTANT,
        negated: false,
    };

    /// A register slot, negated or not.
    pub fn slot(slot: u32, negated: bool) -> Predicate {
        Predicate { slot, negated }
    }
}

/// The registers of one width, with the lanes in which each was ever given a defined value.
#[derive(Debug)]
pub struct File<W> {
    rows: Vec<Row<W>>,
    defined: Vec<u32>,
    /// Lanes whose undefined value was computed from others and not only copied; what it says of
    /// defined lanes has no meaning.
    computed: Vec<u32>,
    base: usize,
    constants: Arc<Vec<Row<W>>>,
}

impl<W: Word> File<W> {
    /// A file of `slots` undefined registers.
    pub fn new(slots: usize, constants: Arc<Vec<Row<W>>>) -> File<W> {
        File {
            rows: vec![[W::default(); LANES]; slots],
            defined: vec![0; slots],
            computed: vec![0; slots],
            base: 0,
            constants,
        }
    }

    /// Forgets all values: the start of another block.
    pub fn reset(&mut self) {
        self.defined.fill(0);
        self.computed.fill(0);
        self.base = 0;
    }

    /// Makes a frame of `slots` slots at slot `base`, all undefined in the lanes of `fresh`.
    fn open_frame(&mut self, base: usize, slots: usize, fresh: u32) {
        if self.rows.len() < base + slots {
            self.rows.resize(base + slots, [W::default(); LANES]);
            self.defined.resize(base + slots, 0);
            self.computed.resize(base + slots, 0);
        }
        for defined in &mut self.defined[base..base + slots] {
            *defined &= !fresh;
        }
        for computed in &mut self.computed[base..base + slots] {
            *computed &= !fresh;
        }
    }

    /// Reads a register or constant.
    #[inline(always)]
    pub fn read(&self, source: Source<W>) -> &Row<W> {
        if source.is_constant() {
            &self.constants[(source.0 & !CONSTANT) as usize]
        } else {
            &self.rows[self.base + source.0 as usize]
        }
    }

    /// Lanes in which a register is defined.
    #[inline(always)]
    pub fn defined(&self, source: Source<W>) -> u32 {
        if source.is_constant() {
            u32::MAX
        } else {
            self.defined[self.base + source.0 as usize]
        }
    }

    /// Writes the lanes of `mask`; those not in `defined` become undefined. Not inlined: hundreds of
    /// instructions end with it.
    #[inline(never)]
    pub fn write(&mut self, dest: Dest<W>, mask: u32, defined: u32, values: &Row<W>) {
        let index = self.base + dest.0 as usize;
        let row = &mut self.rows[index];
        if mask == u32::MAX {
            *row = *values;
            self.defined[index] = defined;
        } else {
            wide(|| blend(row, values, mask));
            let old = &mut self.defined[index];
            *old = *old & !mask | defined & mask;
        }
        self.computed[index] &= defined | !mask;
    }

    /// As [`File::write`], of values that were computed: undefined ones are no mere copies.
    #[inline(always)]
    pub fn write_result(&mut self, dest: Dest<W>, mask: u32, defined: u32, values: &Row<W>) {
        self.write(dest, mask, defined, values);
        self.computed[self.base + dest.0 as usize] |= mask & !defined;
    }

    /// Lanes of a register whose undefined value was computed from others. For defined lanes it
    /// says nothing.
    #[inline(always)]
    pub fn computed(&self, source: Source<W>) -> u32 {
        if source.is_constant() {
            0
        } else {
            self.computed[self.base + source.0 as usize]
        }
    }

    /// Copies the lanes of `mask`, of which `keep` selects the bits.
    #[inline(always)]
    pub fn copy(&mut self, dest: Dest<W>, source: Source<W>, mask: u32, keep: W) {
        let (defined, computed) = (self.defined(source), self.computed(source));
        let row = self.read(source).map(|value| value & keep);
        self.write(dest, mask, defined, &row);
        self.computed[self.base + dest.0 as usize] |= computed & mask;
    }

    /// Sets which of the lanes of `mask` are defined, and leaves the values.
    pub fn set_defined(&mut self, dest: Dest<W>, mask: u32, defined: u32) {
        let old = &mut self.defined[self.base + dest.0 as usize];
        *old = *old & !mask | defined & mask;
    }
}

/// Takes the lanes of `mask` from `values`.
#[inline(always)]
fn blend<W: Copy>(row: &mut Row<W>, values: &Row<W>, mask: u32) {
    for (lane, (old, new)) in row.iter_mut().zip(values).enumerate() {
        *old = if mask & 1 << lane != 0 { *new } else { *old };
    }
}

/// Predicate registers: one bit a lane.
#[derive(Debug)]
pub struct PredicateFile {
    bits: Vec<u32>,
    defined: Vec<u32>,
    base: usize,
}

impl PredicateFile {
    /// A file of `slots` undefined predicates.
    pub fn new(slots: usize) -> PredicateFile {
        PredicateFile {
            bits: vec![0; slots],
            defined: vec![0; slots],
            base: 0,
        }
    }

    /// Forgets all values.
    pub fn reset(&mut self) {
        self.defined.fill(0);
        self.base = 0;
    }

    /// As [`File::open_frame`].
    fn open_frame(&mut self, base: usize, slots: usize, fresh: u32) {
        if self.bits.len() < base + slots {
            self.bits.resize(base + slots, 0);
            self.defined.resize(base + slots, 0);
        }
        for defined in &mut self.defined[base..base + slots] {
            *defined &= !fresh;
        }
    }

    /// Lanes in which a predicate is true.
    #[inline(always)]
    pub fn read(&self, predicate: Predicate) -> u32 {
        let bits = match predicate.slot {
            CONSTANT => 0,
            slot => self.bits[self.base + slot as usize],
        };
        if predicate.negated { !bits } else { bits }
    }

    /// Lanes in which a predicate is defined.
    #[inline(always)]
    pub fn defined(&self, predicate: Predicate) -> u32 {
        match predicate.slot {
            CONSTANT => u32::MAX,
            slot => self.defined[self.base + slot as usize],
        }
    }

    /// Writes the lanes of `mask`; those not in `defined` become undefined.
    #[inline(always)]
    pub fn write(&mut self, slot: u32, mask: u32, defined: u32, bits: u32) {
        let index = self.base + slot as usize;
        self.bits[index] = self.bits[index] & !mask | bits & mask;
        self.defined[index] = self.defined[index] & !mask | defined & mask;
    }
}

/// All registers of a warp.
#[derive(Debug)]
pub struct Registers {
    /// Registers of 8 to 32 bits.
    pub words: File<u32>,
    /// 64-bit registers; a 128-bit one is two of them, the low half first.
    pub longs: File<u64>,
    /// Predicates.
    pub predicates: PredicateFile,
}

/// First slot of a frame in each file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameBase {
    /// In [`Registers::words`].
    pub words: u32,
    /// In [`Registers::longs`].
    pub longs: u32,
    /// In [`Registers::predicates`].
    pub predicates: u32,
}

impl Registers {
    /// Undefined registers for the first frame of a program.
    pub fn new(program: &Program) -> Registers {
        let FrameBase {
            words,
            longs,
            predicates,
        } = program.functions[0].slots;
        Registers {
            words: File::new(words as usize, program.words.clone()),
            longs: File::new(longs as usize, program.longs.clone()),
            predicates: PredicateFile::new(predicates as usize),
        }
    }

    /// Forgets all values.
    pub fn reset(&mut self) {
        self.words.reset();
        self.longs.reset();
        self.predicates.reset();
    }

    /// Moves to the frame that starts at `base`.
    pub fn set_base(&mut self, base: FrameBase) {
        self.words.base = base.words as usize;
        self.longs.base = base.longs as usize;
        self.predicates.base = base.predicates as usize;
    }

    /// Makes a frame of `slots` at `base`, all undefined in the lanes of `fresh`.
    pub fn open_frame(&mut self, base: FrameBase, slots: FrameBase, fresh: u32) {
        self.words
            .open_frame(base.words as usize, slots.words as usize, fresh);
        self.longs
            .open_frame(base.longs as usize, slots.longs as usize, fresh);
        self.predicates
            .open_frame(base.predicates as usize, slots.predicates as usize, fresh);
    }

    /// Reads a register or constant.
    #[inline(always)]
    pub fn read<W: Word>(&self, source: Source<W>) -> &Row<W> {
        W::file(self).read(source)
    }

    /// Lanes in which a register is defined.
    #[inline(always)]
    pub fn defined<W: Word>(&self, source: Source<W>) -> u32 {
        W::file(self).defined(source)
    }

    /// Writes the lanes of `mask`; those not in `defined` become undefined.
    #[inline(always)]
    pub fn write<W: Word>(&mut self, dest: Dest<W>, mask: u32, defined: u32, values: &Row<W>) {
        W::file_mut(self).write(dest, mask, defined, values);
    }

    /// As [`File::write_result`].
    #[inline(always)]
    pub fn write_result<W: Word>(
        &mut self,
        dest: Dest<W>,
        mask: u32,
        defined: u32,
        values: &Row<W>,
    ) {
        W::file_mut(self).write_result(dest, mask, defined, values);
    }

    /// As [`File::computed`].
    #[inline(always)]
    pub fn computed<W: Word>(&self, source: Source<W>) -> u32 {
        W::file(self).computed(source)
    }
}
