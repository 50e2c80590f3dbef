// Boxes from pairs of corners: peaks of two heatmaps, the best of each, their pairs.
//
// Reads:   heat [B, H, W, K] T logits, embedding [B, H, W] T and offset [B, H, W, 2] T of the top-left
//          and of the bottom-right corners
// Writes:  lists [B, 2, topk, tiles] u64 keys (the peaks kernel, read by the other), boxes
//          [B, num_dets, 4] f32, scores [B, num_dets] f32, classes [B, num_dets] i32, count [B] i32
// Launch:  corner_decode_peaks_T <<<(tiles, 2, B), 256>>>, then corner_decode_pairs_T <<<B, 512>>>;
//          dynamic shared memory as in the host's plan. Two launches, since pairing needs the best
//          corners of the whole image, and one block an image would leave most of the chip idle
// Order:   corners by logit, ties by (class, y, x); boxes by score, ties by the corners' ranks. Atomics
//          count, and decide nothing: keys are distinct, and sorted
// Cost:    2 * H * W * K logits of an image read once, and 2 * radius rows more where columns are
//          split into strips; 16 * topk * tiles bytes of lists written and read
// Source:  Law and Deng, "CornerNet", 2018, and _decode of the official code; see
//          src/reference/corner_decode.rs
// archs: sm_80

#include "common/best_keys.cuh"
#include "common/exact_double.cuh"
#include "common/vec.cuh"

#include <math_constants.h>

namespace {

constexpr int kPeakThreads = 256;
constexpr int kPairThreads = 512;
// A block takes 32 bytes of channels, a sector of memory, of each of 128 columns: two threads a column.
constexpr int kColumns = kPeakThreads / 2;

// Mirrors `Scalars` in src/cuda/corner_decode.rs.
struct Scalars {
  int height;
  int width;
  int classes;
  int radius;         // of the window of a peak
  int strip_rows;     // tiles: rows, columns and channels that one block decides on
  int strips;
  int chunk_columns;
  int chunks;
  int halo;           // columns read on either side of those
  int aligned;        // every 16 bytes of channels start at a multiple of 16 bytes
  int topk;
  int num_dets;
  float ae_threshold;
  int peak_capacity;  // of BestKeys for corners
  int pair_capacity;  // for pairs
};
static_assert(sizeof(Scalars) == 60, "mirrored by the host");

// The larger of each pair of elements in two words. Like fmaxf, the maximum with a NaN is the other.
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b, float) {
  return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b, __half) {
  const __half2 both = __hmax2(reinterpret_cast<__half2&>(a), reinterpret_cast<__half2&>(b));
  return reinterpret_cast<const unsigned&>(both);
}
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b, __nv_bfloat16) {
  const __nv_bfloat162 both = __hmax2(reinterpret_cast<__nv_bfloat162&>(a), reinterpret_cast<__nv_bfloat162&>(b));
  return reinterpret_cast<const unsigned&>(both);
}

// What one block of the peaks kernel works on, and the thread's part of it.
template <typename T>
struct Tile {
  const T* heat;  // of the image
  const Scalars& p;
  int first_row, rows;
  int column;      // of the map; may lie outside
  int channel;     // the first of the thread's
  bool decides;    // the column is one of the block's own

  __device__ Tile(const Scalars& scalars, const T* heat_of_image) : heat(heat_of_image), p(scalars) {
    const int strip = blockIdx.x % p.strips, chunk = blockIdx.x / p.strips % p.chunks;
    const int slice = blockIdx.x / (p.strips * p.chunks), place = threadIdx.x / 2;
    first_row = strip * p.strip_rows;
    rows = min(p.strip_rows, p.height - first_row);
    column = chunk * p.chunk_columns - p.halo + place;
    channel = (2 * slice + threadIdx.x % 2) * kVector<T>;
    decides = place >= p.halo && place < p.halo + p.chunk_columns && column < p.width;
  }

  // The thread's logits of a row; what lies outside the map is -infinity.
  __device__ uint4 load(int row) const {
    alignas(16) T values[kVector<T>];
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) values[i] = from_float<T>(-CUDART_INF_F);
    if (row >= 0 && row < p.height && column >= 0 && column < p.width && channel < p.classes) {
      const T* from = heat + (static_cast<long long>(row) * p.width + column) * p.classes + channel;
      if (p.aligned) return __ldg(reinterpret_cast<const uint4*>(from));
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        if (channel + i < p.classes) values[i] = from[i];
      }
    }
    return *reinterpret_cast<const uint4*>(values);
  }

  // The peaks of `row` that are not below `floor` (NaN: none is), a bit each. Row r is staged at r modulo `ring`.
  __device__ unsigned peaks(const uint4* staged, int ring, int row, float floor) const {
    const int place = threadIdx.x / 2;
    const uint4 centre = staged[row % ring * kPeakThreads + threadIdx.x];
    uint4 highest = centre;
    for (int other = max(row - p.radius, 0); other <= min(row + p.radius, p.height - 1); ++other) {
      const uint4* of_row = staged + other % ring * kPeakThreads + threadIdx.x;
      for (int shift = max(-p.radius, -place); shift <= min(p.radius, kColumns - 1 - place); ++shift) {
        const uint4 words = of_row[2 * shift];
        highest = make_uint4(larger(highest.x, words.x, T()), larger(highest.y, words.y, T()),
                             larger(highest.z, words.z, T()), larger(highest.w, words.w, T()));
      }
    }
    float values[kVector<T>], maxima[kVector<T>];
    unpack_vector<T>(centre, values);
    unpack_vector<T>(highest, maxima);
    unsigned result = 0;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      // NaN equals nothing.
      if (values[i] == maxima[i] && !(values[i] < floor) && channel + i < p.classes) result |= 1u << i;
    }
    return result;
  }

  // The key of the thread's channel `i` in `row`: equal logits rank by (class, row, column).
  __device__ Key key(const uint4* staged, int ring, int row, int i) const {
    const T* logits = reinterpret_cast<const T*>(staged + row % ring * kPeakThreads + threadIdx.x);
    return sort_key(to_float(logits[i]), ((channel + i) * p.height + row) * p.width + column);
  }
};

