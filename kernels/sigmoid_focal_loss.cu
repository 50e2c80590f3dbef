// Sigmoid focal loss: the sum over a matrix of logits and, in the same pass, its gradient.
//
// Reads:   logits [R, K] T; labels [R] i32: a class, -1 for background, any other leaves the row
//          out; upstream [1] f32 or null
// Writes:  gradient [R, K] T (the gradient kernels), sums [blocks] f64, then loss [1] f32
// Launch:  <<<blocks, 256>>>, any number of blocks; then sigmoid_focal_loss_finish_f32 <<<1, 256>>>
//          on the same stream
// Order:   each thread adds its own elements in order, then warp, block and finish add in a fixed
//          tree: the result depends on the number of blocks, and on nothing else
// Cost:    R * K elements read (and as many written), 4 R bytes of labels from DRAM; about 27
//          instructions an element, two of them special functions
// Source:  Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5; see
//          src/reference/sigmoid_focal_loss.rs
// archs: sm_80

#include "common/focal.cuh"
#include "common/params.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

#include <cstddef>

constexpr int kThreads = 256;
// Aimed at by the host's plan; with 6 the gradient kernels spill on sm_90.
constexpr int kBlocksPerMultiprocessor = 5;

// Mirrors `Scalars` in src/cuda/sigmoid_focal_loss.rs.
struct Scalars {
  long long rows;
  int classes;
  int rows_per_tile;  // a multiple of 8, so that every tile starts at a multiple of 16 bytes
  Divisor by_classes;
  float positive_weight;
  float negative_weight;
  float gamma;
  float smoothed;  // half the label smoothing
  float scale;     // of the gradient, before upstream
  int aligned;     // logits and gradient start at a multiple of 16 bytes
};
static_assert(sizeof(Scalars) == 48, "mirrored by the host");
static_assert(offsetof(Scalars, by_classes) == 16, "mirrored by the host");
static_assert(offsetof(Scalars, positive_weight) == 24, "mirrored by the host");
static_assert(offsetof(Scalars, aligned) == 44, "mirrored by the host");

// Elements of one thread, of which `count` exist: their place in the tile, and their values, which
// become gradients.
template <typename T>
struct Span {
  int first;
  int count;
  float values[kVector<T>];
};

// All elements are counted negatives, gamma is 2, nothing is smoothed: the bulk of every real
// batch.
template <typename T, bool GRADIENT>
__device__ __forceinline__ float negatives(Span<T>& span, const Scalars& scalars, float scale) {
  const float slope = scalars.negative_weight * scale;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    const Element element = focal<T, true>(span.values[i], 2.0f, 0.0f);
    sum += element.loss;
    if (GRADIENT) span.values[i] = slope * element.slope;
  }
  return scalars.negative_weight * sum;
}

// Any mixture of positives, negatives, ignored rows and ends of rows.
template <typename T, bool GRADIENT, bool STANDARD>
__device__ __forceinline__ float mixture(Span<T>& span, const Scalars& scalars, const int* labels,
                                         int row, float scale) {
  int column = span.first - row * scalars.classes;
  int label = labels[row];
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (i >= span.count) break;
    if (column == scalars.classes) {
      column = 0;
      label = labels[++row];
    }
    const bool counted = label >= -1 && label < scalars.classes;
    const bool positive = label == column;
    const float z = positive ? -span.values[i] : span.values[i];
    const float weight = positive ? scalars.positive_weight : scalars.negative_weight;
    const Element element = focal<T, STANDARD>(z, scalars.gamma, scalars.smoothed);
    if (counted) sum += weight * element.loss;
    const float slope = weight * scale * element.slope;
    if (GRADIENT) span.values[i] = counted ? (positive ? -slope : slope) : 0.0f;
    ++column;
  }
  return sum;
}

// Whether no element of the span is positive or ignored. It touches the rows `first` to `last`;
// with two rows between them or more, or where in doubt, the answer is no.
__device__ __forceinline__ bool all_negative(const int* labels, int first, int last, int column,
                                             int count, int classes) {
  const int label = labels[first];
  const int next = labels[last];
  // A class to the left of the span has a negative distance, which is a large unsigned one.
  const bool outside = static_cast<unsigned>(label - column) >= static_cast<unsigned>(count);
  const bool here = label == -1 || (label >= 0 && label < classes && outside);
  if (last == first) return here;
  return here && last == first + 1 && (next == -1 || (next >= count && next < classes));
}

