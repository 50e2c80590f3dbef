//! What the backward pass and the gradient of the bias have in common: the probabilities and the gradients of the scores
//! of a tile of queries against a block of keys.

use super::dropout::kept_scales;
use super::problem::{Heads, Problem, Sequence, heads};
use super::product::ROWS;
use super::scores::{self, Place, Scores};
use super::tile::{Block, QUERIES, Tile, transpose};
use super::{Inputs, OP};
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::attention::Layout;

/// What the backward pass reads of each query.
pub(super) struct Rows<'a, T> {
    out: Heads<'a, T>,
    dout: Heads<'a, T>,
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

/// A tile of queries of one head, with all that the backward pass needs of them. Columns are `[head_dim, 8 * vectors]`.
pub(super) struct State {
    pub(super) tile: Tile,
    pub(super) queries: Vec<f32>,
    pub(super) dout: Vec<f32>,
    /// `+inf` for queries without a part in any gradient, so that their probabilities are 0.
    lse: [f32; QUERIES],
    /// `dout . out - dlse`.
    mean: [f32; QUERIES],
}

impl State {
    #[inline(always)]
    pub(super) fn new<V: Lanes, T: Float>(
        problem: &Problem<'_, T>,
        rows: &Rows<'_, T>,
        sequence: &Sequence,
        head: usize,
        first: usize,
    ) -> Self {
        let tile = Tile::new(problem, sequence, first);
        let dim = problem.geometry.head_dim;
        let size = dim * tile.vectors() * LANES;
        let (mut queries, mut dout) = (vec![0.0; size], vec![0.0; size]);
        let (mut lse, mut mean) = ([f32::INFINITY; QUERIES], [0.0; QUERIES]);
        let token = |lane: usize| (sequence.batch, sequence.first_query + first + lane, head);
        for lane in 0..tile.count {
            let at = problem.row_index(sequence, head, first + lane);
            if rows.lse[at] != f32::NEG_INFINITY {
                let (batch, token, head) = token(lane);
                let out = rows.out.row(batch, token, head);
                let dout = rows.dout.row(batch, token, head);
                let product: f32 = out
                    .iter()
                    .zip(dout)
                    .map(|(a, b)| a.to_f32() * b.to_f32())
                    .sum();
                lse[lane] = rows.lse[at];
                mean[lane] = product - rows.dlse.map_or(0.0, |dlse| dlse[at]);
            }
        }
        let takes_part = |lane: usize| lane < tile.count && lse[lane] != f32::INFINITY;
        let q = |lane: usize| {
            let (batch, token, head) = token(lane);
            takes_part(lane).then(|| problem.q.row(batch, token, head))
        };
        let of_dout = |lane: usize| {
            let (batch, token, head) = token(lane);
            takes_part(lane).then(|| rows.dout.row(batch, token, head))
        };
        transpose::<V, T>(tile.vectors(), dim, q, &mut queries);
        transpose::<V, T>(tile.vectors(), dim, of_dout, &mut dout);
        Self {
            tile,
            queries,
            dout,
            lse,
            mean,
        }
    }
}

/// Buffers of a thread.
pub(super) struct Buffers {
    /// Scores, then probabilities with dropout applied.
    pub(super) probabilities: Scores,
    /// Gradients of the probabilities, then of the scores.
    pub(super) slopes: Scores,
    bias: Scores,
    kept: Scores,
    cap: Scores,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            probabilities: scores::room(),
            slopes: scores::room(),
            bias: scores::room(),
            kept: scores::room(),
            cap: scores::room(),
        }
    }
}

/// What gradients of the scores are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Of `s`, which the bias takes.
    Scores,
    /// Of `q . k`: through the soft cap and the scale.
    Products,
}

/// Fills the probabilities and the slopes of a tile against a block: 0 where a query does not see a key, and in the rows
/// that fill the last four.
#[inline(always)]
pub(super) fn fill<V: Lanes, T: Float, const W: usize>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    state: &State,
    [keys, values]: [&Block; 2],
    of: Of,
    buffers: &mut Buffers,
) {
    let (dim, width, view) = (problem.geometry.head_dim, W * LANES, place.view);
    let Buffers {
        probabilities,
        slopes,
        bias,
        kept,
        cap,
    } = buffers;
    scores::dot::<V, W>(view, dim, keys, &state.queries, probabilities);
    scores::finish::<V, T, W>(problem, place, probabilities, bias, Some(&mut *cap));
    scores::dot::<V, W>(view, dim, values, &state.dout, slopes);
    if let Some(dropout) = &problem.dropout {
        let head = place.sequence.index * problem.geometry.heads + place.head;
        let all = place.block + view.keys.start..place.block + view.keys.end;
        kept_scales(dropout, head, state.tile.first, all, W, kept);
    }
    let is_capped = of == Of::Products && problem.softcap != 0.0;
    let scale = if of == Of::Products {
        problem.scale
    } else {
        1.0
    };
    for key in view.keys.clone() {
        for w in 0..W {
            let at = key * width + w * LANES;
            // SAFETY: every buffer holds a row for each key of a block, of which `at` is within that of `key`; `w` is
            // below 3, the vectors of the arrays.
            unsafe {
                let kept = match problem.dropout {
                    Some(_) => V::load(kept.as_ptr().add(at - view.keys.start * width)),
                    None => V::splat(1.0),
                };
                let mut p = V::load(probabilities.as_ptr().add(at))
                    .sub(V::load(state.lse.as_ptr().add(w * LANES)))
                    .exp();
                let dp = V::load(slopes.as_ptr().add(at)).mul(kept);
                let mut ds = p.mul(dp.sub(V::load(state.mean.as_ptr().add(w * LANES))));
                if view.is_masked {
                    p = view.select(w, key, p, V::splat(0.0));
                    ds = view.select(w, key, ds, V::splat(0.0));
                }
                if is_capped {
                    ds = ds.mul(V::load(cap.as_ptr().add(at)));
                }
                p.mul(kept).store(probabilities.as_mut_ptr().add(at));
                ds.mul(V::splat(scale)).store(slopes.as_mut_ptr().add(at));
            }
        }
    }
    let end = view.keys.end * width;
    let filled = view.keys.end.next_multiple_of(ROWS) * width;
    probabilities[end..filled].fill(0.0);
    slopes[end..filled].fill(0.0);
}
