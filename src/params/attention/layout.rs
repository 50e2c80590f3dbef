//! Where the heads of a tensor lie.

/// Where the heads of a tensor lie in its buffer: element `(b, n, h, d)` is at `offset + b * batch + n * token + h *
/// head + d`. In elements, each a multiple of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Place of the first element.
    pub offset: usize,
    /// From a sequence to the next. Without effect where sequences are packed.
    pub batch: usize,
    /// From a token to the next.
    pub token: usize,
    /// From a head to the next.
    pub head: usize,
}

impl Layout {
    /// That of a contiguous `[B, N, H, D]`, or of `[T, H, D]` with `tokens` its `T`.
    pub fn contiguous(tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self::columns(tokens, heads * head_dim, 0, head_dim)
    }

    /// That of heads which are columns `offset..` of a contiguous `[B, N, width]`, or of `[T, width]` with `tokens` its
    /// `T`.
    pub fn columns(tokens: usize, width: usize, offset: usize, head_dim: usize) -> Self {
        Self {
            offset,
            batch: tokens * width,
            token: width,
            head: head_dim,
        }
    }

    /// Elements that a buffer needs at least to hold `[batch, tokens, heads, head_dim]`; `None` beyond 2^48.
    pub(crate) fn span(&self, [batch, tokens, heads, head_dim]: [usize; 4]) -> Option<usize> {
        if batch * tokens * heads * head_dim == 0 {
            return Some(0);
        }
        let last = |extent: usize, stride: usize| (extent - 1).checked_mul(stride);
        let steps = [
            last(batch, self.batch)?,
            last(tokens, self.token)?,
            last(heads, self.head)?,
        ];
        let start = self.offset.checked_add(head_dim)?;
        let span = steps.into_iter().try_fold(start, usize::checked_add)?;
        (span <= 1 << 48).then_some(span)
    }

    /// Whether no two elements of `[batch, tokens, heads, head_dim]` share a place, as an output needs: each axis steps
    /// over all that the finer ones span.
    pub(super) fn is_injective(&self, [batch, tokens, heads, head_dim]: [usize; 4]) -> bool {
        if batch * tokens * heads == 0 {
            return true;
        }
        let mut axes = [
            (self.batch, batch),
            (self.token, tokens),
            (self.head, heads),
        ];
        axes.sort_unstable();
        let mut span = head_dim;
        axes.into_iter()
            .filter(|&(_, extent)| extent > 1)
            .all(|(stride, extent)| {
                let steps_over = stride >= span;
                span = span.saturating_add(stride.saturating_mul(extent - 1));
                steps_over
            })
    }

    /// Whether every head starts at a multiple of `step` elements.
    pub(super) fn is_aligned(&self, step: usize) -> bool {
        [self.offset, self.batch, self.token, self.head]
            .iter()
            .all(|stride| stride.is_multiple_of(step))
    }
}