// Sum over a tile, and its gradients.
template <typename T, bool GRADIENT>
__device__ __forceinline__ float tile(const Scalars& scalars, const T* logits, const int* labels,
                                      T* gradient, int elements, float scale) {
  const bool standard = scalars.gamma == 2.0f && scalars.smoothed == 0.0f;
  float sum = 0.0f;
  for (int first = threadIdx.x * kVector<T>; first < elements; first += kThreads * kVector<T>) {
    Span<T> span;
    span.first = first;
    span.count = min(kVector<T>, elements - first);
    const bool whole = span.count == kVector<T>;
    const bool wide = whole && scalars.aligned;
    if (wide) {
      load_vector(logits + first, span.values);
    } else {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        span.values[i] = i < span.count ? to_float(logits[first + i]) : 0.0f;
      }
    }
    const int row = divide(first, scalars.by_classes);
    const int last = divide(first + span.count - 1, scalars.by_classes);
    const int column = first - row * scalars.classes;
    if (standard && whole && all_negative(labels, row, last, column, span.count, scalars.classes)) {
      sum += negatives<T, GRADIENT>(span, scalars, scale);
    } else if (standard) {
      sum += mixture<T, GRADIENT, true>(span, scalars, labels, row, scale);
    } else {
      sum += mixture<T, GRADIENT, false>(span, scalars, labels, row, scale);
    }
    if (!GRADIENT) continue;
    if (wide) {
      store_vector(gradient + first, span.values);
    } else {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        if (i < span.count) gradient[first + i] = from_float<T>(span.values[i]);
      }
    }
  }
  return sum;
}

// Tiles of whole rows, dealt out to the blocks in turn.
template <typename T, bool GRADIENT>
__device__ __forceinline__ void pass(const Scalars& scalars, const T* logits, const int* labels,
                                     double* sums, const float* upstream, T* gradient) {
  const float scale = GRADIENT && upstream != nullptr ? scalars.scale * *upstream : scalars.scale;
  float sum = 0.0f;
  for (long long row = 1LL * blockIdx.x * scalars.rows_per_tile; row < scalars.rows;
       row += 1LL * gridDim.x * scalars.rows_per_tile) {
    const long long offset = row * scalars.classes;
    const int rows = static_cast<int>(min(scalars.rows - row, 0LL + scalars.rows_per_tile));
    sum += tile<T, GRADIENT>(scalars, logits + offset, labels + row,
                             GRADIENT ? gradient + offset : nullptr, rows * scalars.classes, scale);
  }
  const double block = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = block;
}

// Adds the sums of all blocks and normalises.
extern "C" __global__ void __launch_bounds__(kThreads)
sigmoid_focal_loss_finish_f32(int blocks, float normalizer, const double* sums, float* loss) {
  double sum = 0.0;
  for (int block = threadIdx.x; block < blocks; block += kThreads) sum += sums[block];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / normalizer);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
sigmoid_focal_loss_forward_f32(Scalars scalars, const float* logits, const int* labels,
                               double* sums) {
  pass<float, false>(scalars, logits, labels, sums, nullptr, nullptr);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
sigmoid_focal_loss_forward_f16(Scalars scalars, const __half* logits, const int* labels,
                               double* sums) {
  pass<__half, false>(scalars, logits, labels, sums, nullptr, nullptr);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
sigmoid_focal_loss_forward_bf16(Scalars scalars, const __nv_bfloat16* logits, const int* labels,
                                double* sums) {
  pass<__nv_bfloat16, false>(scalars, logits, labels, sums, nullptr, nullptr);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
sigmoid_focal_loss_gradient_f32(Scalars scalars, const float* logits, const int* labels,
                                double* sums, const float* upstream, float* gradient) {
  pass<float, true>(scalars, logits, labels, sums, upstream, gradient);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
sigmoid_focal_loss_gradient_f16(Scalars scalars, const __half* logits, const int* labels,
                                double* sums, const float* upstream, __half* gradient) {
  pass<__half, true>(scalars, logits, labels, sums, upstream, gradient);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
sigmoid_focal_loss_gradient_bf16(Scalars scalars, const __nv_bfloat16* logits, const int* labels,
                                 double* sums, const float* upstream, __nv_bfloat16* gradient) {
  pass<__nv_bfloat16, true>(scalars, logits, labels, sums, upstream, gradient);
}
