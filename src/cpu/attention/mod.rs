//! Attention on the CPU.
//!
//! Queries lie in the lanes of vectors: a tile of up to 48 is turned once, and then scores are products of broadcast
//! elements of keys with whole vectors, and the softmax needs no sum across lanes. Every other product broadcasts elements
//! of the scores, in either direction, and reads rows of values, keys or queries as they are. Scores are computed a block of
//! at most 128 keys at a time and never stored as a whole.

mod backward;
mod bias_gradient;
mod dropout;
mod forward;
mod matrix;
mod probabilities;
mod problem;
mod product;
mod scores;
mod slopes;
#[cfg(test)]
mod tests;
mod tile;

#[cfg(target_arch = "x86_64")]
use crate::cpu::lanes::Avx2;
use crate::cpu::lanes::Portable;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Geometry, GradientLayouts, Mask, Qkv};
use forward::{Scratch, SyncPointer, Task};
use problem::{HeadsMut, Problem};
use rayon::prelude::*;
use slopes::{Buffers, Rows};

pub use probabilities::probabilities;

const OP: &str = "attention";

/// Output and log-sum-exp. See [`ops::attention`](crate::ops::attention).
///
/// # Errors
/// When geometry, scalars or lengths do not fit each other.
pub fn forward<T: Float>(
    geometry: &Geometry,
    params: &Attention,
    qkv: Qkv<&[T]>,
    mask: &Mask<&[T], &[i32]>,
    out: &mut [T],
    lse: &mut [f32],
) -> Result<()> {
    forward_with(&kernels(), geometry, params, qkv, mask, out, lse)
}

fn forward_with<T: Float>(
    kernels: &Kernels<T>,
    geometry: &Geometry,
    params: &Attention,
    qkv: Qkv<&[T]>,
    mask: &Mask<&[T], &[i32]>,
    out: &mut [T],
    lse: &mut [f32],
) -> Result<()> {
    let problem = Problem::new(geometry, params, qkv, mask)?;
    let extents = geometry.query_extents();
    problem::check_span("out", out.len(), &geometry.out, extents)?;
    if lse.len() != geometry.rows() {
        let rule = format!("{} elements", geometry.rows());
        return Err(Error::input(OP, "lse", rule, lse.len()));
    }
    // SAFETY: the slice is borrowed mutably for the whole call, holds the layout, as checked, and the geometry's check
    // holds that the layout gives each element one place.
    let out = unsafe { HeadsMut::new(out.as_mut_ptr(), geometry.out, geometry.head_dim) };
    if geometry.packed.is_some() {
        // Some tokens may belong to no sequence.
        lse.fill(f32::NEG_INFINITY);
        // SAFETY: no task has begun.
        unsafe { out.clear(extents) };
    }
    let lse = SyncPointer(lse.as_mut_ptr());
    forward::tasks(&problem)
        .par_iter()
        .for_each_init(Scratch::default, |scratch, task| {
            // SAFETY: no two tasks have a query and a head in common, so none shares a row; the processor has the kernel's
            // instructions.
            unsafe { (kernels.forward)(&problem, task, scratch, &out, &lse) };
        });
    Ok(())
}

/// What the backward pass reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Queries, keys and values.
    pub qkv: Qkv<&'a [T]>,
    /// What limits the scores.
    pub mask: Mask<&'a [T], &'a [i32]>,
    /// Output of the forward pass, laid out as the geometry says.
    pub out: &'a [T],
    /// Its log-sum-exp.
    pub lse: &'a [f32],
    /// Gradient of the output.
    pub dout: &'a [T],
    /// Gradient of the log-sum-exp, where it is used.
    pub dlse: Option<&'a [f32]>,
}

/// Gradients of queries, keys and values, and of the bias where `dbias` is given. See
/// [`ops::attention_backward`](crate::ops::attention_backward).
///
/// # Errors
/// When geometry, layouts, scalars or lengths do not fit each other.
pub fn backward<T: Float>(
    geometry: &Geometry,
    layouts: &GradientLayouts,
    params: &Attention,
    inputs: &Inputs<'_, T>,
    gradients: Qkv<&mut [T]>,
    dbias: Option<&mut [T]>,
) -> Result<()> {
    backward_with(
        &kernels(),
        geometry,
        layouts,
        params,
        inputs,
        gradients,
        dbias,
    )
}

fn backward_with<T: Float>(
    kernels: &Kernels<T>,
    geometry: &Geometry,
    layouts: &GradientLayouts,
    params: &Attention,
    inputs: &Inputs<'_, T>,
    gradients: Qkv<&mut [T]>,
    dbias: Option<&mut [T]>,
) -> Result<()> {
    let problem = Problem::new(geometry, params, inputs.qkv, &inputs.mask)?;
    layouts.check(geometry, size_of::<T>())?;
    let rows = Rows::new(&problem, inputs, layouts.dout)?;
    let gradients = outputs(geometry, layouts, gradients)?;
    backward::tasks(&problem)
        .par_iter()
        .for_each_init(Buffers::default, |buffers, task| {
            // SAFETY: no two tasks have a key head, and so a query head, of one sequence in common, so none shares a row;
            // the processor has the kernel's instructions.
            unsafe { (kernels.backward)(&problem, &rows, task, buffers, &gradients) };
        });
    match dbias {
        Some(dbias) => bias_gradient(&problem, &rows, kernels.bias_gradient, dbias),
        None => Ok(()),
    }
}

