// The total order of detections, score descending then index ascending, as ascending 64-bit keys.
#pragma once

using Key = unsigned long long;

// Greater than the key of any score and index.
constexpr Key kNoKey = ~0ull;

// Unsigned integers in the order of the floats (NaN excluded); -0 counts as 0.
__device__ __forceinline__ unsigned ordered_bits(float value) {
  const unsigned bits = __float_as_uint(value + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ Key sort_key(float score, int index) {
  return static_cast<Key>(~ordered_bits(score)) << 32 | static_cast<unsigned>(index);
}

__device__ __forceinline__ int key_index(Key key) { return static_cast<int>(key & 0xffffffffu); }

// Sorts `length` keys (a power of two) in shared memory ascending. All threads of the block take
// part, and all may read the result: it starts and ends with a barrier.
__device__ inline void block_sort(Key* keys, int length) {
  for (int span = 2; span <= length; span *= 2) {
    for (int stride = span / 2; stride > 0; stride /= 2) {
      __syncthreads();  // the keys that the step before, or the caller, wrote are visible
      for (int pair = threadIdx.x; pair < length / 2; pair += blockDim.x) {
        const int low = 2 * pair - (pair & (stride - 1));
        const Key a = keys[low], b = keys[low + stride];
        if ((a > b) == ((low & span) == 0)) {
          keys[low] = b;
          keys[low + stride] = a;
        }
      }
    }
  }
  __syncthreads();  // the last step's exchanges are visible
}

// Number of keys in sorted[0, length) below `key`, or not above it where `or_equal`.
__device__ inline int count_below(const Key* sorted, int length, Key key, bool or_equal) {
  int low = 0, high = length;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (sorted[middle] < key || (or_equal && sorted[middle] == key)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}
