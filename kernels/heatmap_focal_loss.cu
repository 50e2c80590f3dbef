// Penalty-reduced focal loss of corner heatmaps: its sum and, in the same pass, its gradient.
//
// Reads:   logits [B, H, W, K] T; targets: a map [B, H, W, K] f32, or bumps [B, M] of
//          corner_targets_boxes_f32; upstream [1] f32 or null
// Writes:  gradient [B, H, W, K] T or null, sums [B * tiles] f64, then loss [1] f32
// Launch:  <<<B * tiles, 256>>>; then heatmap_focal_loss_finish_f32 <<<1, 256>>> on the same stream
// Order:   each thread adds its own elements in order, then warp, block and finish add in a fixed tree
//          that depends on the shape and the type alone. Both forms of the targets give the same bits
// Cost:    each logit read, each gradient written and each target read once; from bumps 16 bytes a box and
//          tile instead of the targets. 80 PTX instructions an element of f32
// Source:  Law and Deng, "CornerNet", 2018, equation 1; see src/reference/heatmap_focal_loss.rs
// archs: sm_80

#include "common/bumps.cuh"
#include "common/focal.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

#include <cstddef>
#include <type_traits>

namespace {

constexpr int kThreads = 256;
constexpr int kVectorsPerTile = 8;

// Mirrors `Scalars` in src/cuda/heatmap_focal_loss.rs.
struct Scalars {
  Heatmap map;
  int boxes;      // an image
  int per_image;  // elements
  int tiles;      // an image
  int aligned;    // logits, targets and gradient start at multiples of 16 bytes, and so does each image
  float alpha;
  float beta;
  float scale;  // of the gradient, before upstream
  float bound;  // logits beyond it either way are clamped
  float low;    // unweighted loss of a wrong answer clamped from below
  float high;   // and from above
};
static_assert(sizeof(Scalars) == 64, "mirrored by the host");
static_assert(offsetof(Scalars, alpha) == 40, "mirrored by the host");

// Loss and scaled slope of a logit. STANDARD: alpha is 2 and beta 4.
template <typename T, bool STANDARD>
__device__ __forceinline__ Element element(float x, float target, const Scalars& scalars, float scale) {
  const bool positive = target == 1.0f;
  const float z = positive ? -x : x;
  Element of = focal<T, STANDARD>(z, scalars.alpha, 0.0f);
  if (z < -scalars.bound) of = {scalars.low, 0.0f};
  if (z > scalars.bound) of = {scalars.high, 0.0f};
  const float distance = 1.0f - target;
  const float squared = distance * distance;
  const float reduced = STANDARD ? squared * squared : powf(distance, scalars.beta);
  const float weight = positive ? 1.0f : reduced;
  // A select, not a product: what is left out may be NaN.
  if (!(target <= 1.0f)) return {0.0f, 0.0f};
  return {weight * of.loss, weight * of.slope * (positive ? -scale : scale)};
}

// Puts gradients in place of a thread's logits, `count` or where WHOLE all, and returns the sum of their
// losses.
template <typename T, bool STANDARD, bool WHOLE>
__device__ __forceinline__ float replace(float (&values)[kVector<T>], const float (&targets)[kVector<T>],
                                         int count, const Scalars& scalars, float scale) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (!WHOLE && i >= count) break;
    const Element of = element<T, STANDARD>(values[i], targets[i], scalars, scale);
    sum += of.loss;
    values[i] = of.slope;
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ void load(const T* from, int count, bool wide, float (&values)[kVector<T>]) {
  if (wide) {
    load_vector(from, values);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] = i < count ? to_float(from[i]) : 0.0f;
}

// As many targets as a vector of T has elements: one or two vectors of floats.
template <typename T>
__device__ __forceinline__ void load_targets(const float* from, int count, bool wide,
                                             float (&values)[kVector<T>]) {
#pragma unroll
  for (int half = 0; half < kVector<T>; half += 4) {
    float four[4];
    load(from + half, count - half, wide, four);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[half + i] = four[i];
  }
}

template <typename T, bool FROM_BUMPS>
__device__ __forceinline__ void pass(const Scalars& scalars, const T* logits, const float* map,
                                     const Bump* bumps, double* sums, const float* upstream, T* gradient) {
  constexpr int V = kVector<T>;
  constexpr int kTile = kVectorsPerTile * kThreads * V;
  __shared__ std::conditional_t<FROM_BUMPS, Nearby, int> nearby;
  const int image = blockIdx.x / scalars.tiles;
  const int start = (blockIdx.x - image * scalars.tiles) * kTile;
  const int end = min(start + kTile, scalars.per_image);
  const long long offset = 1LL * image * scalars.per_image;
  if constexpr (FROM_BUMPS) {
    nearby.collect(scalars.map, bumps + 1LL * image * scalars.boxes, scalars.boxes, start, end);
  }
  const float scale = upstream != nullptr ? scalars.scale * *upstream : scalars.scale;
  const bool standard = scalars.alpha == 2.0f && scalars.beta == 4.0f;
  float sum = 0.0f;
  for (int first = start + threadIdx.x * V; first < end; first += kThreads * V) {
    const int count = min(V, end - first);
    const bool wide = scalars.aligned && count == V;
    float values[V], targets[V];
    load(logits + offset + first, count, wide, values);
    if constexpr (FROM_BUMPS) {
      nearby.targets(scalars.map, first, targets);
    } else {
      load_targets<T>(map + offset + first, count, wide, targets);
    }
    if (standard && count == V) {
      sum += replace<T, true, true>(values, targets, count, scalars, scale);
    } else if (standard) {
      sum += replace<T, true, false>(values, targets, count, scalars, scale);
    } else {
      sum += replace<T, false, false>(values, targets, count, scalars, scale);
    }
    if (gradient == nullptr) continue;
    if (wide) {
      store_vector(gradient + offset + first, values);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (i < count) gradient[offset + first + i] = from_float<T>(values[i]);
      }
    }
  }
  const double block = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = block;
}

}  // namespace

