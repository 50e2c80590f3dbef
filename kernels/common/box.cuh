// Boxes (x1, y1, x2, y2), continuous coordinates, area (x2 - x1) * (y2 - y1), no +1.
#pragma once

__device__ __forceinline__ bool is_finite_box(float4 box) {
  return isfinite(box.x) && isfinite(box.y) && isfinite(box.z) && isfinite(box.w);
}

__device__ __forceinline__ float box_area(float4 box) {
  return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y));
}

// Whether the intersection over union is above `threshold` >= 0, in torchvision's order of
// operations. The _rn forms keep nvcc from contracting them into fused multiply-adds, which would
// round differently from the CPU. Boxes that do not meet skip the division: 0 is above no threshold,
// nor is the NaN of two boxes without area.
__device__ __forceinline__ bool iou_exceeds(float4 a, float4 b, float threshold) {
  const float width = fmaxf(__fsub_rn(fminf(a.z, b.z), fmaxf(a.x, b.x)), 0.0f);
  const float height = fmaxf(__fsub_rn(fminf(a.w, b.w), fmaxf(a.y, b.y)), 0.0f);
  const float intersection = __fmul_rn(width, height);
  if (!(intersection > 0.0f)) return false;
  const float either = __fsub_rn(__fadd_rn(box_area(a), box_area(b)), intersection);
  return __fdiv_rn(intersection, either) > threshold;
}

// Intersection over union in the same order of operations, where a width or height is
// (high - low) + extra: 0 for continuous coordinates, 1 for the indices of pixels. 0 where the boxes
// do not meet; NaN where their areas are infinite.
__device__ __forceinline__ float iou(float4 a, float4 b, float extra) {
  const auto extent = [extra](float low, float high) { return __fadd_rn(__fsub_rn(high, low), extra); };
  const auto area = [&](float4 box) { return __fmul_rn(extent(box.x, box.z), extent(box.y, box.w)); };
  const float width = fmaxf(extent(fmaxf(a.x, b.x), fminf(a.z, b.z)), 0.0f);
  const float height = fmaxf(extent(fmaxf(a.y, b.y), fminf(a.w, b.w)), 0.0f);
  const float intersection = __fmul_rn(width, height);
  if (!(intersection > 0.0f)) return 0.0f;
  return __fdiv_rn(intersection, __fsub_rn(__fadd_rn(area(a), area(b)), intersection));
}
