// Smooth-L1 loss of corner offsets, and its gradient.
//
// Reads:   offsets [B, H, W, 2] T, indices [B, M] i32 (y * W + x; an index outside [0, H * W) is left out),
//          targets [B, M, 2] f32, upstream [1] f32 or null
// Writes:  sums [B] f64 (weighted loss of each image), then loss [1] f32; gradient [B, H, W, 2] T or null
// Launch:  <<<B, 256>>>; then corner_offset_loss_finish_f32 <<<1, 32>>> on the same stream
// Order:   sums in f64 in a fixed order; several boxes at one cell add in their order
// Cost:    the offsets at the indices read, the gradient written once; each block counts the batch's
//          indices, 4 bytes each
// Source:  Law and Deng, "CornerNet", 2018, equation 3; see src/reference/corner_losses.rs
// archs: sm_80

#include "common/corner_loss.cuh"
#include "common/reduce.cuh"

#include <cstddef>

namespace {

// Mirrors `Scalars` in src/cuda/corner_offset_loss.rs.
struct Scalars {
  long long cells;  // an image
  int boxes;        // an image
  int images;
  float weight;
};
static_assert(sizeof(Scalars) == 24, "mirrored by the host");
static_assert(offsetof(Scalars, boxes) == 8, "mirrored by the host");

// Boxes of the batch that count. All threads of the block take part, and each holds the result.
__device__ __forceinline__ int count_boxes(const Scalars& scalars, const int* indices) {
  int count = 0;
  const int all = scalars.images * scalars.boxes;
  for (int start = 0; start < all; start += kCornerThreads) {
    const int number = start + threadIdx.x;
    count += __syncthreads_count(number < all && is_cell(indices[number], scalars.cells));
  }
  return count;
}

template <typename T>
__device__ __forceinline__ void loss(const Scalars& scalars, const T* offsets, const int* indices,
                                     const float* targets, double* sums, const float* upstream, T* gradient) {
  __shared__ int cells[kMaxCorners];  // -1: left out
  __shared__ double slopes[2][kMaxCorners];
  const double weight = scalars.weight / (count_boxes(scalars, indices) + kEpsilon);
  const double scale = upstream != nullptr ? *upstream : 1.0;
  const long long image = blockIdx.x;
  const long long offset = 2 * image * scalars.cells;
  double sum = 0.0;
  for (int number = threadIdx.x; number < scalars.boxes; number += kCornerThreads) {
    const long long box = image * scalars.boxes + number;
    const bool counted = is_cell(indices[box], scalars.cells);
    cells[number] = counted ? indices[box] : -1;
    if (!counted) continue;
#pragma unroll
    for (int axis = 0; axis < 2; ++axis) {
      const double value = to_float(offsets[offset + 2LL * cells[number] + axis]);
      const double difference = value - targets[2 * box + axis];
      const double size = fabs(difference);
      sum += size < 1.0 ? size * size / 2.0 : size - 0.5;
      // NaN stays: it is above nothing.
      const double clamped = difference > 1.0 ? 1.0 : (difference < -1.0 ? -1.0 : difference);
      slopes[axis][number] = scale * weight * clamped;
    }
  }
  sum = block_sum<kCornerThreads>(sum);
  if (threadIdx.x == 0) sums[image] = weight * sum;
  if (gradient == nullptr) return;
  clear_gradient(gradient + offset, 2 * scalars.cells);
  __syncthreads();  // zeros are written before what replaces them; cells and slopes are visible
  for (int number = threadIdx.x; number < 2 * scalars.boxes; number += kCornerThreads) {
    const int axis = number >= scalars.boxes;
    const int box = number - axis * scalars.boxes;
    double total;
    if (sum_of_cell(cells, slopes[axis], scalars.boxes, box, total)) {
      gradient[offset + 2LL * cells[box] + axis] = from_float<T>(static_cast<float>(total));
    }
  }
}

}  // namespace

// Adds the losses of all images.
extern "C" __global__ void __launch_bounds__(32)
corner_offset_loss_finish_f32(int images, const double* sums, float* loss) {
  if (threadIdx.x != 0) return;
  double sum = 0.0;
  for (int image = 0; image < images; ++image) sum += sums[image];
  *loss = static_cast<float>(sum);
}

extern "C" __global__ void __launch_bounds__(kCornerThreads)
corner_offset_loss_image_f32(Scalars scalars, const float* offsets, const int* indices, const float* targets,
                             double* sums, const float* upstream, float* gradient) {
  loss(scalars, offsets, indices, targets, sums, upstream, gradient);
}
extern "C" __global__ void __launch_bounds__(kCornerThreads)
corner_offset_loss_image_f16(Scalars scalars, const __half* offsets, const int* indices, const float* targets,
                             double* sums, const float* upstream, __half* gradient) {
  loss(scalars, offsets, indices, targets, sums, upstream, gradient);
}
extern "C" __global__ void __launch_bounds__(kCornerThreads)
corner_offset_loss_image_bf16(Scalars scalars, const __nv_bfloat16* offsets, const int* indices,
                              const float* targets, double* sums, const float* upstream,
                              __nv_bfloat16* gradient) {
  loss(scalars, offsets, indices, targets, sums, upstream, gradient);
}
