// Writes the gradients of rows: of those that a warp has summed, and zeros.
#pragma once

#include "attention/sequence.cuh"
#include "common/mma.cuh"
#include "common/shared.cuh"
#include "common/swizzled_tile.cuh"

// Rounds and writes a warp's sums: rows [0, rows) of `to`, `stride` elements apart, those from
// `live` on as zeros. The sums pass through `tile`, 16 M rows of shared memory that no other warp
// touches, so that rows are written 16 bytes a lane. All 32 lanes take part.
template <typename T, int D, int M>
__device__ __forceinline__ void write_rows(const float (&sums)[M][D / 8][4], SwizzledTile<D> tile,
                                           T* to, long long stride, int rows, int live,
                                           int head_dim) {
  // A lane behind may still read the tile.
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = 16 * m + fragment_row() + 8 * half;
        const unsigned both = row < live ? pack(sums[m][n] + 2 * half, T()) : 0;
        store_shared(tile.chunk(row, n) + 2 * fragment_column(), both);
      }
    }
  }
  // A lane writes to memory what others put into the tile.
  __syncwarp();
  for (int i = threadIdx.x % 32; i < 16 * M * (D / 8); i += 32) {
    const int row = i / (D / 8);
    const int chunk = i % (D / 8);
    if (row < rows && 8 * chunk < head_dim) {
      __stwb(reinterpret_cast<uint4*>(to + row * stride + 8 * chunk),
             load_shared(tile.chunk(row, chunk)));
    }
  }
}

// Zeros for rows [0, count) of `to`. All threads of the block take part.
template <typename T>
__device__ __forceinline__ void write_zeros(T* to, long long stride, int count, int head_dim) {
  const int chunks = head_dim / kVector<T>;
  for (long long i = threadIdx.x; i < 1LL * count * chunks; i += blockDim.x) {
    __stwb(reinterpret_cast<uint4*>(to + i / chunks * stride + i % chunks * kVector<T>),
           make_uint4(0, 0, 0, 0));
  }
}

// Zeros for the tokens around a packed sequence that are no sequence's: those behind it, and before
// the first. All threads of the block take part.
template <typename T>
__device__ __forceinline__ void write_gaps(T* to, const Strides& strides, const Sequence& sequence,
                                           const Tokens& tokens, int head, int head_dim) {
  T* const column = to + sequence.batch * strides.batch + head * strides.head;
  const int end = tokens.first + tokens.count;
  write_zeros(column + end * strides.token, strides.token, tokens.end - end, head_dim);
  if (sequence.batch == 0) write_zeros(column, strides.token, tokens.first, head_dim);
}
