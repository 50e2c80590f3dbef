//! What the backward pass and the gradient of the bias have in common: the probabilities and the gradients of the scores
//! of a tile of queries against a block of keys.

use super::dropout::kept_scales;
use super::matrix::{LINE, Matrix};
use super::problem::{Heads, Problem, Sequence, heads};
use super::product::Product;
use super::scores::{self, Place, VECTORS};
use super::tile::{Block, QUERIES, Tile, transpose};
use super::{Inputs, OP};
use crate::cpu::lanes::LANES;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::attention::Layout;

/// What the backward pass reads of each query.
pub(super) struct Rows<'a, T> {
    out: Heads<'a, T>,
    pub(super) dout: Heads<'a, T>,
    lse: &'a [f32],
    dlse: Option<&'a [f32]>,
}

impl<'a, T: Float> Rows<'a, T> {
    /// Checks the lengths of everything.
    pub(super) fn new(
        problem: &Problem<'_, T>,
        inputs: &Inputs<'a, T>,
        dout: Layout,
    ) -> Result<Self> {
        let extents = problem.geometry.query_extents();
        for (argument, rows) in [("lse", Some(inputs.lse)), ("dlse", inputs.dlse)] {
            let len = rows.map_or(problem.geometry.rows(), <[f32]>::len);
            if len != problem.geometry.rows() {
                let rule = format!("{} elements", problem.geometry.rows());
                return Err(Error::input(OP, argument, rule, len));
            }
        }
        Ok(Self {
            out: heads("out", inputs.out, problem.geometry.out, extents)?,
            dout: heads("dout", inputs.dout, dout, extents)?,
            lse: inputs.lse,
            dlse: inputs.dlse,
        })
    }
}

/// A tile of queries of one head, with all that the backward pass needs of them.
pub(super) struct State {
    pub(super) tile: Tile,
    /// The queries and the gradient of the output, `[head_dim, width]`.
    queries: Matrix,
    dout: Matrix,
    /// `+inf` for queries without a part in any gradient, so that their probabilities are 0.
    lse: [f32; QUERIES],
    /// `dout . out - dlse`.
    mean: [f32; QUERIES],
}

impl State {
    #[inline(always)]
    pub(super) fn new<V: Product, T: Float>(
        problem: &Problem<'_, T>,
        rows: &Rows<'_, T>,
        sequence: &Sequence,
        head: usize,
        first: usize,
    ) -> Self {
        let tile = Tile::new(problem, sequence, first);
        let dim = problem.geometry.head_dim;
        let (mut lse, mut mean) = ([f32::INFINITY; QUERIES], [0.0; QUERIES]);
        for lane in 0..tile.count {
            let at = problem.row_index(sequence, head, first + lane);
            if rows.lse[at] != f32::NEG_INFINITY {
                let token = sequence.first_query + first + lane;
                let out = rows.out.row(sequence.batch, token, head);
                let dout = rows.dout.row(sequence.batch, token, head);
                lse[lane] = match rows.lse[at] {
                    // Of an infinite score, whose row is NaN.
                    f32::INFINITY => f32::NAN,
                    lse => lse,
                };
                mean[lane] = dot(out, dout) - rows.dlse.map_or(0.0, |dlse| dlse[at]);
            }
        }
        let mut state = Self {
            tile,
            queries: Matrix::default(),
            dout: Matrix::default(),
            lse,
            mean,
        };
        let (mut queries, mut dout) = (Matrix::default(), Matrix::default());
        let width = state.tile.width();
        let row = |lane| state.row(&problem.q, sequence, head, lane);
        transpose::<V, T>(width, dim, row, &mut queries);
        let row = |lane| state.row(&rows.dout, sequence, head, lane);
        transpose::<V, T>(width, dim, row, &mut dout);
        (state.queries, state.dout) = (queries, dout);
        state
    }

    /// A query's row of a tensor, unless the query has no part in any gradient.
    fn row<'a, T>(
        &self,
        of: &Heads<'a, T>,
        sequence: &Sequence,
        head: usize,
        lane: usize,
    ) -> Option<&'a [T]> {
        let token = sequence.first_query + self.tile.first + lane;
        let takes_part = lane < self.tile.count && self.lse[lane] != f32::INFINITY;
        takes_part.then(|| of.row(sequence.batch, token, head))
    }

    /// The tile's rows of a tensor: zeros for queries without a part in any gradient.
    #[inline(always)]
    pub(super) fn block<V: Product, T: Float>(
        &self,
        of: &Heads<'_, T>,
        sequence: &Sequence,
        head: usize,
    ) -> Block {
        let mut block = Block::default();
        block.fill_with::<V, T>(self.tile.count, of.head_dim, |lane| {
            self.row(of, sequence, head, lane)
        });
        block
    }
}

