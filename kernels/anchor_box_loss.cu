// Box losses of a dense detector: L1 and smooth L1 on encoded deltas, GIoU on decoded boxes, each with its gradient.
//
// Reads:   matched [B, R] i32 (index of a box, any other leaves the row out); of the matched rows deltas [B, H, W, A * 4]
//          T of each level and boxes [B, M, 4] f32; foreground [B] i32 or null; upstream [1] f32 or null
// Writes:  gradients in the shape of deltas, where they are asked for; sums [blocks] f64, then loss [1] f32
// Launch:  anchor_box_loss_pass_T <<<{blocks, B}, 256>>>, then anchor_box_loss_finish_f32 <<<1, 256>>> on the same stream
// Order:   each thread adds its own rows in order, then warp, block and finish add in a fixed tree: the result depends on
//          the number of blocks, and on nothing else
// Cost:    4 bytes a row read and 4 elements written; the matched rows, some hundreds, besides
// Source:  torchvision's RetinaNetRegressionHead.compute_loss; see src/reference/anchor_box_loss.rs
// archs: sm_80

#include "common/anchors.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

#include <cstddef>

namespace {

constexpr int kThreads = 256;

// Mirrors `Scalars` in src/cuda/anchor_box_loss.rs.
struct Scalars {
  int boxes_per_image;
  int giou;           // or else smooth L1, which with beta 0 is L1
  int with_gradient;  // or else the addresses of gradients are 0
  int aligned;        // gradients start at a multiple of four elements
  float beta;
  float normalizer;
};
static_assert(sizeof(Scalars) == 24, "mirrored by the host");

// Where the levels lie: as many as a launch has, so they cannot be arguments of their own.
struct Heads {
  unsigned long long deltas[kMaxLevels];
  unsigned long long gradients[kMaxLevels];
};
static_assert(sizeof(Heads) == 128, "mirrored by the host");

// Loss of a row and its slope along each delta.
struct RowLoss {
  float loss;
  float slope[4];
};

__device__ float side(float4 box, int corner) {
  return corner == 0 ? box.x : corner == 1 ? box.y : corner == 2 ? box.z : box.w;
}

__device__ RowLoss smooth_l1(float4 anchor, float4 box, const float (&deltas)[4], float beta) {
  RowLoss row = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float low = side(anchor, i % 2), extent = side(anchor, i % 2 + 2) - low;
    const float box_low = side(box, i % 2), box_extent = side(box, i % 2 + 2) - box_low;
    const float moved = (box_low + 0.5f * box_extent) - (low + 0.5f * extent);
    const float target = i < 2 ? moved / extent : logf(box_extent / extent);
    const float difference = deltas[i] - target, distance = fabsf(difference);
    // Strictly: with beta 0 nothing is divided by it.
    const bool inner = distance < beta;
    row.loss += inner ? 0.5f * distance * distance / beta : distance - 0.5f * beta;
    const float sign = difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : difference;  // NaN stays
    row.slope[i] = inner ? difference / beta : sign;
  }
  return row;
}

// Slope of max(a, b) along a: ties are shared, as PyTorch's maximum does.
__device__ float share(float a, float b) { return a > b ? 1.0f : a == b ? 0.5f : 0.0f; }

__device__ RowLoss giou(float4 anchor, float4 box, const float (&deltas)[4]) {
  constexpr float kEpsilon = 1e-7f;  // torchvision's
  const float4 decoded = decode_box(anchor, deltas);
  float low[2], high[2], meet[2], enclose[2], slope_meet[2][2], slope_enclose[2][2];
#pragma unroll
  for (int axis = 0; axis < 2; ++axis) {
    const float a = side(decoded, axis), b = side(decoded, axis + 2);
    const float c = side(box, axis), d = side(box, axis + 2);
    low[axis] = a;
    high[axis] = b;
    meet[axis] = fminf(b, d) - fmaxf(a, c);
    enclose[axis] = fmaxf(b, d) - fminf(a, c);
    slope_meet[axis][0] = -share(a, c);
    slope_meet[axis][1] = share(d, b);
    slope_enclose[axis][0] = -share(c, a);
    slope_enclose[axis][1] = share(b, d);
  }
  const bool apart = !(meet[0] > 0.0f && meet[1] > 0.0f);
  const float intersection = apart ? 0.0f : meet[0] * meet[1];
  const float either = box_area(decoded) + box_area(box) - intersection;
  const float hull = enclose[0] * enclose[1];
  const float either_inverse = 1.0f / (either + kEpsilon), hull_inverse = 1.0f / (hull + kEpsilon);
  RowLoss row;
  row.loss = 1.0f - intersection * either_inverse + (hull - either) * hull_inverse;
  const float by_either = intersection * either_inverse * either_inverse - hull_inverse;
  const float by_hull = (either + kEpsilon) * hull_inverse * hull_inverse;
#pragma unroll
  for (int axis = 0; axis < 2; ++axis) {
    const int across = 1 - axis;
    float slope[2];
#pragma unroll
    for (int end = 0; end < 2; ++end) {
      const float of_area = (end == 0 ? -1.0f : 1.0f) * (high[across] - low[across]);
      const float of_intersection = apart ? 0.0f : slope_meet[axis][end] * meet[across];
      slope[end] = by_either * (of_area - of_intersection) - either_inverse * of_intersection +
                   by_hull * slope_enclose[axis][end] * enclose[across];
    }
    const float extent = side(anchor, axis + 2) - side(anchor, axis);
    row.slope[axis] = (slope[0] + slope[1]) * extent;
    const float grown = 0.5f * (high[axis] - low[axis]) * (slope[1] - slope[0]);
    row.slope[axis + 2] = deltas[axis + 2] > kLargestLogScale ? 0.0f : grown;
  }
  return row;
}

