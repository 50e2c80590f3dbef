// Anchor matching: to each anchor the box that it overlaps most, without a matrix of overlaps and without stored
// anchors.
//
// Reads:   boxes [B, M, 4] f32, classes [B, M] i32, counts [B] i32 or null (only the first counts[b], clamped to
//          [0, M], take part)
// Writes:  peaks [B, M, 8] f32, then labels [B, R] i32, matched [B, R] i32 and foreground [B] i32
// Launch:  match_anchors_peaks_f32 <<<{max(M, 1), 8, B}, 128>>>, then match_anchors_assign_f32
//          <<<{ceil(R / 1024), B}, 256>>> on the same stream
// Order:   maxima and integer sums alone are taken by atomics, so the result does not depend on the schedule
// Cost:    8 R bytes an image written; every block reads the boxes of its image. R * M overlaps, and of each box those
//          with the anchors that it may meet once more
// Source:  torchvision's Matcher with allow_low_quality_matches; see src/reference/match_anchors.rs
// archs: sm_80

#include "common/anchors.cuh"

namespace {

constexpr int kPeakThreads = 128;
// Blocks that share the rows of a box: a box as large as the image meets every anchor.
constexpr int kSlices = 8;
constexpr int kAssignThreads = 256;
// Anchors of a thread, so that a box read from shared memory serves four.
constexpr int kPerThread = 4;
// Boxes held at a time: one a thread to fetch, 8 KiB.
constexpr int kTile = kAssignThreads;

// Mirrors `Scalars` in src/cuda/match_anchors.rs.
struct Scalars {
  int boxes_per_image;
  float high_threshold;
  float low_threshold;
  int low_quality;
};
static_assert(sizeof(Scalars) == 16, "mirrored by the host");

__device__ int live_boxes(const Scalars& p, const int* counts, int image) {
  return counts == nullptr ? p.boxes_per_image : min(max(counts[image], 0), p.boxes_per_image);
}

// First and last + 1 of `count` places, `stride` apart, at which an anchor of this half size may meet [low, high], and
// some more: the slack covers the rounding of the sides, one place that of the division.
__device__ int2 places(float low, float high, float half, float stride, int count) {
  if (stride == 0.0f) return make_int2(0, count);
  const float most = static_cast<float>(count), slack = 1e-6f * (fabsf(low) + fabsf(high) + half);
  const float first = floorf((low - half - slack) / stride) - 1.0f;
  const float last = ceilf((high + half + slack) / stride) + 2.0f;
  return make_int2(static_cast<int>(fminf(fmaxf(first, 0.0f), most)), static_cast<int>(fminf(fmaxf(last, 0.0f), most)));
}

// The intersection over union as a matcher takes it: one that is not a number counts as 0.
__device__ float overlap(float4 a, float4 b) { return fmaxf(iou(a, b, 0.0f), 0.0f); }

// The largest overlap of `box` with the anchors of this shape that this thread looks at.
__device__ float peak_of_shape(const AnchorTable& anchors, const AnchorLevel& level, int shape, float4 box) {
  const float2 half = anchors.half_sizes[level.first_shape + shape];
  const int2 columns = places(box.x, box.z, half.x, level.stride_x, level.width);
  const int2 rows = places(box.y, box.w, half.y, level.stride_y, level.height);
  // The rows of this slice: every eighth.
  const int first_row = rows.x + static_cast<int>(blockIdx.y);
  const int width = columns.y - columns.x, height = (rows.y - first_row + kSlices - 1) / kSlices;
  float peak = 0.0f;
  for (int i = threadIdx.x; i < width * height; i += kPeakThreads) {
    const int y = first_row + i / width * kSlices, x = columns.x + i % width;
    peak = fmaxf(peak, overlap(box, anchor_box(anchors, level, y, x, shape)));
  }
  return peak;
}

// A box that takes part, as a tile holds it; `peak` is negative for one that does not.
struct Target {
  float4 box;
  float peak;
};

// What is known of an anchor after some boxes.
struct Match {
  float4 box;
  float best;
  int index;      // -1 before the first box that takes part
  bool restored;  // one of the best for a box
};

__device__ void meet(Match& match, const Target& target, int index) {
  const float value = overlap(target.box, match.box);
  if (value > match.best) {
    match.best = value;
    match.index = index;
  }
  match.restored |= value == target.peak;
}

// The box that an anchor is matched to, -1 for background, -2 for neither.
__device__ int verdict(const Scalars& p, const Match& match) {
  if (match.index < 0) return -1;
  if (match.restored || match.best >= p.high_threshold) return match.index;
  return match.best < p.low_threshold ? -1 : -2;
}

}  // namespace

