// The bumps of corner heatmaps: each box raises its class around its corner's cell.
#pragma once

#include "common/numeric.cuh"
#include "common/params.cuh"

// Most boxes an image; mirrored by the host.
constexpr int kMaxBoxes = 1024;

// A box's corner as corner_targets_boxes_f32 records it. label < 0: left out.
struct Bump {
  int x, y;
  int radius;
  int label;
};
static_assert(sizeof(Bump) == 16, "sized by the host");

// The heatmaps of one image, [H, W, K].
struct Heatmap {
  int width;
  int classes;
  Divisor by_width;
  Divisor by_classes;
};
static_assert(sizeof(Heatmap) == 24, "mirrored by the host");

// The bumps that reach a range of cells, in any order: only their maximum is taken.
struct Nearby {
  Bump bumps[kMaxBoxes];
  int count;

  // Collects from `boxes` bumps those that reach the elements [first, end) of an image. All threads of
  // the block take part, and all may read the result.
  __device__ void collect(const Heatmap& map, const Bump* all, int boxes, int first, int end) {
    const int first_cell = divide(first, map.by_classes), last_cell = divide(end - 1, map.by_classes);
    const int first_row = divide(first_cell, map.by_width), last_row = divide(last_cell, map.by_width);
    const int left = first_row == last_row ? first_cell - first_row * map.width : 0;
    const int right = first_row == last_row ? last_cell - last_row * map.width : map.width - 1;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();  // the count is 0 before it is raised
    for (int number = threadIdx.x; number < boxes; number += blockDim.x) {
      // By intrinsic: nvcc 13.0 splits a plain load into four.
      const int4 words = __ldg(reinterpret_cast<const int4*>(all) + number);
      const Bump bump = {words.x, words.y, words.z, words.w};
      const bool rows = bump.y + bump.radius >= first_row && bump.y - bump.radius <= last_row;
      const bool columns = bump.x + bump.radius >= left && bump.x - bump.radius <= right;
      if (bump.label >= 0 && rows && columns) bumps[atomicAdd(&count, 1)] = bump;
    }
    __syncthreads();  // the bumps and their count are visible
  }

  // Targets of N consecutive elements of an image, all collected.
  template <int N>
  __device__ __forceinline__ void targets(const Heatmap& map, int first, float (&values)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = 0.0f;
    const unsigned together = __activemask();
    const int first_cell = divide(first, map.by_classes), last_cell = divide(first + N - 1, map.by_classes);
    for (int number = 0; number < count; ++number) {
      const Bump bump = bumps[number];
      for (int cell = first_cell; cell <= last_cell; ++cell) {
        const int at = cell * map.classes + bump.label - first;
        if (at < 0 || at >= N) continue;
        const int y = divide(cell, map.by_width);
        const int dy = abs(y - bump.y), dx = abs(cell - y * map.width - bump.x);
        if (max(dx, dy) > bump.radius) continue;
        // 18 / diameter^2 = 1 / (2 sigma^2), sigma being a sixth of the diameter.
        const float diameter = static_cast<float>(2 * bump.radius + 1);
        const float sharpness = __fdiv_rn(18.0f, __fmul_rn(diameter, diameter));
        const float value = exp_of_minus<float>(__fmul_rn(static_cast<float>(dx * dx + dy * dy), sharpness));
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] = at == i ? fmaxf(values[i], value) : values[i];
      }
    }
    __syncwarp(together);  // lanes that parted over a bump meet, so that what they store shares its sectors
  }
};
