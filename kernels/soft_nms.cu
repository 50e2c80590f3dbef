// Soft non-maximum suppression, batched and class-aware.
//
// Reads:   boxes [B, N, 4] f32 (x1, y1, x2, y2), scores [B, N] f32, classes [B, N] i32 or null,
//          counts [B] i32 or null (only the first counts[b], clamped to [0, N], take part)
// Writes:  indices [B, max_output] i32 (-1 pads), kept_scores [B, max_output] f32 (0 pads), kept [B] i32
// Launch:  soft_nms_registers_f32 <<<B, 512>>> for N <= 5120, else soft_nms_memory_f32 <<<B, 512>>> with
//          a workspace of B * N floats
// Order:   the highest score first, ties by index; one thread owns each box and lowers its score in the
//          order of the boxes kept, so nothing depends on the schedule
// Cost:    in registers, 24 bytes a box read once and, for each box kept, 20 bytes a warp from L1; a
//          test of every box for each one kept. In memory, 8 to 24 bytes a box for each one kept
// Source:  Bodla et al., "Soft-NMS", 2017; see src/reference/soft_nms.rs
// archs: sm_80

#include "common/box.cuh"
#include "common/candidates.cuh"
#include "common/exact_double.cuh"
#include "common/reduce.cuh"

#include <climits>

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
// Boxes a thread of soft_nms_registers_f32 holds, 6 words each: 60 of its 128 registers.
constexpr int kSlots = 10;

// Mirrors `Scalars` in src/cuda/soft_nms.rs.
struct Scalars {
  float sigma;
  float iou_threshold;
  float score_threshold;  // at least 0
  float extra;            // what is added to a width or height
  int gaussian;
  int boxes_per_image;
  int max_output;
};
static_assert(sizeof(Scalars) == 28, "mirrored by the host");

// The score of a box once `keeper` is kept; 0 where it is out.
__device__ float lowered(float score, const Candidate& keeper, float4 box, const Scalars& p) {
  const float overlap = iou(keeper.box, box, p.extra);
  // Also false for NaN.
  if (!(overlap > 0.0f)) return score;
  if (p.gaussian) {
    const double squared = __dmul_rn(overlap, overlap);
    score = __fmul_rn(score, static_cast<float>(exp_of_minus_f64(__ddiv_rn(squared, p.sigma))));
  } else if (overlap > p.iou_threshold) {
    score = __fmul_rn(score, __fsub_rn(1.0f, overlap));
  }
  return score > p.score_threshold ? score : 0.0f;
}

// The best of some boxes. The bits of scores above 0 are in the order of the scores.
struct Best {
  unsigned score;  // 0: none
  int index;

  __device__ void meet(float other_score, int other_index) {
    const unsigned bits = __float_as_uint(other_score);
    if (bits > score) *this = {bits, other_index};  // boxes come by ascending index: the first stays
  }

  // All 32 lanes take part, and all hold the result.
  __device__ Best of_warp() const {
    const unsigned highest = __reduce_max_sync(kFullWarp, score);
    return {highest, __reduce_min_sync(kFullWarp, score == highest ? index : INT_MAX)};
  }
};

// The best box of each warp, in turn in one of two places: while slow threads read one, fast ones write
// the other, and a barrier lies between two writes of the same.
struct Leaders {
  Best best[2][kWarps];
  Candidate candidate[2][kWarps];
};

// All threads take part; all hold the best box of the block and its candidate.
__device__ Best elect(Leaders& leaders, int turn, const Best& mine, const Image& image, Candidate& candidate) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Best of_warp = mine.of_warp();
  if (lane == 0) {
    leaders.best[turn][warp] = of_warp;
    if (of_warp.score != 0) leaders.candidate[turn][warp] = image.candidate(of_warp.index);
  }
  __syncthreads();  // the leaders are visible
  const Best leader = lane < kWarps ? leaders.best[turn][lane] : Best{0, INT_MAX};
  const Best best = leader.of_warp();
  const unsigned holders = __ballot_sync(kFullWarp, best.score != 0 && leader.index == best.index);
  if (holders != 0) candidate = leaders.candidate[turn][__ffs(holders) - 1];
  return best;
}