// Block (g, s, b): the largest overlap of box g with the anchors in the rows of slice s.
extern "C" __global__ void __launch_bounds__(kPeakThreads)
match_anchors_peaks_f32(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors, const float4* boxes,
                        const int* counts, float* peaks, int* foreground) {
  __shared__ int largest;  // bits of a float that is not negative, which are in its order
  const int image = blockIdx.z, index = blockIdx.x;
  if (index == 0 && blockIdx.y == 0 && threadIdx.x == 0) foreground[image] = 0;
  if (index >= live_boxes(p, counts, image)) return;
  const long long box_index = 1LL * image * p.boxes_per_image + index;
  const float4 box = boxes[box_index];
  if (threadIdx.x == 0) largest = 0;
  __syncthreads();  // the zero is visible
  float peak = 0.0f;
  if (p.low_quality && is_finite_box(box)) {
    for (int l = 0; l < anchors.level_count; ++l) {
      for (int shape = 0; shape < anchors.levels[l].shapes; ++shape) {
        peak = fmaxf(peak, peak_of_shape(anchors, anchors.levels[l], shape, box));
      }
    }
  }
  atomicMax(&largest, __float_as_int(peak));
  __syncthreads();  // all maxima are in
  if (threadIdx.x == 0) peaks[box_index * kSlices + blockIdx.y] = __int_as_float(largest);
}

extern "C" __global__ void __launch_bounds__(kAssignThreads)
match_anchors_assign_f32(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors, const float4* boxes,
                         const int* classes, const int* counts, const float* peaks, int* labels, int* matched,
                         int* foreground) {
  __shared__ Target tile[kTile];
  __shared__ int found;
  const int image = blockIdx.y, live = live_boxes(p, counts, image);
  const int first_anchor = blockIdx.x * (kAssignThreads * kPerThread) + threadIdx.x;
  const long long first_box = 1LL * image * p.boxes_per_image;
  Match matches[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    // Threads behind the last anchor work on it, too, and write nothing.
    const int anchor = min(first_anchor + j * kAssignThreads, anchors.anchors - 1);
    const AnchorLevel& level = anchors.levels[level_of(anchors, anchor)];
    matches[j] = {anchor_box(anchors, level, anchor - level.first), -1.0f, -1, false};
  }
  if (threadIdx.x == 0) found = 0;
  for (int first = 0; first < live; first += kTile) {
    if (first + static_cast<int>(threadIdx.x) < live) {
      const long long index = first_box + first + threadIdx.x;
      const float4 box = boxes[index];
      float peak = 0.0f;
      for (int slice = 0; slice < kSlices; ++slice) peak = fmaxf(peak, peaks[index * kSlices + slice]);
      if (!p.low_quality) peak = 2.0f;  // above any overlap: nothing is restored
      tile[threadIdx.x] = {box, is_finite_box(box) ? peak : -1.0f};
    }
    __syncthreads();  // the tile is visible
    for (int i = 0; i < min(kTile, live - first); ++i) {
      const Target target = tile[i];
      if (target.peak < 0.0f) continue;
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) meet(matches[j], target, first + i);
    }
    __syncthreads();  // all have read the tile before the next one overwrites it
  }
  int mine = 0;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int anchor = first_anchor + j * kAssignThreads;
    if (anchor >= anchors.anchors) break;
    const int match = verdict(p, matches[j]);
    const long long place = 1LL * image * anchors.anchors + anchor;
    labels[place] = match >= 0 ? classes[first_box + match] : match;
    matched[place] = max(match, -1);
    mine += match >= 0;
  }
  __syncthreads();  // the zero is visible, also where there is no tile
  if (mine > 0) atomicAdd(&found, mine);
  __syncthreads();  // all are counted
  if (threadIdx.x == 0 && found > 0) atomicAdd(&foreground[image], found);
}
