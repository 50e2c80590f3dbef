// One tile of the attention backward in f32, without tensor cores: error like f32.
//
// A block of kThreads threads owns R rows (keys where KEY_ROWS holds, else queries) and has C
// columns (the other ones) streamed past them. Vectors of both kinds lie in shared memory in rows
// of kPitch floats; 4 more than D, so that neighbouring rows' 16 bytes lie in different banks.
#pragma once

#include "attention/backward_scalars.cuh"
#include "attention/backward_write.cuh"
#include "attention/dropout.cuh"
#include "attention/softmax.cuh"
#include "common/async_copy.cuh"

constexpr int kThreads = 256;

template <int D_, int R_, int C_>
struct FloatTile {
  static constexpr int D = D_, R = R_, C = C_;
  static constexpr int kPitch = D + 4;
  // Scores of a thread: ROWS rows, R / ROWS apart, by COLUMNS columns.
  static constexpr int COLUMNS = C >= 32 ? 2 : 1;
  static constexpr int ROWS = R * C / kThreads / COLUMNS;
  static constexpr int kRowGroups = R / ROWS, kColumnGroups = C / COLUMNS;
  static_assert(kRowGroups * kColumnGroups == kThreads, "each score has its thread");
  // Sums of a thread: 4 neighbouring elements of SUM_ROWS neighbouring rows, 64 elements apart.
  static constexpr int SUM_ROWS = R / 16;
  // Weights lie by columns, so far apart that those which a warp stores lie in different banks.
  static constexpr int kWeightPitch = R + 32 / kColumnGroups;
  static constexpr int kOwnFloats = R * kPitch;
  static constexpr int kTileFloats = C * kPitch;
  static constexpr int kWeightFloats = C * kWeightPitch;
  static constexpr int kBytes = 4 * (2 * kOwnFloats + 2 * kTileFloats + 2 * kWeightFloats);
};

// What stands for the weight of a pair that may not see each other. A weight that is computed is
// never this number.
__device__ __forceinline__ float unseen_weight() { return -0.0f; }
__device__ __forceinline__ bool is_unseen(float weight) {
  return __float_as_uint(weight) == 0x80000000u;
}

// Starts the copies of rows [0, rows) of `from`, of which those from `present` on are zeros, to
// rows of kPitch floats. All threads take part.
template <typename Tile>
__device__ __forceinline__ void copy_floats(float* to, const float* from, long long stride,
                                            int rows, int present, int head_dim) {
  constexpr int kChunks = Tile::D / 4;
  const int chunk = threadIdx.x % kChunks;
  for (int row = threadIdx.x / kChunks; row < rows; row += kThreads / kChunks) {
    const bool valid = row < present && 4 * chunk < head_dim;
    copy_async(shared_address(to + row * Tile::kPitch + 4 * chunk),
               valid ? from + row * stride + 4 * chunk : from, valid);
  }
}

// Products of a thread's rows and columns over head_dim.
template <typename Tile>
__device__ __forceinline__ void multiply_floats(float (&products)[Tile::ROWS][Tile::COLUMNS],
                                                const float* rows, const float* columns,
                                                int head_dim) {
  const float* const row = rows + threadIdx.x / Tile::kColumnGroups * Tile::kPitch;
  const float* const column = columns + threadIdx.x % Tile::kColumnGroups * Tile::kPitch;
#pragma unroll
  for (int r = 0; r < Tile::ROWS; ++r) {
#pragma unroll
    for (int c = 0; c < Tile::COLUMNS; ++c) products[r][c] = 0.0f;
  }
#pragma unroll 2
  for (int d = 0; d < head_dim; d += 4) {
    float4 b[Tile::COLUMNS];
#pragma unroll
    for (int c = 0; c < Tile::COLUMNS; ++c) {
      const int place = c * Tile::kColumnGroups * Tile::kPitch + d;
      b[c] = *reinterpret_cast<const float4*>(column + place);
    }
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
      const int place = r * Tile::kRowGroups * Tile::kPitch + d;
      const float4 a = *reinterpret_cast<const float4*>(row + place);
#pragma unroll
      for (int c = 0; c < Tile::COLUMNS; ++c) {
        float sum = fmaf(a.x, b[c].x, products[r][c]);
        sum = fmaf(a.y, b[c].y, sum);
        sum = fmaf(a.z, b[c].z, sum);
        products[r][c] = fmaf(a.w, b[c].w, sum);
      }
    }
  }
}

