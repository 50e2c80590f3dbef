// Targets of corner heatmaps from boxes.
//
// Reads:   boxes [B, M, 4] f32 (x1, y1, x2, y2) in pixels, classes [B, M] i32
// Writes:  corner_targets_boxes_f32: bumps [2, B, M] (x, y, radius, class) i32 of the top-left and of the
//          bottom-right corners; offsets [B, M, 2] f32 and indices [B, M] i32 of both, or all null
//          corner_targets_render_f32: heat [B, H, W, K] f32 of one corner from its bumps
// Launch:  boxes: <<<ceil(B * M / 256), 256>>>; render: <<<B * tiles, 256>>>
// Order:   radii and offsets are in f64, in the order of operations of the source, uncontracted, so that
//          no radius differs from it; a heatmap is a maximum, whatever the order of the boxes
// Cost:    boxes: 20 bytes read, 32 to 56 written a box; render: each heatmap written once, 16 bytes a box
//          and tile read
// Source:  sample/coco.py and sample/utils.py of princeton-vl/CornerNet at commit 3e71377; see
//          src/reference/corner_targets.rs
// archs: sm_80

#include "common/bumps.cuh"
#include "common/vec.cuh"

#include <cstddef>

namespace {

constexpr int kThreads = 256;
// Elements of a tile: 8 vectors a thread, over which the reading of an image's boxes is spread.
constexpr int kTile = 8 * kThreads * kVector<float>;

// Mirrors `BoxScalars` in src/cuda/corner_targets.rs.
struct BoxScalars {
  double ratio_x, ratio_y;  // cells a pixel
  double gaussian_iou;
  int boxes;  // of the batch
  int height, width, classes;
};
static_assert(sizeof(BoxScalars) == 40, "mirrored by the host");

// Mirrors `MapScalars` in src/cuda/corner_targets.rs.
struct MapScalars {
  Heatmap map;
  int boxes;      // an image
  int per_image;  // elements of its heatmaps
  int tiles;      // an image
  int aligned;    // heat starts at a multiple of 16 bytes, and so does each image
};
static_assert(sizeof(MapScalars) == 40, "mirrored by the host");

// sqrt(b^2 - 4ac), 0 where rounding left less.
__device__ double root(double a, double b, double c) {
  const double product = __dmul_rn(__dmul_rn(4.0, a), c);
  return __dsqrt_rn(fmax(__dsub_rn(__dmul_rn(b, b), product), 0.0));
}

__device__ int gaussian_radius(double height, double width, double iou) {
  const double sides = __dadd_rn(height, width);
  const double less = __dsub_rn(1.0, iou);
  const double c1 = __ddiv_rn(__dmul_rn(__dmul_rn(width, height), less), __dadd_rn(1.0, iou));
  const double c2 = __dmul_rn(__dmul_rn(less, width), height);
  const double c3 = __dmul_rn(__dmul_rn(__dsub_rn(iou, 1.0), width), height);
  const double a3 = __dmul_rn(4.0, iou);
  const double b3 = __dmul_rn(__dmul_rn(-2.0, iou), sides);
  const double first = __ddiv_rn(__dsub_rn(sides, root(1.0, sides, c1)), 2.0);
  const double twice = __dmul_rn(2.0, sides);
  const double second = __ddiv_rn(__dsub_rn(twice, root(4.0, twice, c2)), 8.0);
  const double third = __ddiv_rn(__dadd_rn(b3, root(a3, b3, c3)), __dmul_rn(2.0, a3));
  return static_cast<int>(fmax(fmin(fmin(first, second), third), 0.0));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
corner_targets_boxes_f32(BoxScalars scalars, const float* boxes, const int* classes, int4* bumps,
                         float* offsets_of_first, int* indices_of_first, float* offsets_of_last,
                         int* indices_of_last) {
  const int box = blockIdx.x * kThreads + threadIdx.x;
  if (box >= scalars.boxes) return;
  double corner[4];
#pragma unroll
  for (int side = 0; side < 4; ++side) corner[side] = boxes[4LL * box + side];
  const int label = classes[box];
  const double width = __dmul_rn(__dsub_rn(corner[2], corner[0]), scalars.ratio_x);
  const double height = __dmul_rn(__dsub_rn(corner[3], corner[1]), scalars.ratio_y);
  bool fits = label >= 0 && label < scalars.classes && corner[0] <= corner[2] && corner[1] <= corner[3];
#pragma unroll
  for (int side = 0; side < 4; ++side) {
    corner[side] = __dmul_rn(corner[side], side % 2 == 0 ? scalars.ratio_x : scalars.ratio_y);
    // False for NaN.
    fits = fits && corner[side] >= 0.0 && corner[side] < (side % 2 == 0 ? scalars.width : scalars.height);
  }
  const int radius = fits ? gaussian_radius(ceil(height), ceil(width), scalars.gaussian_iou) : 0;
#pragma unroll
  for (int last = 0; last < 2; ++last) {
    const double px = corner[2 * last], py = corner[2 * last + 1];
    const int x = fits ? static_cast<int>(px) : 0, y = fits ? static_cast<int>(py) : 0;
    bumps[1LL * last * scalars.boxes + box] = make_int4(x, y, radius, fits ? label : -1);
    float* offsets = last ? offsets_of_last : offsets_of_first;
    int* indices = last ? indices_of_last : indices_of_first;
    if (offsets == nullptr) continue;
    offsets[2LL * box] = fits ? static_cast<float>(__dsub_rn(px, x)) : 0.0f;
    offsets[2LL * box + 1] = fits ? static_cast<float>(__dsub_rn(py, y)) : 0.0f;
    indices[box] = fits ? y * scalars.width + x : -1;
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
corner_targets_render_f32(MapScalars scalars, const Bump* bumps, float* heat) {
  constexpr int V = kVector<float>;
  __shared__ Nearby nearby;
  const int image = blockIdx.x / scalars.tiles;
  const int start = (blockIdx.x - image * scalars.tiles) * kTile;
  const int end = min(start + kTile, scalars.per_image);
  nearby.collect(scalars.map, bumps + 1LL * image * scalars.boxes, scalars.boxes, start, end);
  float* of_image = heat + 1LL * image * scalars.per_image;
  for (int first = start + threadIdx.x * V; first < end; first += kThreads * V) {
    float values[V];
    nearby.targets(scalars.map, first, values);
    if (scalars.aligned && first + V <= end) {
      store_vector(of_image + first, values);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (first + i < end) of_image[first + i] = values[i];
      }
    }
  }
}