// Four elements, by one store where they are aligned to their size.
template <typename T>
__device__ void store_row(T* to, const float (&values)[4], bool aligned) {
  if (!aligned) {
    for (int i = 0; i < 4; ++i) to[i] = from_float<T>(values[i]);
  } else if constexpr (sizeof(T) == 4) {
    __stwb(reinterpret_cast<float4*>(to), make_float4(values[0], values[1], values[2], values[3]));
  } else {
    __stwb(reinterpret_cast<uint2*>(to), make_uint2(pack(values, T()), pack(values + 2, T())));
  }
}

template <typename T>
__device__ void pass(const Scalars& p, const AnchorTable& anchors, const Heads& heads, const float4* boxes,
                     const int* matched, const int* foreground, const float* upstream, double* sums) {
  const int image = blockIdx.y;
  const float rows = foreground == nullptr ? 1.0f : static_cast<float>(max(foreground[image], 1));
  const float weight = 1.0f / (p.normalizer * rows);
  const float scale = upstream == nullptr ? weight : weight * *upstream;
  matched += 1LL * image * anchors.anchors;
  boxes += 1LL * image * p.boxes_per_image;
  double sum = 0.0;
  // In 64 bits: the step behind the last row may pass 2^31.
  for (long long row = 1LL * blockIdx.x * kThreads + threadIdx.x; row < anchors.anchors; row += 1LL * gridDim.x * kThreads) {
    const int anchor = static_cast<int>(row), match = matched[anchor];
    const int l = level_of(anchors, anchor);
    const AnchorLevel& level = anchors.levels[l];
    const int index = anchor - level.first;
    const long long place = 4 * (1LL * image * level.height * level.width * level.shapes + index);
    RowLoss result = {};
    const bool counted = match >= 0 && match < p.boxes_per_image;
    if (counted) {
      const T* from = reinterpret_cast<const T*>(heads.deltas[l]) + place;
      float deltas[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) deltas[i] = to_float(from[i]);
      const float4 shape = anchor_box(anchors, level, index);
      result = p.giou ? giou(shape, boxes[match], deltas) : smooth_l1(shape, boxes[match], deltas, p.beta);
      sum += static_cast<double>(weight * result.loss);
    }
    if (p.with_gradient) {
#pragma unroll
      for (int i = 0; i < 4; ++i) result.slope[i] = counted ? scale * result.slope[i] : 0.0f;
      store_row(reinterpret_cast<T*>(heads.gradients[l]) + place, result.slope, p.aligned);
    }
  }
  const double block = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[1LL * blockIdx.y * gridDim.x + blockIdx.x] = block;
}

}  // namespace

// Adds the sums of all blocks.
extern "C" __global__ void __launch_bounds__(kThreads)
anchor_box_loss_finish_f32(int blocks, const double* sums, float* loss) {
  double sum = 0.0;
  for (int block = threadIdx.x; block < blocks; block += kThreads) sum += sums[block];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum);
}

extern "C" __global__ void __launch_bounds__(kThreads)
anchor_box_loss_pass_f32(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                         const __grid_constant__ Heads heads, const float4* boxes, const int* matched, const int* foreground,
                         const float* upstream, double* sums) {
  pass<float>(p, anchors, heads, boxes, matched, foreground, upstream, sums);
}

extern "C" __global__ void __launch_bounds__(kThreads)
anchor_box_loss_pass_f16(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                         const __grid_constant__ Heads heads, const float4* boxes, const int* matched, const int* foreground,
                         const float* upstream, double* sums) {
  pass<__half>(p, anchors, heads, boxes, matched, foreground, upstream, sums);
}

extern "C" __global__ void __launch_bounds__(kThreads)
anchor_box_loss_pass_bf16(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                          const __grid_constant__ Heads heads, const float4* boxes, const int* matched, const int* foreground,
                          const float* upstream, double* sums) {
  pass<__nv_bfloat16>(p, anchors, heads, boxes, matched, foreground, upstream, sums);
}
