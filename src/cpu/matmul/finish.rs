//! What follows the sums of a row: bias, residual, activation, rounding.

use super::kernel::OUTPUTS;
use crate::dtype::Float;
use crate::params::Activation;
use std::marker::PhantomData;

/// `act(sum + bias + residual)`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Finish<'a, T> {
    /// One an output.
    pub bias: Option<&'a [T]>,
    /// One an element of the result.
    pub residual: Option<&'a [T]>,
    pub activation: Activation,
}

impl<T> Default for Finish<'_, T> {
    fn default() -> Self {
        Self {
            bias: None,
            residual: None,
            activation: Activation::None,
        }
    }
}

impl<T: Float> Finish<'_, T> {
    pub(super) fn check(&self, outputs: usize, len: usize) {
        assert!(self.bias.is_none_or(|bias| bias.len() == outputs), "bias");
        assert!(
            self.residual.is_none_or(|residual| residual.len() == len),
            "residual"
        );
    }

    /// Writes the results of at most 16 neighbouring outputs from `output` on, which stand at `at`
    /// in the result.
    #[inline(always)]
    pub(super) fn row(&self, sums: &[f32; OUTPUTS], output: usize, at: usize, out: &mut [T]) {
        let mut values = *sums;
        let len = out.len();
        if let Some(bias) = self.bias {
            add(&mut values, &bias[output..output + len]);
        }
        if let Some(residual) = self.residual {
            add(&mut values, &residual[at..at + len]);
        }
        self.activation.apply(&mut values);
        match <&mut [T; OUTPUTS]>::try_from(&mut *out) {
            // Of known length, so that no copy is a call.
            Ok(out) => T::narrow(&values, out),
            Err(_) => T::narrow(&values[..len], out),
        }
    }
}

#[inline(always)]
fn add<T: Float>(values: &mut [f32; OUTPUTS], terms: &[T]) {
    let mut wide = [0.0; OUTPUTS];
    match <&[T; OUTPUTS]>::try_from(terms) {
        Ok(terms) => T::widen(terms, &mut wide),
        Err(_) => T::widen(terms, &mut wide[..terms.len()]),
    }
    for (value, term) in values.iter_mut().zip(wide) {
        *value += term;
    }
}

/// A result `[rows, outputs]` that several threads write, each its own elements.
pub(in crate::cpu) struct Scatter<'a, T> {
    first: *mut T,
    len: usize,
    outputs: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: `write` is the only use of the pointer, and its caller answers for different threads
// writing different elements.
unsafe impl<T: Send> Sync for Scatter<'_, T> {}

impl<'a, T: Float> Scatter<'a, T> {
    pub(in crate::cpu) fn new(out: &'a mut [T], outputs: usize) -> Self {
        Self {
            first: out.as_mut_ptr(),
            len: out.len(),
            outputs,
            borrow: PhantomData,
        }
    }

    /// Asks for the cache lines that [`write`](Self::write) will use.
    #[inline(always)]
    pub(in crate::cpu) fn prefetch(&self, row: usize, output: usize, finish: &Finish<'_, T>) {
        let at = row * self.outputs + output;
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch of any address is allowed, and SSE is part of x86-64. The pointers are made without
            // the promise of `add` that they stay within their buffers.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(self.first.wrapping_add(at).cast());
                if let Some(residual) = finish.residual {
                    _mm_prefetch::<_MM_HINT_T0>(residual.as_ptr().wrapping_add(at).cast());
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, finish);
    }

    /// Finishes and writes the (at most 16) outputs from `output` on of a row.
    ///
    /// # Safety
    /// No other thread writes these outputs of this row.
    pub(in crate::cpu) unsafe fn write(
        &self,
        row: usize,
        output: usize,
        sums: &[f32; OUTPUTS],
        finish: &Finish<'_, T>,
    ) {
        let count = OUTPUTS.min(self.outputs - output);
        let at = row * self.outputs + output;
        assert!(at + count <= self.len, "a row of the result");
        // SAFETY: the elements lie in the result, as was just checked, which is borrowed for `'a`;
        // the caller holds that nobody else writes them, and nothing reads them meanwhile.
        let out = unsafe { std::slice::from_raw_parts_mut(self.first.add(at), count) };
        finish.row(sums, output, at, out);
    }
}
