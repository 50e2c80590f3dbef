// The products that a warpgroup starts in the attention kernels for sm_90a: 64 rows with a tile of columns,
// which gives scores, and weights with the rows of a tile.
#pragma once

#include "common/swizzled_tile.cuh"
#include "common/tensor_copy.cuh"
#include "common/wgmma.cuh"

// Rows as tensor copies leave them: blocks of 64 columns, BLOCK_ROWS rows each. One may start at any
// multiple of 8 of its rows.
template <int BLOCK_ROWS>
struct BlockedTile {
  static constexpr int kBlockBytes = BLOCK_ROWS * kBoxRowBytes;
  static constexpr int kBlockChunks = kBoxColumns / 8;

  unsigned address;

  __device__ __forceinline__ SwizzledTile<kBoxColumns> block(int number) const {
    return {address + number * kBlockBytes};
  }
  __device__ __forceinline__ BlockedTile from_row(int row) const {
    return {address + row * kBoxRowBytes};
  }
  // As SwizzledTile's.
  __device__ __forceinline__ unsigned by_rows(int row, int chunk) const {
    return block(chunk / kBlockChunks).by_rows(row, chunk % kBlockChunks);
  }
};

// Starts products = rows columns^T of 64 rows, as a group of products.
template <typename T, int D, int N, int COLUMNS>
__device__ __forceinline__ void start_scores(float (&products)[1][N][4],
                                             BlockedTile<kGroupRows> rows,
                                             BlockedTile<COLUMNS> columns) {
  pin(products[0]);
  begin_products();
  const Operand a = along_rows(rows.address), b = along_rows(columns.address);
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    const int block = step / 4, within = step % 4 * 32;
    multiply_async(products[0], a.advance(block * rows.kBlockBytes + within),
                   b.advance(block * columns.kBlockBytes + within), step > 0, T());
  }
  commit_products();
}

// Starts sums += weights columns, as a group of products.
template <typename T, int N, int STEPS, int COLUMNS>
__device__ __forceinline__ void start_sums(float (&sums)[1][N][4], unsigned (&weights)[1][STEPS][4],
                                           BlockedTile<COLUMNS> columns) {
  pin(sums[0]);
  pin(weights[0]);
  begin_products();
  const Operand b = down_rows(columns.address, columns.kBlockBytes);
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    multiply_async(sums[0], weights[0][step], b.advance(step * 16 * kBoxRowBytes), T());
  }
  commit_products();
}
