// Rows of 16-bit elements in shared memory that are read by column without bank conflicts.
#pragma once

#include "common/async_copy.cuh"
#include "common/mma.cuh"

// Rows of COLUMNS 16-bit elements, in chunks of 16 bytes. Chunk c of row r lies at place
// c ^ (r % 8): eight rows' chunks of one column lie in different banks, so that neither ldmatrix
// nor a fragment's stores conflict, and a row's chunks stay in its 128 bytes, so that neither
// do copies of whole rows.
template <int COLUMNS>
struct SwizzledTile {
  static_assert(COLUMNS % 64 == 0, "a row is whole passes over the 32 banks of 4 bytes");
  static constexpr int kRowBytes = COLUMNS * 2;
  static constexpr int kChunks = COLUMNS / 8;

  unsigned address;  // in shared memory, a multiple of 128

  __device__ __forceinline__ unsigned chunk(int row, int chunk) const {
    return address + row * kRowBytes + ((chunk ^ (row & 7)) << 4);
  }

  // Address that a lane gives to load the 16 x 16 elements at (row, 8 * chunk), row a multiple of 8
  // and chunk of 2: as A, or transposed as two B whose k is the rows. The second pair of matrices is
  // the right half.
  __device__ __forceinline__ unsigned by_rows(int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    return from_corner(this->chunk(lane % 16, lane / 16), row, chunk);
  }

  // The same as two B whose k is the columns. The second pair of matrices is the lower half.
  __device__ __forceinline__ unsigned by_columns(int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    return from_corner(this->chunk(lane % 8 + lane / 16 * 8, lane / 8 % 2), row, chunk);
  }

  // Starts the copies of rows [0, rows) from `from`, `stride` elements apart, of which those from
  // `present` on are zeros. A row has `chunks` chunks, rounded up to an even number with zeros,
  // since products take 16 columns at a time. `threads` threads take part, of which this is number
  // `thread`.
  template <typename T>
  __device__ __forceinline__ void copy_rows(const T* from, long long stride, int rows, int present,
                                            int chunks, int thread, int threads) const {
    const int column = thread % kChunks;
    if (column >= ((chunks + 1) & ~1)) return;
    for (int row = thread / kChunks; row < rows; row += threads / kChunks) {
      const bool valid = row < present && column < chunks;
      const T* source = valid ? from + row * stride + column * 8 : from;
      copy_async(chunk(row, column), source, valid);
    }
  }

 private:
  // From a lane's address at (0, 0) to its address at (row, chunk): bits 5 and 6, of which the
  // lane's own row has its share, are exclusive-ored, and the rest is added, which an instruction
  // does for nothing. So a lane keeps one address a tile, not one a column.
  static __device__ __forceinline__ unsigned from_corner(unsigned corner, int row, int chunk) {
    return (corner ^ ((chunk & 6) << 4)) + row * kRowBytes + (chunk >> 3 << 7);
  }
};