// Adds the sums of all blocks and normalises.
extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_finish_f32(int blocks, float normalizer, const double* sums, float* loss) {
  double sum = 0.0;
  for (int block = threadIdx.x; block < blocks; block += kThreads) sum += sums[block];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / normalizer);
}

extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_map_f32(Scalars scalars, const float* logits, const float* map, double* sums,
                           const float* upstream, float* gradient) {
  pass<float, false>(scalars, logits, map, nullptr, sums, upstream, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_map_f16(Scalars scalars, const __half* logits, const float* map, double* sums,
                           const float* upstream, __half* gradient) {
  pass<__half, false>(scalars, logits, map, nullptr, sums, upstream, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_map_bf16(Scalars scalars, const __nv_bfloat16* logits, const float* map, double* sums,
                            const float* upstream, __nv_bfloat16* gradient) {
  pass<__nv_bfloat16, false>(scalars, logits, map, nullptr, sums, upstream, gradient);
}

extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_bumps_f32(Scalars scalars, const float* logits, const Bump* bumps, double* sums,
                             const float* upstream, float* gradient) {
  pass<float, true>(scalars, logits, nullptr, bumps, sums, upstream, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_bumps_f16(Scalars scalars, const __half* logits, const Bump* bumps, double* sums,
                             const float* upstream, __half* gradient) {
  pass<__half, true>(scalars, logits, nullptr, bumps, sums, upstream, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads)
heatmap_focal_loss_bumps_bf16(Scalars scalars, const __nv_bfloat16* logits, const Bump* bumps, double* sums,
                              const float* upstream, __nv_bfloat16* gradient) {
  pass<__nv_bfloat16, true>(scalars, logits, nullptr, bumps, sums, upstream, gradient);
}
