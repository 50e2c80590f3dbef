// Sorting of more keys than a block has threads, in shared memory.
#pragma once

#include "common/order.cuh"

// The network is the bitonic one in the form that always sorts upwards: the first step of a span compares
// each key with its mirror image in the span, the others with the one a stride behind. Keys kNoKey at the
// end then never move, and steps among them alone are left out.

__device__ __forceinline__ void put_in_order(Key& first, Key& second) {
  const Key smaller = min(first, second);
  second = max(first, second);
  first = smaller;
}

// Where sort_in_registers keeps key i of the order that it works on: each 16 keys, two rows of the
// 32 banks, are permuted among themselves so that half a warp meets no bank twice, whether its threads
// read neighbours or places 16 apart.
__device__ __forceinline__ int bank_place(int i) { return i ^ (i >> 4 & 15); }

// The calling thread sorts the 16 keys from `first`, a multiple of 16.
__device__ inline void sort_sixteen(Key* keys, int first) {
  Key held[16];
#pragma unroll
  for (int j = 0; j < 16; ++j) held[j] = keys[bank_place(first + j)];
#pragma unroll
  for (int span = 2; span <= 16; span *= 2) {
#pragma unroll
    for (int stride = span / 2; stride > 0; stride /= 2) {
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        if (j & stride) continue;
        put_in_order(held[j], held[stride == span / 2 ? j ^ (span - 1) : j + stride]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 16; ++j) keys[bank_place(first + j)] = held[j];
}

// The calling thread does Steps steps, the last with stride `step`, on the 2^Steps keys that depend on
// each other, the `task`th of all such sets. MIRRORED: the first of a span, so the upper half of the keys
// is taken from the span's end downwards, and sorted downwards in that view.
template <int Steps, bool MIRRORED>
__device__ inline void merge_steps(Key* keys, int task, int step, int live) {
  constexpr int kKeys = 1 << Steps;
  const int offset = task % step, base = task / step * step * kKeys;
  if (base + offset >= live) return;
  const auto place = [&](int j) {
    const int within = j * step + offset;
    const bool mirrored = MIRRORED && j >= kKeys / 2;
    return bank_place(base + (mirrored ? 3 * (kKeys / 2) * step - 1 - within : within));
  };
  Key held[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) held[j] = keys[place(j)];
#pragma unroll
  for (int stride = kKeys / 2; stride > 0; stride /= 2) {
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      if (j & stride) continue;
      const bool downwards = MIRRORED && j >= kKeys / 2;
      put_in_order(held[downwards ? j + stride : j], held[downwards ? j : j + stride]);
    }
  }
#pragma unroll
  for (int j = 0; j < kKeys; ++j) keys[place(j)] = held[j];
}

// All threads: Steps steps of the whole array.
template <int Steps, bool MIRRORED>
__device__ inline void merge_all(Key* keys, int length, int step, int live) {
  __syncthreads();  // the keys that the pass before wrote are visible
#pragma unroll 1
  for (int task = threadIdx.x; task < length >> Steps; task += blockDim.x) {
    merge_steps<Steps, MIRRORED>(keys, task, step, live);
  }
}

// Up to four steps a barrier, on 16 keys a thread: a quarter of the shared memory traffic, which bounds
// the sort of many keys a thread. `length` is at least 32.
__device__ inline void sort_in_registers(Key* keys, int length, int live) {
  live = (live + 15) & ~15;  // bank_place moves keys within 16
  __syncthreads();           // the caller's keys are visible
#pragma unroll 1
  for (int first = 16 * threadIdx.x; first < live; first += 16 * blockDim.x) sort_sixteen(keys, first);
#pragma unroll 1
  for (int log = 5; 1 << log <= length; ++log) {
    // The strides that are left after these go by fours, from 16^k / 2 down.
    const int rest = log - 1 & ~3;
    switch (log - rest) {
      case 1: merge_all<1, true>(keys, length, 1 << rest, live); break;
      case 2: merge_all<2, true>(keys, length, 1 << rest, live); break;
      case 3: merge_all<3, true>(keys, length, 1 << rest, live); break;
      default: merge_all<4, true>(keys, length, 1 << rest, live); break;
    }
#pragma unroll 1
    for (int step = (1 << rest) / 16; step > 0; step /= 16) merge_all<4, false>(keys, length, step, live);
  }
  __syncthreads();  // the last pass is visible
  for (int i = threadIdx.x; i < live; i += blockDim.x) {
    // Half a warp puts its 16 keys in order; live is a multiple of 16, so no half is parted.
    const unsigned half = 0xffffu << (threadIdx.x & 16);
    const Key key = keys[bank_place(i)];
    __syncwarp(half);  // all 16 have read their keys before one is overwritten
    keys[i] = key;
  }
  __syncthreads();  // the keys in their places are visible
}

// As block_sort, where the keys from `live` on are kNoKey. Whole warps.
__device__ inline void long_sort(Key* keys, int length, int live) {
  // For two keys a thread, barriers and latency count for more than traffic.
  if (length <= 2 * static_cast<int>(blockDim.x)) {
    block_sort(keys, length);
  } else {
    sort_in_registers(keys, length, min(live, length));
  }
}
