// The smallest keys of a stream, whatever their order, in shared memory.
#pragma once

#include "common/order.cuh"

// The float of a key.
__device__ __forceinline__ float key_score(Key key) {
  const unsigned ascending = ~static_cast<unsigned>(key >> 32);
  return __uint_as_float(ascending >> 31 ? ascending ^ 0x80000000u : ~ascending);
}

// Keeps the `most` smallest keys below `limit`. Keys are appended to `keys`, of `capacity`, a power of
// two above `most`, in any order; when they are full, all are sorted, the best kept and `limit` lowered to
// the worst of these. Keys are distinct, so what is kept in the end does not depend on the order.
struct BestKeys {
  Key* keys;
  int* stored;  // in shared memory; above `capacity` where keys found no room
  int capacity;
  int most;
  Key limit;

  // All threads of the block.
  __device__ void start() {
    if (threadIdx.x == 0) *stored = 0;
    __syncthreads();  // the count is visible to those who append
  }

  // One thread. False where there is no room: then to be tried again after `make_room`.
  __device__ bool append(Key key) {
    if (key >= limit) return true;
    const int place = atomicAdd(stored, 1);
    if (place >= capacity) return false;
    keys[place] = key;
    return true;
  }

  // All threads of the block. Makes room and returns true where one of them waits for it.
  __device__ bool make_room(bool waiting) {
    // Before the cut, all have appended what they could.
    if (!__syncthreads_or(waiting)) return false;
    cut();
    return true;
  }

  // All threads of the block, after a barrier behind the last `append`. Leaves the `most` best sorted
  // at the front and returns how many there are, at most `most`.
  __device__ int finish() {
    const int count = min(*stored, capacity);
    int length = 2;
    while (length < count) length *= 2;
    for (int i = count + threadIdx.x; i < length; i += blockDim.x) keys[i] = kNoKey;
    block_sort(keys, length);
    return min(count, most);
  }

  // All threads of the block, after a barrier behind the last `append`, with at least `most` keys.
  __device__ void cut() {
    finish();
    limit = keys[most - 1];
    __syncthreads();  // all have read the count and the limit before both are overwritten
    if (threadIdx.x == 0) *stored = most;
    __syncthreads();  // the count is visible to those who append
  }
};
