// NaN and infinity among values: a probability of 0 times one of them is NaN, also in the rows of
// queries that may not see their key. A tile that some query sees only in part is therefore
// cleaned before the product, and what was removed is added where it may be seen.
#pragma once

#include "attention/isolation.cuh"
#include "attention/sequence.cuh"
#include "common/opaque.cuh"
#include "common/swizzled_tile.cuh"

template <typename T>
__device__ __forceinline__ uint4 finite_elements(uint4 of) {
  return make_uint4(of.x & ~non_finite<T>(of.x), of.y & ~non_finite<T>(of.y),
                    of.z & ~non_finite<T>(of.z), of.w & ~non_finite<T>(of.w));
}

// Zeros what is not finite in those chunks that this thread copied by `copy_rows` with the same
// arguments, and waited for. Whether there was any. The calling thread alone takes part.
template <typename T, int D>
__device__ __forceinline__ bool remove_non_finite(const SwizzledTile<D>& tile, int rows, int chunks,
                                                  int thread, int threads) {
  constexpr int kChunks = SwizzledTile<D>::kChunks;
  const int column = thread % kChunks;
  bool found = false;
  if (column >= chunks) return false;
  for (int row = thread / kChunks; row < rows; row += threads / kChunks) {
    const unsigned address = tile.chunk(row, column);
    const uint4 is = load_shared(address);
    const uint4 clean = finite_elements<T>(is);
    if (is.x != clean.x || is.y != clean.y || is.z != clean.z || is.w != clean.w) {
      store_shared(address, clean);
      found = true;
    }
  }
  return found;
}

// Adds what `remove_non_finite` took from keys [first, end) of `v`, a head's values in global
// memory, to the rows of queries that see it: C fragments of M x 16 rows by D columns, the first of
// row `row`, which `head` maps to a query. An infinity stays one whatever positive weight it has.
template <typename T, int D, int M, typename Head>
__device__ __forceinline__ void restore_non_finite(float (&out)[M][D / 8][4],
                                                   const Head& head, int row, int first, int end) {
  const AttentionScalars& scalars = head.scalars;
  // The rows' bounds are cheaper to compute again, this once, than to keep.
  row = opaque(row);
#pragma unroll 1
  for (int key = first; key < end; ++key) {
    const T* values = head.v + key * scalars.v.token + fragment_column();
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      if (8 * n >= scalars.head_dim) break;
#pragma unroll
      for (int i = 0; i < 2 * M; ++i) {
        const int query = head.query_of(row + 8 * i + fragment_row());
        const bool seen = contains(seen_by(scalars, head.sequence, query), key);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float value = to_float(values[8 * n + e]);
          if (seen && !isfinite(value)) out[i / 2][n][i % 2 * 2 + e] += value;
        }
      }
    }
  }
}
