// What every attention kernel takes beside its buffers.
#pragma once

#include "common/params.cuh"

#include <cstddef>

// Steps in elements. Mirrors `Strides` in src/cuda/attention/scalars.rs.
struct Strides {
  long long batch;  // 0 where sequences are packed
  long long token;
  long long head;
};

// Mirrors `Scalars` in src/cuda/attention/scalars.rs. Counts are below 2^28.
struct AttentionScalars {
  Strides q;
  Strides k;
  Strides v;
  Strides out;
  long long bias_batch;  // steps between biases, 0 where one serves all
  long long bias_head;
  int batch;
  int heads;
  int kv_heads;
  int queries;  // of a sequence; where sequences are packed, at most
  int keys;
  int head_dim;
  int total_queries;  // tokens of all packed sequences
  int total_keys;
  Divisor by_group;  // query heads that share a key head
  float scale;
  float softcap;     // 0 for none
  int window_left;   // 2^29 for none
  int window_right;
  unsigned dropout_threshold;  // 0 for none
  float kept_scale;
  unsigned seed_low;
  unsigned seed_high;
};
static_assert(sizeof(AttentionScalars) == 184, "mirrored by the host");
static_assert(offsetof(AttentionScalars, bias_batch) == 96, "mirrored by the host");
static_assert(offsetof(AttentionScalars, batch) == 112, "mirrored by the host");
static_assert(offsetof(AttentionScalars, by_group) == 144, "mirrored by the host");
static_assert(offsetof(AttentionScalars, scale) == 152, "mirrored by the host");
static_assert(offsetof(AttentionScalars, dropout_threshold) == 168, "mirrored by the host");

// A one-dimensional grid over (sequence, head, tile), the tile running fastest: blocks that run at
// a time share keys in the L2 cache. Mirrors `Blocks` in src/cuda/attention/scalars.rs.
struct Blocks {
  Divisor by_tiles;
  Divisor by_heads;
  int tiles;
  int heads;
};
static_assert(sizeof(Blocks) == 24, "mirrored by the host");

// Which block this is. The last tile comes first: under a causal mask it is the longest, and what
// is long should not start last.
struct Block {
  int batch;
  int head;
  int tile;
};

__device__ __forceinline__ Block this_block(const Blocks& blocks) {
  const int heads = divide(blockIdx.x, blocks.by_tiles);
  const int batch = divide(heads, blocks.by_heads);
  const int place = static_cast<int>(blockIdx.x) - heads * blocks.tiles;
  return {batch, heads - batch * blocks.heads, blocks.tiles - 1 - place};
}
