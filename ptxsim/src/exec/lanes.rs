//! The loops over the 32 lanes of a warp.
//!
//! `map1` to `map4` turn a scalar function into an instruction. A result is defined in the lanes
//! in which all operands are. Functions run for inactive lanes, too, on whatever their registers
//! hold, so they must be total.

use super::registers::{Dest, Registers, Row, Source};
use super::step::Step;
use super::value::{Value, Word};
use crate::memory::LANES;
use crate::program::Execute;
use std::hint::black_box;
use std::marker::PhantomData;

/// A loop over lanes. `run` must be `#[inline(always)]`: it is compiled twice.
pub trait LaneLoop: Send + Sync + 'static {
    /// Executes the instruction in the lanes of `mask`; `WIDE` where AVX2 and FMA may be used.
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32);
}

/// A row made lane by lane. Only the wide loop is worth vectorising: the other one is for machines
/// without AVX2, and is kept small because there are hundreds.
#[inline(always)]
pub fn row<const WIDE: bool, W: Word>(f: impl Fn(usize) -> W) -> Row<W> {
    if WIDE {
        return std::array::from_fn(f);
    }
    let mut row = [W::default(); LANES];
    for lane in 0..black_box(LANES) {
        row[lane % LANES] = f(black_box(lane) % LANES);
    }
    row
}

/// Whether this machine has AVX2 and FMA.
#[inline(always)]
fn is_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Calls `f`, which should inline, compiled for the best instruction set of this machine.
#[inline(always)]
pub fn wide<T>(f: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn call<T>(f: impl FnOnce() -> T) -> T {
            f()
        }
        if is_wide() {
            // SAFETY: the features were just detected.
            return unsafe { call(f) };
        }
    }
    f()
}

/// Makes an instruction of a loop, compiled for the best instruction set of this machine.
pub fn instruction<L: LaneLoop>(lane_loop: L) -> Execute {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn run_wide<L: LaneLoop>(lane_loop: &L, registers: &mut Registers, mask: u32) {
            lane_loop.run::<true>(registers, mask);
        }
        if is_wide() {
            return Box::new(move |warp, mask| {
                // SAFETY: the features were just detected.
                unsafe { run_wide(&lane_loop, warp.registers, mask) };
                Step::Next
            });
        }
    }
    Box::new(move |warp, mask| {
        lane_loop.run::<false>(warp.registers, mask);
        Step::Next
    })
}

macro_rules! map {
    ($(#[$doc:meta])* $name:ident, $loop:ident, $($arg:ident $ty:ident),*) => {
        struct $loop<$($ty: Value,)* R: Value, F> {
            dest: Dest<R::Word>,
            $($arg: Source<$ty::Word>,)*
            f: F,
            types: PhantomData<fn() -> ($($ty,)* R)>,
        }

        impl<$($ty: Value,)* R: Value, F> LaneLoop for $loop<$($ty,)* R, F>
        where
            F: Fn($($ty),*) -> R + Send + Sync + 'static,
        {
            #[inline(always)]
            fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
                let defined = u32::MAX $(& registers.defined(self.$arg))*;
                $(let $arg = registers.read(self.$arg);)*
                let out = row::<WIDE, R::Word>(|i| (self.f)($($ty::from_word($arg[i])),*).to_word());
                registers.write(self.dest, mask, defined, &out);
            }
        }

        $(#[$doc])*
        pub fn $name<$($ty: Value,)* R: Value>(
            dest: Dest<R::Word>,
            $($arg: Source<$ty::Word>,)*
            f: impl Fn($($ty),*) -> R + Send + Sync + 'static,
        ) -> Execute {
            instruction($loop { dest, $($arg,)* f, types: PhantomData })
        }
    };
}

map!(
    /// A function of one operand.
    map1, Map1, a A
);
map!(
    /// A function of two operands.
    map2, Map2, a A, b B
);
map!(
    /// A function of three operands.
    map3, Map3, a A, b B, c C
);
map!(
    /// A function of four operands.
    map4, Map4, a A, b B, c C, d D
);
