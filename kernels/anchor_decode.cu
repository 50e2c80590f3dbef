// Anchor decoding: from the heads of all levels to the boxes that non-maximum suppression takes.
//
// Reads:   of each level logits [B, H, W, A * K] T and deltas [B, H, W, A * 4] T; image_sizes [B, 2] i32
//          (height, width) or null for the anchors' image
// Writes:  found [B, parts] i32 and lists [B, parts, topk] keys; then boxes [B, M, 4] f32, scores [B, M] f32,
//          classes [B, M] i32 (padded with 0, 0 and -1) and count [B] i32
// Launch:  anchor_decode_filter_T <<<{parts, B}, 256, 8 bytes x capacity>>>, then anchor_decode_select_T
//          <<<{levels, B}, 512, 8 bytes x capacity>>> on the same stream
// Order:   levels in order, within a level logit descending, then position in [H, W, A, K] ascending. Keys are
//          appended to shared memory in any order and sorted: atomics count, and decide nothing
// Cost:    each logit read once, whatever passes the threshold, and each that passes once more, from the cache; of each
//          level at most topk deltas and outputs. A block sorts its keys once for each `capacity - topk` that it appends:
//          not at all on real data, whose few candidates it never runs out of room for
// Source:  torchvision's RetinaNet.postprocess_detections; see src/reference/anchor_decode.rs
// archs: sm_80

#include "common/anchors.cuh"
#include "common/best_keys.cuh"
#include "common/vec.cuh"

namespace {

constexpr int kFilterThreads = 256;
constexpr int kSelectThreads = 512;
// Logits of a thread in a tile: as many as a word has bits. 64 or 128 bytes are then in flight a thread.
constexpr int kPerThread = 32;
constexpr int kTile = kFilterThreads * kPerThread;
// Aimed at by the host's plan.
constexpr int kBlocksPerMultiprocessor = 4;

// Mirrors `Scalars` in src/cuda/anchor_decode.rs.
struct Scalars {
  int classes;
  int topk;
  int capacity;
  int tiles_per_part;
  int parts;       // of an image
  int max_output;  // M
  float logit_threshold;
  float image_height;
  float image_width;
  int first_part[kMaxLevels + 1];  // of each level; the last is `parts`, and so are those of no level
};
static_assert(sizeof(Scalars) == 72, "mirrored by the host");

// Where the levels lie: as many as a launch has, so they cannot be arguments of their own.
struct Heads {
  unsigned long long logits[kMaxLevels];
  unsigned long long deltas[kMaxLevels];
};
static_assert(sizeof(Heads) == 128, "mirrored by the host");

__device__ int elements_of(const AnchorLevel& level, int channels) {
  return level.height * level.width * level.shapes * channels;
}

__device__ int level_of_part(const Scalars& p, int part) {
  int level = 0;
  while (part >= p.first_part[level + 1]) ++level;
  return level;
}

// A bit an element: whether it is `floor` or above, which no NaN is.
template <typename T>
__device__ __forceinline__ unsigned compare(const float (&values)[kVector<T>], float floor) {
  unsigned mask = 0;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (values[i] >= floor) mask |= 1u << i;
  }
  return mask;
}

// Bits of the elements first + (j * 256 + thread) * V + i of [0, count), bit j * V + i: whether they are `floor` or
// above. `row + first` is aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ unsigned above(const T* row, int first, int count, float floor) {
  constexpr int kWidth = kVector<T>, kLoads = kPerThread / kWidth;
  const int mine = first + static_cast<int>(threadIdx.x) * kWidth;
  float values[kLoads][kWidth];
  unsigned mask = 0;
  if (first >= 0 && first <= count - kTile) {
    // All loads before the first test, so that all are in flight at once.
#pragma unroll
    for (int j = 0; j < kLoads; ++j) load_vector(row + mine + j * kFilterThreads * kWidth, values[j]);
#pragma unroll
    for (int j = 0; j < kLoads; ++j) mask |= compare<T>(values[j], floor) << j * kWidth;
    return mask;
  }
  for (int j = 0; j < kLoads; ++j) {
    const int start = mine + j * kFilterThreads * kWidth;
    if (start >= 0 && start <= count - kWidth) {
      load_vector(row + start, values[0]);
    } else {
      for (int i = 0; i < kWidth; ++i) {
        const int index = start + i;
        values[0][i] = index >= 0 && index < count ? to_float(row[index]) : __int_as_float(0x7fffffff);
      }
    }
    mask |= compare<T>(values[0], floor) << j * kWidth;
  }
  return mask;
}