template <typename T>
__device__ void find_peaks(const Scalars& p, const T* top_left, const T* bottom_right, Key* lists) {
  extern __shared__ __align__(16) Key shared[];
  __shared__ int stored;
  const int ring = 2 * p.radius + 2;  // a row is stored while those around the row before it are read
  uint4* staged = reinterpret_cast<uint4*>(shared);
  Key* keys = shared + ring * kPeakThreads * (sizeof(uint4) / sizeof(Key));
  BestKeys best = {keys, &stored, p.peak_capacity, p.topk, kNoKey};
  best.start();
  const long long logits = static_cast<long long>(p.height) * p.width * p.classes;
  const Tile<T> tile(p, (blockIdx.y == 0 ? top_left : bottom_right) + blockIdx.z * logits);

  const int first = max(tile.first_row - p.radius, 0);
  uint4 next = tile.load(first);
  for (int row = first; row < tile.first_row + tile.rows + p.radius; ++row) {
    staged[row % ring * kPeakThreads + threadIdx.x] = next;
    if (row + 1 < tile.first_row + tile.rows + p.radius) next = tile.load(row + 1);
    __syncthreads();  // the row is visible
    const int centre = row - p.radius;
    if (centre < tile.first_row) continue;
    unsigned waiting = tile.decides ? tile.peaks(staged, ring, centre, key_score(best.limit)) : 0;
    do {
      while (waiting != 0 && best.append(tile.key(staged, ring, centre, __ffs(waiting) - 1))) waiting &= waiting - 1;
    } while (best.make_room(waiting != 0));
  }
  const int count = best.finish();
  const long long list = static_cast<long long>(blockIdx.z) * 2 + blockIdx.y;
  Key* out = lists + list * p.topk * gridDim.x + blockIdx.x;
  for (int i = threadIdx.x; i < p.topk; i += kPeakThreads) {
    out[static_cast<long long>(i) * gridDim.x] = i < count ? keys[i] : kNoKey;
  }
}

struct Corner {
  float score;
  float x, y;
  float embedding;
  int label;
};

// All threads: the best keys of an image's lists [topk, tiles], each ascending. Returns their number.
__device__ int merge_lists(const Key* lists, int tiles, BestKeys& best) {
  best.start();
  // Once a rank of all lists has nothing better than the worst of the best, the ranks behind it have not either.
  for (int first = 0, quiet = 0; first < best.most * tiles && quiet < tiles; first += kPairThreads) {
    const int i = first + threadIdx.x;
    const Key key = i < best.most * tiles ? lists[i] : kNoKey;
    bool waiting = key < best.limit;
    quiet = __syncthreads_or(waiting) ? 0 : quiet + kPairThreads;
    do {
      waiting = waiting && !best.append(key);
    } while (best.make_room(waiting));
  }
  return best.finish();
}

// All threads: fills the corners from `count` sorted keys of peaks and, where these are too few, from
// the first places that are none.
template <typename T>
__device__ void fill_corners(const Scalars& p, const Key* keys, int count, const T* embedding, const T* offset,
                             Corner* corners) {
  const int cells = p.height * p.width;
  const auto fill = [&](int rank, int place, float score) {
    const int cell = place % cells;
    corners[rank] = {score, __fadd_rn(cell % p.width, to_float(offset[2 * cell])),
                     __fadd_rn(cell / p.width, to_float(offset[2 * cell + 1])), to_float(embedding[cell]),
                     place / cells};
  };
  for (int i = threadIdx.x; i < count; i += kPairThreads) fill(i, key_index(keys[i]), sigmoid_exactly(key_score(keys[i])));
  if (count == p.topk) return;
  // Among the first topk places, enough are no peaks.
  for (int place = threadIdx.x; place < p.topk; place += kPairThreads) {
    int before = 0;
    bool peak = false;
    for (int i = 0; i < count; ++i) {
      before += key_index(keys[i]) < place;
      peak |= key_index(keys[i]) == place;
    }
    if (!peak && count + place - before < p.topk) fill(count + place - before, place, 0.0f);
  }
}

