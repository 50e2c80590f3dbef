// Pull and push losses of corner embeddings, and the gradients of their sum.
//
// Reads:   embeddings of the top-left and of the bottom-right corners [B, H, W, 1] T, indices of both
//          [B, M] i32 (y * W + x; a box with an index outside [0, H * W) is left out), upstream [1] f32 or
//          null
// Writes:  sums [B, 2] f64 (weighted pull and push of each image), then losses [2] f32; gradients
//          [B, H, W, 1] T of both maps, or both null
// Launch:  <<<B, 256>>>; then corner_embedding_loss_finish_f32 <<<1, 32>>> on the same stream
// Order:   sums in f64 in a fixed order; several boxes at one cell add in their order
// Cost:    the embeddings at the indices read, each gradient map written once; M^2 pairs an image
// Source:  Law and Deng, "CornerNet", 2018, equations 4 and 5; see src/reference/corner_losses.rs
// archs: sm_80

#include "common/corner_loss.cuh"
#include "common/reduce.cuh"

#include <cstddef>

namespace {

// Mirrors `Scalars` in src/cuda/corner_embedding_loss.rs.
struct Scalars {
  long long cells;  // an image
  int boxes;        // an image
  float pull_weight;
  float push_weight;
};
static_assert(sizeof(Scalars) == 24, "mirrored by the host");
static_assert(offsetof(Scalars, boxes) == 8, "mirrored by the host");

struct Boxes {
  int indices[2][kMaxCorners];    // -1: left out
  double means[kMaxCorners];      // of the two embeddings
  double slopes[2][kMaxCorners];  // first the embeddings
};

template <typename T>
__device__ __forceinline__ void losses(const Scalars& scalars, const T* first, const T* last,
                                       const int* first_indices, const int* last_indices, double* sums,
                                       const float* upstream, T* first_gradient, T* last_gradient) {
  __shared__ Boxes all;
  const long long image = blockIdx.x;
  const long long offset = image * scalars.cells;
  int count = 0;
  for (int start = 0; start < scalars.boxes; start += kCornerThreads) {
    const int number = start + threadIdx.x;
    bool counted = false;
    if (number < scalars.boxes) {
      const int a = first_indices[image * scalars.boxes + number];
      const int b = last_indices[image * scalars.boxes + number];
      counted = is_cell(a, scalars.cells) && is_cell(b, scalars.cells);
      all.indices[0][number] = counted ? a : -1;
      all.indices[1][number] = counted ? b : -1;
      const double tag = counted ? to_float(first[offset + a]) : 0.0;
      const double other = counted ? to_float(last[offset + b]) : 0.0;
      all.means[number] = (tag + other) / 2.0;
      all.slopes[0][number] = tag;
      all.slopes[1][number] = other;
    }
    // Also makes the boxes visible to those who pair them.
    count += __syncthreads_count(counted);
  }
  const double pull_weight = scalars.pull_weight / (count + kEpsilon);
  const double push_weight = scalars.push_weight / (count * (count - 1.0) + kEpsilon);
  const double scale = upstream != nullptr ? *upstream : 1.0;
  double pull = 0.0, push = 0.0;
  for (int number = threadIdx.x; number < scalars.boxes; number += kCornerThreads) {
    if (all.indices[0][number] < 0) continue;
    const double mean = all.means[number];
    double slope = 0.0;
    for (int other = 0; other < scalars.boxes; ++other) {
      if (all.indices[0][other] < 0) continue;
      const double distance = fabs(mean - all.means[other]);
      // NaN stays.
      push += (distance > 1.0 ? 0.0 : 1.0 - distance) - 1.0 / (count + kEpsilon);
      if (distance > 0.0 && distance < 1.0) slope += mean < all.means[other] ? 1.0 : -1.0;
    }
    const double apart = all.slopes[0][number] - all.slopes[1][number];
    pull += apart * apart / 2.0;
    all.slopes[0][number] = scale * (push_weight * slope + pull_weight * apart);
    all.slopes[1][number] = scale * (push_weight * slope - pull_weight * apart);
  }
  pull = block_sum<kCornerThreads>(pull);
  __syncthreads();  // the sums of warps have been read, and the slopes are visible
  push = block_sum<kCornerThreads>(push);
  if (threadIdx.x == 0) {
    sums[2 * image] = pull_weight * pull;
    sums[2 * image + 1] = push_weight * push;
  }
  if (first_gradient == nullptr) return;
  clear_gradient(first_gradient + offset, scalars.cells);
  clear_gradient(last_gradient + offset, scalars.cells);
  __syncthreads();  // zeros are written before what replaces them
  for (int number = threadIdx.x; number < 2 * scalars.boxes; number += kCornerThreads) {
    const int corner = number >= scalars.boxes;
    const int box = number - corner * scalars.boxes;
    T* gradient = (corner ? last_gradient : first_gradient) + offset;
    double sum;
    if (sum_of_cell(all.indices[corner], all.slopes[corner], scalars.boxes, box, sum)) {
      gradient[all.indices[corner][box]] = from_float<T>(static_cast<float>(sum));
    }
  }
}

}  // namespace

// Adds the losses of all images.
extern "C" __global__ void __launch_bounds__(32)
corner_embedding_loss_finish_f32(int images, const double* sums, float* losses) {
  if (threadIdx.x >= 2) return;
  double sum = 0.0;
  for (int image = 0; image < images; ++image) sum += sums[2LL * image + threadIdx.x];
  losses[threadIdx.x] = static_cast<float>(sum);
}

extern "C" __global__ void __launch_bounds__(kCornerThreads)
corner_embedding_loss_image_f32(Scalars scalars, const float* first, const float* last,
                                const int* first_indices, const int* last_indices, double* sums,
                                const float* upstream, float* first_gradient, float* last_gradient) {
  losses(scalars, first, last, first_indices, last_indices, sums, upstream, first_gradient, last_gradient);
}
extern "C" __global__ void __launch_bounds__(kCornerThreads)
corner_embedding_loss_image_f16(Scalars scalars, const __half* first, const __half* last,
                                const int* first_indices, const int* last_indices, double* sums,
                                const float* upstream, __half* first_gradient, __half* last_gradient) {
  losses(scalars, first, last, first_indices, last_indices, sums, upstream, first_gradient, last_gradient);
}
extern "C" __global__ void __launch_bounds__(kCornerThreads)
corner_embedding_loss_image_bf16(Scalars scalars, const __nv_bfloat16* first, const __nv_bfloat16* last,
                                 const int* first_indices, const int* last_indices, double* sums,
                                 const float* upstream, __nv_bfloat16* first_gradient,
                                 __nv_bfloat16* last_gradient) {
  losses(scalars, first, last, first_indices, last_indices, sums, upstream, first_gradient, last_gradient);
}