// Keys of the best logits of one part of one level of one image.
template <typename T>
__device__ __forceinline__ void filter(const Scalars& p, const AnchorTable& anchors, const Heads& heads, int* found,
                                       Key* lists) {
  extern __shared__ Key keys[];
  __shared__ int stored;
  constexpr int kWidth = kVector<T>;
  const int part = blockIdx.x, level = level_of_part(p, part);
  const int count = elements_of(anchors.levels[level], p.classes);
  const T* row = reinterpret_cast<const T*>(heads.logits[level]) + 1LL * blockIdx.y * count;
  // Tiles begin at multiples of 16 bytes: the first of a row may begin before it.
  const int lead = static_cast<int>(reinterpret_cast<unsigned long long>(row) % 16 / sizeof(T));
  const long long begin = 1LL * (part - p.first_part[level]) * p.tiles_per_part * kTile - lead;
  const long long end = min(begin + 1LL * p.tiles_per_part * kTile, 0LL + count);

  BestKeys best = {keys, &stored, p.capacity, p.topk, sort_key(p.logit_threshold, 0)};
  best.start();
  for (long long tile = begin; tile < end; tile += kTile) {
    const int first = static_cast<int>(tile);
    unsigned waiting = above(row, first, count, key_score(best.limit));
    bool full;
    do {
      full = false;
      while (waiting != 0 && !full) {
        const int bit = __ffs(waiting) - 1;
        const int index = first + (bit / kWidth * kFilterThreads + static_cast<int>(threadIdx.x)) * kWidth + bit % kWidth;
        full = !best.append(sort_key(to_float(row[index]), index));
        if (!full) waiting &= waiting - 1;
      }
    } while (best.make_room(full));
  }
  if (stored > p.topk) best.cut();
  const long long list = 1LL * blockIdx.y * p.parts + part;
  for (int i = threadIdx.x; i < stored; i += kFilterThreads) lists[list * p.topk + i] = keys[i];
  if (threadIdx.x == 0) found[list] = stored;
}

__device__ __forceinline__ float clip(float x, float side) { return x < 0.0f ? 0.0f : x > side ? side : x; }

// Where the candidates of an image go.
struct Outputs {
  float4* boxes;
  float* scores;
  int* classes;
};

// Decodes the candidate of a key of this level, whose deltas of the image are `row`.
template <typename T>
__device__ __forceinline__ void decode(const AnchorTable& anchors, const AnchorLevel& level, int classes, const T* row,
                                       Key key, float2 sides, const Outputs& out, int place) {
  const int index = key_index(key), anchor = index / classes;
  float deltas[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) deltas[i] = to_float(row[4LL * anchor + i]);
  const float4 box = decode_box(anchor_box(anchors, level, anchor), deltas);
  out.boxes[place] = make_float4(clip(box.x, sides.x), clip(box.y, sides.y), clip(box.z, sides.x), clip(box.w, sides.y));
  out.scores[place] = sigmoid_like_cpu(key_score(key));
  out.classes[place] = index % classes;
}

