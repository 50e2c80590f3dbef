// What the kernels of the attention backward take beside their buffers.
#pragma once

#include "attention/scalars.cuh"
#include "attention/sequence.cuh"

// Mirrors `BackwardScalars` in src/cuda/attention/backward/scalars.rs.
struct BackwardScalars {
  AttentionScalars forward;
  Strides dout;
  Strides dq;
  Strides dk;
  Strides dv;
  long long statistics;  // from the statistics of a head to the next
};
static_assert(sizeof(BackwardScalars) == sizeof(AttentionScalars) + 104, "mirrored by the host");
static_assert(offsetof(BackwardScalars, statistics) == sizeof(AttentionScalars) + 96,
              "mirrored by the host");

// Each sequence's statistics start at a multiple of so many rows and fill such groups, so that
// every tile of queries copies whole ones. The most queries of a tile.
constexpr int kStatisticsGroup = 128;

// Where the statistics of a head's queries start: [B, H, groups], or packed [H, tokens and a group
// more for each sequence]. Sequences do not meet: the next starts its tokens and a group later, and
// its start is rounded down by less than a group.
__device__ __forceinline__ long long statistics_start(const BackwardScalars& scalars,
                                                      const Sequence& sequence, int head,
                                                      bool packed) {
  if (!packed) return (1LL * sequence.batch * scalars.forward.heads + head) * scalars.statistics;
  const int group = sequence.queries.first / kStatisticsGroup + sequence.batch;
  return head * scalars.statistics + 1LL * group * kStatisticsGroup;
}

// This block in the other order: under a causal mask the first keys are seen by the most queries,
// and what is long should not start last.
__device__ __forceinline__ Block first_block_first(const Blocks& blocks) {
  Block block = this_block(blocks);
  block.tile = blocks.tiles - 1 - block.tile;
  return block;
}
