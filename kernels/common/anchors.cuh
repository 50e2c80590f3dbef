// Anchors of a feature pyramid, made from their index; torchvision's box coder with weights 1.
#pragma once

#include "common/box.cuh"
#include "common/exact.cuh"

constexpr int kMaxLevels = 8;
constexpr int kMaxShapes = 128;

// One level. Its anchors are [height, width, shapes].
struct AnchorLevel {
  int first;  // anchors before it
  int height;
  int width;
  int shapes;
  int first_shape;  // its first in AnchorTable::half_sizes
  float stride_y;
  float stride_x;
};

// Mirrors `AnchorTable` in src/cuda/anchors.rs.
struct AnchorTable {
  float2 half_sizes[kMaxShapes];  // half width, half height
  AnchorLevel levels[kMaxLevels];
  int level_count;
  int anchors;  // of all levels
};
static_assert(sizeof(AnchorLevel) == 28 && sizeof(AnchorTable) == 1256, "mirrored by the host");

// Corners of an anchor, each rounded like the host's `AnchorLevel::anchor`.
__device__ __forceinline__ float4 anchor_box(const AnchorTable& table, const AnchorLevel& level, int y, int x,
                                             int shape) {
  const float2 half = table.half_sizes[level.first_shape + shape];
  const float across = __fmul_rn(static_cast<float>(x), level.stride_x);
  const float down = __fmul_rn(static_cast<float>(y), level.stride_y);
  return make_float4(__fsub_rn(across, half.x), __fsub_rn(down, half.y), __fadd_rn(across, half.x),
                     __fadd_rn(down, half.y));
}

// The anchor of this index within its level.
__device__ __forceinline__ float4 anchor_box(const AnchorTable& table, const AnchorLevel& level, int index) {
  const int cell = index / level.shapes;
  return anchor_box(table, level, cell / level.width, cell % level.width, index % level.shapes);
}

// The level of an anchor's index in the image.
__device__ __forceinline__ int level_of(const AnchorTable& table, int anchor) {
  int level = 0;
  while (level + 1 < table.level_count && anchor >= table.levels[level + 1].first) ++level;
  return level;
}

// ln(1000 / 16): how much a box may grow.
constexpr float kLargestLogScale = 4.1351666f;

// Low and high side of a decoded box along one axis. NaN stays NaN.
__device__ __forceinline__ float2 decode_side(float low, float high, float shift, float log_scale) {
  const float extent = __fsub_rn(high, low);
  const float centre = __fadd_rn(__fmul_rn(shift, extent), __fadd_rn(low, __fmul_rn(0.5f, extent)));
  const float bounded = log_scale > kLargestLogScale ? kLargestLogScale : log_scale;
  const float half = __fmul_rn(0.5f, __fmul_rn(exp_like_cpu(bounded), extent));
  return make_float2(__fsub_rn(centre, half), __fadd_rn(centre, half));
}

__device__ __forceinline__ float4 decode_box(float4 anchor, const float (&deltas)[4]) {
  const float2 x = decode_side(anchor.x, anchor.z, deltas[0], deltas[2]);
  const float2 y = decode_side(anchor.y, anchor.w, deltas[1], deltas[3]);
  return make_float4(x.x, y.x, x.y, y.y);
}
