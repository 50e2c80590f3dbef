// What the kernels of the attention backward take.
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

// Buffers that the kernels read; `bias`, and each of the limits, may be null.
template <typename T>
struct BackwardInputs {
  const T* q;
  const T* k;
  const T* v;
  const T* dout;
  const T* bias;
  const float* log_sum_exps;
  const float* deltas;
  Limits limits;
};

// What each kernel of the gradients takes before its outputs, and its inputs.
#define BACKWARD_PARAMETERS(T)                                                                   \
  const __grid_constant__ BackwardScalars scalars, Blocks blocks, const T* q, const T* k,        \
      const T* v, const T* dout, const T* bias, const float* log_sum_exps, const float* deltas,  \
      const int* kv_lengths, const int* offsets_q, const int* offsets_k
#define BACKWARD_INPUTS(T)                                                                       \
  BackwardInputs<T> {                                                                            \
    q, k, v, dout, bias, log_sum_exps, deltas, { kv_lengths, offsets_q, offsets_k }              \
  }
