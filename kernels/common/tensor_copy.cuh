// Copies of boxes between tensors in global memory and shared memory by the copy engine (TMA), for
// sm_90.
//
// A tensor map, made by src/cuda/tensor_map.rs, says where the tensor lies and how large a box is. Here
// tensors are [batch, head, token, column] and boxes [1, 1, tokens, 64] of 16-bit elements. A box lies in
// shared memory as rows of 128 bytes, chunk c of row r at place c ^ (r % 8) (a SwizzledTile<64>), and
// zeros stand for what is outside of the tensor.
#pragma once

#include "common/mbarrier.cuh"

// A kernel parameter, declared `const __grid_constant__`.
struct alignas(64) TensorMap {
  unsigned long long opaque[16];
};
static_assert(sizeof(TensorMap) == 128, "what the driver writes");

constexpr int kBoxColumns = 64;
constexpr int kBoxRowBytes = 2 * kBoxColumns;

// Where a box starts.
struct Corner {
  int column;
  int token;
  int head;
  int batch;
};

// Brings the map to where the copy engine looks. One thread.
__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Starts the copy of a box to `to`, a multiple of 1024, which counts its bytes, zeros included, on
// `barrier`. One thread; those who wait for the barrier see the box.
__device__ __forceinline__ void copy_box(unsigned to, const TensorMap& map, const Corner& from,
                                         Mbarrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(from.column), "r"(from.token), "r"(from.head), "r"(from.batch),
      "r"(barrier.address)
      : "memory");
}

// Copies `blocks` boxes beside each other, of `bytes` each, from column 0 on. One thread.
__device__ __forceinline__ void copy_boxes(unsigned to, int bytes, int blocks, const TensorMap& map,
                                           Corner from, Mbarrier barrier) {
  for (int block = 0; block < blocks; ++block) {
    from.column = block * kBoxColumns;
    copy_box(to + block * bytes, map, from, barrier);
  }
}

// Starts the copy of `bytes`, a multiple of 16 as the addresses are, from global memory. One thread.
__device__ __forceinline__ void copy_bytes(unsigned to, const void* from, int bytes,
                                           Mbarrier barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier.address)
      : "memory");
}