// A thread's boxes: thread t holds t, t + kThreads, ..
struct InRegisters {
  Candidate held[kSlots];
  float score[kSlots];  // 0: out

  __device__ InRegisters(const Image& image, const Scalars& p, Best& best) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int index = s * kThreads + threadIdx.x;
      score[s] = 0.0f;
      held[s] = Candidate{};
      if (index >= image.live) continue;
      held[s] = image.candidate(index);
      const float given = image.scores[index];
      if (given > p.score_threshold && is_finite_box(held[s].box)) score[s] = given;
      best.meet(score[s], index);
    }
  }

  // Takes `kept` out and lowers the others of its class. Returns the best that is left.
  __device__ Best lower(int kept, const Candidate& keeper, int live, const Scalars& p) {
    Best best = {0, INT_MAX};
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int index = s * kThreads + threadIdx.x;
      if (s * kThreads >= live) break;
      if (index == kept) score[s] = 0.0f;
      if (score[s] > 0.0f && held[s].label == keeper.label) score[s] = lowered(score[s], keeper, held[s].box, p);
      best.meet(score[s], index);
    }
    return best;
  }
};

// The same with the scores in global memory, each read and written by its owner alone.
struct InMemory {
  const Image& image;
  float* score;

  __device__ InMemory(const Image& boxes, float* scores, const Scalars& p, Best& best)
      : image(boxes), score(scores) {
    for (int index = threadIdx.x; index < image.live; index += kThreads) {
      const float given = image.scores[index];
      const bool in = given > p.score_threshold && is_finite_box(image.boxes[index]);
      score[index] = in ? given : 0.0f;
      best.meet(score[index], index);
    }
  }

  __device__ Best lower(int kept, const Candidate& keeper, int live, const Scalars& p) {
    Best best = {0, INT_MAX};
    for (int index = threadIdx.x; index < live; index += kThreads) {
      const float before = score[index];
      float after = index == kept ? 0.0f : before;
      if (after > 0.0f && image.label(index) == keeper.label) after = lowered(after, keeper, image.boxes[index], p);
      if (after != before) score[index] = after;
      best.meet(after, index);
    }
    return best;
  }
};

template <typename Boxes>
__device__ void suppress(Boxes& boxes, Best best, const Image& image, const Scalars& p, int* indices,
                         float* kept_scores, int* kept_counts) {
  __shared__ Leaders leaders;
  const long long first = static_cast<long long>(blockIdx.x) * p.max_output;
  int kept = 0;
  for (; kept < p.max_output; ++kept) {
    Candidate keeper;
    const Best next = elect(leaders, kept % 2, best, image, keeper);
    if (next.score == 0) break;
    if (threadIdx.x == 0) {
      indices[first + kept] = next.index;
      kept_scores[first + kept] = __uint_as_float(next.score);
    }
    best = boxes.lower(next.index, keeper, image.live, p);
  }
  for (int i = kept + threadIdx.x; i < p.max_output; i += kThreads) {
    indices[first + i] = -1;
    kept_scores[first + i] = 0.0f;
  }
  if (threadIdx.x == 0) kept_counts[blockIdx.x] = kept;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
  soft_nms_registers_f32(Scalars p, const float4* boxes, const float* scores, const int* classes, const int* counts,
                         int* indices, float* kept_scores, int* kept_counts) {
  const Image image(boxes, scores, classes, counts, blockIdx.x, p.boxes_per_image);
  Best best = {0, INT_MAX};
  InRegisters held(image, p, best);
  suppress(held, best, image, p, indices, kept_scores, kept_counts);
}

extern "C" __global__ void __launch_bounds__(kThreads)
  soft_nms_memory_f32(Scalars p, const float4* boxes, const float* scores, const int* classes, const int* counts,
                      float* workspace, int* indices, float* kept_scores, int* kept_counts) {
  const Image image(boxes, scores, classes, counts, blockIdx.x, p.boxes_per_image);
  Best best = {0, INT_MAX};
  InMemory held(image, workspace + static_cast<long long>(blockIdx.x) * p.boxes_per_image, p, best);
  suppress(held, best, image, p, indices, kept_scores, kept_counts);
}