__device__ bool make_a_box(const Corner& a, const Corner& b, float ae_threshold) {
  const bool near = fabsf(__fsub_rn(a.embedding, b.embedding)) <= ae_threshold;
  const bool finite = isfinite(a.x) && isfinite(a.y) && isfinite(b.x) && isfinite(b.y);
  return near && finite && b.x >= a.x && b.y >= a.y;
}

template <typename T>
__device__ void pair_corners(const Scalars& p, int tiles, const Key* lists, const T* tl_embedding,
                             const T* br_embedding, const T* tl_offset, const T* br_offset, float4* boxes,
                             float* scores, int* classes, int* counts) {
  extern __shared__ __align__(16) Key shared[];
  __shared__ int stored;
  Corner* top_left = reinterpret_cast<Corner*>(shared);
  Corner* bottom_right = top_left + p.topk;
  // Two corners are 40 bytes, a whole number of keys.
  Key* keys = shared + p.topk * (2 * sizeof(Corner) / sizeof(Key));
  const long long image = blockIdx.x, cells = static_cast<long long>(p.height) * p.width;
  for (int kind = 0; kind < 2; ++kind) {
    BestKeys best = {keys, &stored, p.peak_capacity, p.topk, kNoKey};
    const int count = merge_lists(lists + (image * 2 + kind) * p.topk * tiles, tiles, best);
    fill_corners(p, keys, count, (kind == 0 ? tl_embedding : br_embedding) + image * cells,
                 (kind == 0 ? tl_offset : br_offset) + image * cells * 2, kind == 0 ? top_left : bottom_right);
    __syncthreads();  // the corners are visible, and the keys read before the next ones come
  }

  BestKeys best = {keys, &stored, p.pair_capacity, p.num_dets, kNoKey};
  best.start();
  for (int first = 0; first < p.topk * p.topk; first += kPairThreads) {
    const int pair = first + threadIdx.x;
    Key key = kNoKey;
    if (pair < p.topk * p.topk) {
      const Corner a = top_left[pair / p.topk], b = bottom_right[pair % p.topk];
      if (a.label == b.label && make_a_box(a, b, p.ae_threshold)) {
        key = sort_key(__fmul_rn(__fadd_rn(a.score, b.score), 0.5f), pair);
      }
    }
    bool waiting = key != kNoKey;
    do {
      waiting = waiting && !best.append(key);
    } while (best.make_room(waiting));
  }
  const int count = best.finish();
  for (int i = threadIdx.x; i < p.num_dets; i += kPairThreads) {
    const long long out = image * p.num_dets + i;
    const int pair = i < count ? key_index(keys[i]) : 0;
    const Corner a = top_left[pair / p.topk], b = bottom_right[pair % p.topk];
    boxes[out] = i < count ? make_float4(a.x, a.y, b.x, b.y) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    scores[out] = i < count ? key_score(keys[i]) : 0.0f;
    classes[out] = i < count ? a.label : -1;
  }
  if (threadIdx.x == 0) counts[image] = count;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kPeakThreads)
  corner_decode_peaks_f32(Scalars p, const float* top_left, const float* bottom_right, Key* lists) {
  find_peaks(p, top_left, bottom_right, lists);
}

extern "C" __global__ void __launch_bounds__(kPeakThreads)
  corner_decode_peaks_f16(Scalars p, const __half* top_left, const __half* bottom_right, Key* lists) {
  find_peaks(p, top_left, bottom_right, lists);
}

extern "C" __global__ void __launch_bounds__(kPeakThreads)
  corner_decode_peaks_bf16(Scalars p, const __nv_bfloat16* top_left, const __nv_bfloat16* bottom_right, Key* lists) {
  find_peaks(p, top_left, bottom_right, lists);
}

extern "C" __global__ void __launch_bounds__(kPairThreads)
  corner_decode_pairs_f32(Scalars p, int tiles, const Key* lists, const float* tl_embedding,
                          const float* br_embedding, const float* tl_offset, const float* br_offset, float4* boxes,
                          float* scores, int* classes, int* counts) {
  pair_corners(p, tiles, lists, tl_embedding, br_embedding, tl_offset, br_offset, boxes, scores, classes, counts);
}

extern "C" __global__ void __launch_bounds__(kPairThreads)
  corner_decode_pairs_f16(Scalars p, int tiles, const Key* lists, const __half* tl_embedding,
                          const __half* br_embedding, const __half* tl_offset, const __half* br_offset,
                          float4* boxes, float* scores, int* classes, int* counts) {
  pair_corners(p, tiles, lists, tl_embedding, br_embedding, tl_offset, br_offset, boxes, scores, classes, counts);
}

extern "C" __global__ void __launch_bounds__(kPairThreads)
  corner_decode_pairs_bf16(Scalars p, int tiles, const Key* lists, const __nv_bfloat16* tl_embedding,
                           const __nv_bfloat16* br_embedding, const __nv_bfloat16* tl_offset,
                           const __nv_bfloat16* br_offset, float4* boxes, float* scores, int* classes, int* counts) {
  pair_corners(p, tiles, lists, tl_embedding, br_embedding, tl_offset, br_offset, boxes, scores, classes, counts);
}
