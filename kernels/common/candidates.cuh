// The scored boxes of one image, as the suppressing kernels read them.
#pragma once

struct Candidate {
  float4 box;
  int label;
};

// The boxes of one image, in the caller's order, of [B, N, 4] boxes, [B, N] scores (or null), [B, N]
// classes (or null: one class) and [B] counts (or null: all take part; else clamped to [0, N]).
struct Image {
  const float4* boxes;
  const float* scores;
  const int* classes;
  int live;

  __device__ Image(const float4* all_boxes, const float* all_scores, const int* all_classes, const int* counts,
                   int image, int boxes_per_image) {
    const long long first = static_cast<long long>(image) * boxes_per_image;
    boxes = all_boxes + first;
    scores = all_scores == nullptr ? nullptr : all_scores + first;
    classes = all_classes == nullptr ? nullptr : all_classes + first;
    live = counts == nullptr ? boxes_per_image : min(max(counts[image], 0), boxes_per_image);
  }

  __device__ int label(int index) const { return classes == nullptr ? 0 : classes[index]; }

  __device__ Candidate candidate(int index) const { return {boxes[index], label(index)}; }
};