// A head of a sequence, and its statistics; lse is natural here.
struct FloatHead {
  const AttentionScalars& scalars;
  const Sequence& sequence;
  const float* bias;  // of this head, or null
  const float* log_sum_exps;
  const float* deltas;
  int number;  // b * H + h
};

// What multiplies dout in dv, and the gradient of the score, of one pair.
struct Weights {
  float probability;
  float slope;
};

// From q . k and dout . v of a pair. RAW: the slope is that of q . k, else of the score with its
// bias. See `differentiate` in backward_step.cuh for the formula.
template <bool RAW>
__device__ __forceinline__ Weights weigh(const FloatHead& head, int query, int key, float product,
                                         float from_value) {
  const AttentionScalars& scalars = head.scalars;
  const bool exists = query < head.sequence.queries.count;
  if (!exists || !contains(seen_by(scalars, head.sequence, query), key)) {
    return {unseen_weight(), unseen_weight()};
  }
  float score = scalars.scale * product;
  float through_cap = 1.0f;
  if (scalars.softcap != 0.0f) {
    const float inner = score / scalars.softcap;
    score = scalars.softcap * tanhf(inner);
    // 1 - tanh^2, which has no digits left where the tangent is near 1.
    const float t = expf(-2.0f * fabsf(inner));
    through_cap = 4.0f * t / ((1.0f + t) * (1.0f + t));
  }
  if (head.bias != nullptr) score += head.bias[1LL * query * scalars.keys + key];
  float probability = expf(score - head.log_sum_exps[query]);
  float kept = 1.0f;
  if (scalars.dropout_threshold != 0) {
    const unsigned keys = kept_keys(scalars, head.number, query, key / 4);
    kept = keys >> key % 4 & 1 ? scalars.kept_scale : 0.0f;
  }
  const float dropped = kept == 0.0f ? 0.0f : kept * from_value;
  float slope = probability * (dropped - head.deltas[query]);
  if (RAW) slope *= through_cap * scalars.scale;
  // A slope of -0 becomes 0.
  return {kept * probability, slope + 0.0f};
}

// sums += weights^T * columns: weights by columns, [C, kWeightPitch]. SOME_UNSEEN: there may be
// pairs that do not see each other, whose column is passed over, whatever it holds.
template <typename Tile, bool SOME_UNSEEN>
__device__ __forceinline__ void accumulate_floats(
    float (&sums)[Tile::SUM_ROWS][Tile::D / 64][4], const float* weights, const float* columns,
    int head_dim) {
  const float* const weight = weights + threadIdx.x / 16 * Tile::SUM_ROWS;
  const float* const column = columns + threadIdx.x % 16 * 4;
#pragma unroll 2
  for (int c = 0; c < Tile::C; ++c) {
    float w[Tile::SUM_ROWS];
#pragma unroll
    for (int r = 0; r < Tile::SUM_ROWS; r += 2) {
      const float2 two = *reinterpret_cast<const float2*>(weight + c * Tile::kWeightPitch + r);
      w[r] = two.x;
      w[r + 1] = two.y;
    }
#pragma unroll
    for (int d = 0; d < Tile::D / 64; ++d) {
      if (64 * d >= head_dim) break;
      const float4 x = *reinterpret_cast<const float4*>(column + c * Tile::kPitch + 64 * d);
      const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int r = 0; r < Tile::SUM_ROWS; ++r) {
        if (SOME_UNSEEN && is_unseen(w[r])) continue;
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[r][d][e] = fmaf(w[r], values[e], sums[r][d][e]);
      }
    }
  }
}

// Writes a block's sums: rows [0, rows) of `to`. All threads take part.
template <typename Tile>
__device__ __forceinline__ void write_floats(
    const float (&sums)[Tile::SUM_ROWS][Tile::D / 64][4], float* to, long long stride, int rows,
    int head_dim) {
#pragma unroll
  for (int r = 0; r < Tile::SUM_ROWS; ++r) {
    const int row = threadIdx.x / 16 * Tile::SUM_ROWS + r;
#pragma unroll
    for (int d = 0; d < Tile::D / 64; ++d) {
      const int element = 64 * d + threadIdx.x % 16 * 4;
      if (row < rows && element < head_dim) store_vector(to + row * stride + element, sums[r][d]);
    }
  }
}