/// The sum of the products, in eight lanes.
#[inline(always)]
fn dot<T: Float>(a: &[T], b: &[T]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (a, b) in a
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(b.as_chunks::<LANES>().0)
    {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.to_f32().mul_add(b.to_f32(), *sum);
        }
    }
    sums.into_iter().sum()
}

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    /// Scores, then probabilities with dropout applied.
    pub(super) probabilities: Matrix,
    /// Gradients of the probabilities, then of the scores.
    pub(super) slopes: Matrix,
    bias: Matrix,
    kept: Matrix,
    cap: Matrix,
}

/// What gradients of the scores are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Of `s`, which the bias takes.
    Scores,
    /// Of `q . k`: through the soft cap and the scale.
    Products,
}

/// Fills the probabilities and the slopes of a tile against a block: 0 where a query does not see a key.
#[inline(always)]
pub(super) fn fill<V: Product, T: Float>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    state: &State,
    [keys, values]: [&Block; 2],
    of: Of,
    buffers: &mut Buffers,
) {
    let (dim, view) = (problem.geometry.head_dim, place.view);
    let Buffers {
        probabilities,
        slopes,
        bias,
        kept,
        cap,
    } = buffers;
    scores::dot::<V>(place, dim, keys, &state.queries, probabilities);
    scores::finish::<V, T>(problem, place, probabilities, bias, Some(&mut *cap));
    scores::dot::<V>(place, dim, values, &state.dout, slopes);
    if let Some(dropout) = &problem.dropout {
        let head = place.sequence.index * problem.geometry.heads + place.head;
        let all = place.block + view.keys.start..place.block + view.keys.end;
        kept_scales(
            dropout,
            head,
            state.tile.first,
            all,
            state.tile.width(),
            kept,
        );
    }
    let factors = Factors {
        scale: match of {
            Of::Products => problem.scale,
            Of::Scores => 1.0,
        },
        cap: (of == Of::Products && problem.softcap != 0.0).then_some(&*cap),
        kept: problem.dropout.map(|_| &*kept),
    };
    if factors.cap.is_none() && factors.kept.is_none() && !view.is_masked {
        differentiate::<V, true>(place, state, &factors, probabilities, slopes);
    } else {
        differentiate::<V, false>(place, state, &factors, probabilities, slopes);
    }
}

/// What slopes are multiplied by.
struct Factors<'a> {
    scale: f32,
    /// The soft cap's slope, a row a key of the block.
    cap: Option<&'a Matrix>,
    /// What dropout multiplies probabilities by, a row a key of the view.
    kept: Option<&'a Matrix>,
}

/// Turns scores into probabilities, and their gradients into those of the scores. `PLAIN`: there is neither a mask nor a cap
/// nor dropout.
#[inline(always)]
fn differentiate<V: Product, const PLAIN: bool>(
    place: Place<'_>,
    state: &State,
    factors: &Factors<'_>,
    probabilities: &mut Matrix,
    slopes: &mut Matrix,
) {
    let view = place.view;
    let (scale, zero, one) = (V::splat(factors.scale), V::splat(0.0), V::splat(1.0));
    let optional = |matrix: Option<&Matrix>, row: usize, first: usize| match matrix {
        // SAFETY: the slice is a line.
        Some(matrix) => unsafe { scores::load(matrix.row(row)[first..first + LINE].as_ptr()) },
        None => [one; VECTORS],
    };
    let stride = slopes.stride();
    assert_eq!(probabilities.stride(), stride, "rows of one length");
    for first in (0..state.tile.width()).step_by(LINE) {
        let mut at_p = probabilities.line(&view.keys, first);
        let mut at_ds = slopes.line(&view.keys, first);
        // SAFETY: the slices are lines; so are the addresses, of a key of the view.
        unsafe {
            let lse: [V; VECTORS] = scores::load(state.lse[first..first + LINE].as_ptr());
            let mean: [V; VECTORS] = scores::load(state.mean[first..first + LINE].as_ptr());
            for key in view.keys.clone() {
                let (score, dp) = (scores::load::<V>(at_p), scores::load::<V>(at_ds));
                let (mut kept, mut cap) = ([one; VECTORS], [one; VECTORS]);
                if !PLAIN {
                    kept = optional(factors.kept, key - view.keys.start, first);
                    cap = optional(factors.cap, key, first);
                }
                for v in 0..VECTORS {
                    let mut p = score[v].sub(lse[v]).exp();
                    let mut ds = p.mul(dp[v].mul(kept[v]).sub(mean[v]));
                    if !PLAIN && view.is_masked {
                        p = view.select(first / LANES + v, key, p, zero);
                        ds = view.select(first / LANES + v, key, ds, zero);
                    }
                    p.mul(kept[v]).store(at_p.add(v * LANES));
                    ds.mul(cap[v]).mul(scale).store(at_ds.add(v * LANES));
                }
                (at_p, at_ds) = (at_p.wrapping_add(stride), at_ds.wrapping_add(stride));
            }
        }
    }
}