// Merges the lists of one level of one image, decodes the best and pads a share of what is left.
template <typename T>
__device__ __forceinline__ void select(const Scalars& p, const AnchorTable& anchors, const Heads& heads, const int* found,
                                       const Key* lists, const int* image_sizes, const Outputs& batch, int* count) {
  extern __shared__ Key keys[];
  __shared__ int stored;
  __shared__ int of_level[kMaxLevels];
  const int level = blockIdx.x, image = blockIdx.y;
  found += 1LL * image * p.parts;
  lists += 1LL * image * p.parts * p.topk;
  if (threadIdx.x < kMaxLevels) of_level[threadIdx.x] = 0;
  BestKeys best = {keys, &stored, p.capacity, p.topk, kNoKey};
  best.start();  // the zeros are visible, too
  for (int part = threadIdx.x; part < p.parts; part += kSelectThreads) {
    atomicAdd(&of_level[level_of_part(p, part)], found[part]);
  }
  // Each warp takes parts in turn, each lane keys of a part in turn.
  int part = p.first_part[level] + threadIdx.x / 32, place = threadIdx.x % 32;
  bool full;
  do {
    full = false;
    while (part < p.first_part[level + 1] && !full) {
      if (place < found[part]) {
        full = !best.append(lists[1LL * part * p.topk + place]);
        if (!full) place += 32;
      } else {
        part += kSelectThreads / 32;
        place = threadIdx.x % 32;
      }
    }
  } while (best.make_room(full));
  const int mine = best.finish();

  // No level's parts hold topk keys together unless as many pass.
  int before = 0, total = 0;
  for (int l = 0; l < anchors.level_count; ++l) {
    total += min(of_level[l], p.topk);
    if (l + 1 == level) before = total;
  }
  float2 sides = make_float2(p.image_width, p.image_height);
  if (image_sizes != nullptr) {
    sides = make_float2(static_cast<float>(max(image_sizes[2 * image + 1], 0)), static_cast<float>(max(image_sizes[2 * image], 0)));
  }
  const long long first = 1LL * image * p.max_output;
  const Outputs out = {batch.boxes + first, batch.scores + first, batch.classes + first};
  const AnchorLevel& shape = anchors.levels[level];
  const T* row = reinterpret_cast<const T*>(heads.deltas[level]) + 1LL * image * elements_of(shape, 4);
  for (int i = threadIdx.x; i < mine; i += kSelectThreads) {
    decode(anchors, shape, p.classes, row, keys[i], sides, out, before + i);
  }
  for (int i = total + level * kSelectThreads + threadIdx.x; i < p.max_output; i += gridDim.x * kSelectThreads) {
    out.boxes[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    out.scores[i] = 0.0f;
    out.classes[i] = -1;
  }
  if (level == 0 && threadIdx.x == 0) count[image] = total;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kFilterThreads, kBlocksPerMultiprocessor)
anchor_decode_filter_f32(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                         const __grid_constant__ Heads heads, int* found, Key* lists) {
  filter<float>(p, anchors, heads, found, lists);
}

extern "C" __global__ void __launch_bounds__(kFilterThreads, kBlocksPerMultiprocessor)
anchor_decode_filter_f16(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                         const __grid_constant__ Heads heads, int* found, Key* lists) {
  filter<__half>(p, anchors, heads, found, lists);
}

extern "C" __global__ void __launch_bounds__(kFilterThreads, kBlocksPerMultiprocessor)
anchor_decode_filter_bf16(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                          const __grid_constant__ Heads heads, int* found, Key* lists) {
  filter<__nv_bfloat16>(p, anchors, heads, found, lists);
}

extern "C" __global__ void __launch_bounds__(kSelectThreads)
anchor_decode_select_f32(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                         const __grid_constant__ Heads heads, const int* found, const Key* lists, const int* image_sizes,
                         float4* boxes, float* scores, int* classes, int* count) {
  select<float>(p, anchors, heads, found, lists, image_sizes, {boxes, scores, classes}, count);
}

extern "C" __global__ void __launch_bounds__(kSelectThreads)
anchor_decode_select_f16(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                         const __grid_constant__ Heads heads, const int* found, const Key* lists, const int* image_sizes,
                         float4* boxes, float* scores, int* classes, int* count) {
  select<__half>(p, anchors, heads, found, lists, image_sizes, {boxes, scores, classes}, count);
}

extern "C" __global__ void __launch_bounds__(kSelectThreads)
anchor_decode_select_bf16(const __grid_constant__ Scalars p, const __grid_constant__ AnchorTable anchors,
                          const __grid_constant__ Heads heads, const int* found, const Key* lists, const int* image_sizes,
                          float4* boxes, float* scores, int* classes, int* count) {
  select<__nv_bfloat16>(p, anchors, heads, found, lists, image_sizes, {boxes, scores, classes}, count);
}