/// The gradients to be written, zero where no sequence has a token.
fn outputs<T: Float>(
    geometry: &Geometry,
    layouts: &GradientLayouts,
    gradients: Qkv<&mut [T]>,
) -> Result<backward::Gradients<T>> {
    if let Qkv::Packed(_) = gradients {
        layouts.check_packed(geometry)?;
    }
    let (queries, keys) = (geometry.query_extents(), geometry.key_extents());
    let parts = [
        ("dq", layouts.dq, queries),
        ("dk", layouts.dk, keys),
        ("dv", layouts.dv, keys),
    ];
    let lens = gradients.parts().map(|part| part.len());
    for ((argument, layout, extents), len) in parts.iter().zip(lens) {
        problem::check_span(argument, len, layout, *extents)?;
    }
    let pointers = match gradients {
        Qkv::Separate { q, k, v } => [q, k, v].map(<[T]>::as_mut_ptr),
        Qkv::Packed(all) => [all.as_mut_ptr(); 3],
    };
    // SAFETY: the slices are borrowed mutably for the whole call and hold their layouts, as checked; each layout gives an
    // element one place, and in one buffer they share none, which the layouts' checks hold.
    let [dq, dk, dv] = std::array::from_fn(|part| unsafe {
        let heads = HeadsMut::new(pointers[part], parts[part].1, geometry.head_dim);
        if geometry.packed.is_some() {
            heads.clear(parts[part].2);
        }
        heads
    });
    Ok(backward::Gradients { dq, dk, dv })
}

/// The gradient of the bias, a task a tile of its rows.
fn bias_gradient<T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    kernel: BiasGradient<T>,
    dbias: &mut [T],
) -> Result<()> {
    let geometry = problem.geometry;
    let Some([batch, heads]) = geometry.bias.filter(|_| dbias.len() == geometry.bias_len()) else {
        let rule = format!("{} elements", geometry.bias_len());
        return Err(Error::input(OP, "dbias", rule, dbias.len()));
    };
    let rows_of_task = bias_gradient::ROWS_OF_TASK;
    let matrices = dbias
        .par_chunks_mut((geometry.queries * geometry.keys).max(1))
        .enumerate();
    matrices.for_each(|(matrix, dbias)| {
        let share =
            |own: usize, all: usize, index: usize| if own == 1 { 0..all } else { index..index + 1 };
        let users = bias_gradient::Users {
            sequences: share(batch, geometry.batch, matrix / heads),
            heads: share(heads, geometry.heads, matrix % heads),
        };
        let tiles = dbias
            .par_chunks_mut((rows_of_task * geometry.keys).max(1))
            .enumerate();
        tiles.for_each_init(Buffers::default, |buffers, (tile, dbias)| {
            // SAFETY: the processor has the kernel's instructions.
            unsafe { kernel(problem, rows, &users, tile * rows_of_task, buffers, dbias) };
        });
    });
    Ok(())
}

type Forward<T> = unsafe fn(&Problem<'_, T>, &Task<'_>, &mut Scratch, &HeadsMut<T>, &SyncPointer);
type Backward<T> = unsafe fn(
    &Problem<'_, T>,
    &Rows<'_, T>,
    &backward::Task<'_>,
    &mut Buffers,
    &backward::Gradients<T>,
);
type BiasGradient<T> =
    unsafe fn(&Problem<'_, T>, &Rows<'_, T>, &bias_gradient::Users, usize, &mut Buffers, &mut [T]);

/// The three kernels in one set of instructions.
struct Kernels<T> {
    forward: Forward<T>,
    backward: Backward<T>,
    bias_gradient: BiasGradient<T>,
}

/// Compiles the kernels for a kind of vectors, with these attributes.
macro_rules! kernels {
    ($name:ident, $Lanes:ty $(, #[$attribute:meta])?) => {
        fn $name<T: Float>() -> Kernels<T> {
            /// # Safety
            /// As [`forward::run`], on a processor with the instructions.
            $(#[$attribute])?
            unsafe fn forward<T: Float>(
                problem: &Problem<'_, T>,
                task: &Task<'_>,
                scratch: &mut Scratch,
                out: &HeadsMut<T>,
                lse: &SyncPointer,
            ) {
                // SAFETY: the same promises.
                unsafe { forward::run::<$Lanes, T>(problem, task, scratch, out, lse) }
            }
            /// # Safety
            /// As [`backward::run`], on a processor with the instructions.
            $(#[$attribute])?
            unsafe fn backward<T: Float>(
                problem: &Problem<'_, T>,
                rows: &Rows<'_, T>,
                task: &backward::Task<'_>,
                buffers: &mut Buffers,
                gradients: &backward::Gradients<T>,
            ) {
                // SAFETY: the same promises.
                unsafe { backward::run::<$Lanes, T>(problem, rows, task, buffers, gradients) }
            }
            /// # Safety
            /// The processor has the instructions.
            $(#[$attribute])?
            unsafe fn bias_gradient<T: Float>(
                problem: &Problem<'_, T>,
                rows: &Rows<'_, T>,
                users: &bias_gradient::Users,
                first: usize,
                buffers: &mut Buffers,
                to: &mut [T],
            ) {
                bias_gradient::run::<$Lanes, T>(problem, rows, users, first, buffers, to);
            }
            Kernels { forward, backward, bias_gradient }
        }
    };
}

kernels!(portable, Portable);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, Avx2, #[target_feature(enable = "avx2,fma")]);

/// The fastest that this processor has the instructions for.
fn kernels<T: Float>() -> Kernels<T> {
    #[cfg(target_arch = "x86_64")]
    if Avx2::is_available() {
        return avx2();
    }
    portable()
}
