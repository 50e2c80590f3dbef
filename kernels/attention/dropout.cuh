// Which probabilities are dropped: a counter-based generator, so that both directions agree.
#pragma once

#include "attention/scalars.cuh"
#include "common/mma.cuh"
#include "common/reduce.cuh"

// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).
__device__ __forceinline__ uint4 philox(uint4 counter, unsigned key_low, unsigned key_high) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned low0 = counter.x * 0xD2511F53u, high0 = __umulhi(counter.x, 0xD2511F53u);
    const unsigned low1 = counter.z * 0xCD9E8D57u, high1 = __umulhi(counter.z, 0xCD9E8D57u);
    counter = make_uint4(high1 ^ counter.y ^ key_low, low1, high0 ^ counter.w ^ key_high, low0);
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

// Which of keys 4 * group to 4 * group + 3 query `query` of head `head` (b * H + h) keeps: bit j
// for key 4 * group + j.
__device__ __forceinline__ unsigned kept_keys(const AttentionScalars& scalars, int head, int query,
                                              int group) {
  const uint4 words = philox(make_uint4(group, query, head, 0), scalars.seed_low,
                             scalars.seed_high);
  const unsigned threshold = scalars.dropout_threshold;
  return (words.x >= threshold) | (words.y >= threshold) << 1 | (words.z >= threshold) << 2 |
         (words.w >= threshold) << 3;
}

// From the draws of one row's four keys, as `kept_keys` gives them, to the elements of a C [16
// queries x 8 keys] that are kept: bit i for c[i]. Two neighbouring lanes share four keys: the even
// one draws for fragment_row(), the odd one for the row 8 below; drawn_row() and drawn_group() say
// what. All lanes take part.
__device__ __forceinline__ unsigned kept_of_pair(unsigned mine) {
  const int odd = threadIdx.x % 2;
  const unsigned other = __shfl_xor_sync(kFullWarp, mine, 1);
  const unsigned upper = odd ? other : mine, lower = odd ? mine : other;
  return (upper >> (2 * odd) & 3) | (lower >> (2 * odd) & 3) << 2;
}
__device__ __forceinline__ int drawn_row() { return fragment_row() + 8 * (threadIdx.x % 2); }
__device__ __forceinline__ int drawn_group() { return threadIdx.x % 4 / 2; }

// Which elements of a C [16 queries x 8 keys] that starts at (query, key), key a multiple of 4, are
// kept: bit i for c[i]. All lanes take part.
__device__ __forceinline__ unsigned kept_in_fragment(const AttentionScalars& scalars, int head,
                                                     int query, int key) {
  return kept_of_pair(kept_keys(scalars, head, query + drawn_row(), key / 4 + drawn_group()));
}

// The same of a C [16 keys x 8 queries] that starts at (key, query), key a multiple of 4. Four lanes
// 4 apart share the draws of four keys for their four elements: each makes those of one element.
// All lanes take part.
__device__ __forceinline__ unsigned kept_in_transposed_fragment(const AttentionScalars& scalars,
                                                                int head, int key, int query) {
  const int place = threadIdx.x % 16 / 4;
  const int group = threadIdx.x % 32 / 16;
  const unsigned mine = kept_keys(scalars, head, query + fragment_column() + place % 2,
                                  key / 4 + place / 2 * 2 + group);
  unsigned kept = 0;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const unsigned keys = __shfl_sync(kFullWarp, mine, group * 16 + e * 4 + threadIdx.x % 4);
    kept |= (keys >> place & 1) << e;
  }
  return kept;
}
