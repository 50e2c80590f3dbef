// Non-maximum suppression, batched and class-aware.
//
// Reads:   boxes [B, N, 4] f32 (x1, y1, x2, y2), scores [B, N] f32, classes [B, N] i32 or null,
//          counts [B] i32 or null (only the first counts[b], clamped to [0, N], take part)
// Writes:  indices [B, max_output] i32 (-1 pads), kept [B] i32
// Launch:  nms_block_f32 <<<B, 512, 8 bytes x the next power of two of N>>> for N <= 5120. Above that
//          nms_sort_f32 (a block a run of 4096 keys, x B), nms_merge_keys (each launch doubles the
//          runs), then nms_chunk_f32 once for each 1024 sorted keys
// Order:   score descending, then index ascending. A NaN score, a score not above score_threshold and
//          a box that is not finite never take part. A box is dropped where a kept box before it, of
//          its class, has IoU > iou_threshold. No atomics; every word has one writer a launch
// Cost:    at most 40 bytes a box read and 4 an output written in one launch; at most kept * N / 2
//          tests an image
// Source:  the greedy rule of torchvision/csrc/ops/nms, and the pair masks of its CUDA version
// archs: sm_80

#include "common/box.cuh"
#include "common/candidates.cuh"
#include "common/long_sort.cuh"
#include "common/order.cuh"

namespace {

constexpr int kThreads = 512;
// Sorted boxes a thread of nms_block_f32 holds in registers: 5 words each, 50 of its 128 registers;
// 12 slots spill. 10 x 512 boxes hold the top 1000 of five feature levels.
constexpr int kSlots = 10;
// Sorted boxes resolved together: their pair masks are then one word a thread.
constexpr int kTile = 128;
constexpr int kTileWords = kTile / 32;
constexpr int kChunkSlots = 2;
constexpr int kChunk = kChunkSlots * kThreads;
constexpr int kRun = 4096;  // 32 KiB of keys: what static shared memory holds with room to spare

// Mirrors `Scalars` in src/cuda/nms.rs.
struct Scalars {
  float iou_threshold;
  float score_threshold;  // NaN: none
  int boxes_per_image;
  int max_output;
  int run_length;  // nms_merge_keys: keys of a sorted run on input
  int chunk;       // nms_chunk_f32: which kChunk sorted boxes this launch resolves
};
static_assert(sizeof(Scalars) == 24, "mirrored by the host");

__device__ Key key_of(const Image& image, int index, float score_threshold) {
  if (index >= image.live) return kNoKey;
  const float score = image.scores[index];
  const bool takes_part = score == score && !(score <= score_threshold) && is_finite_box(image.boxes[index]);
  return takes_part ? sort_key(score, index) : kNoKey;
}

__device__ __forceinline__ bool suppresses(const Candidate& keeper, const Candidate& other, float threshold) {
  return keeper.label == other.label && iou_exceeds(keeper.box, other.box, threshold);
}

struct Tile {
  Candidate candidates[kTile];
  unsigned overlaps[kTile][kTileWords];  // bit of column j in row i: i suppresses j > i
  unsigned alive[kTileWords];
  unsigned kept[kTileWords];

  // Called by the 128 owners, whole warps, with their place in the tile.
  __device__ void put(int place, const Candidate& candidate, bool is_alive) {
    candidates[place] = candidate;
    const unsigned word = __ballot_sync(0xffffffffu, is_alive);
    if (place % 32 == 0) alive[place / 32] = word;
  }

  // All threads: each fills one word of the pair masks.
  __device__ void fill_overlaps(float threshold) {
    const int row = threadIdx.x / kTileWords, first = threadIdx.x % kTileWords * 32;
    unsigned word = 0;
    if (alive[row / 32] >> row % 32 & 1) {
      for (int column = max(first, row + 1); column < first + 32; ++column) {
        if (suppresses(candidates[row], candidates[column], threshold)) word |= 1u << (column - first);
      }
    }
    overlaps[row][first / 32] = word;
  }

  // One thread: keeps the survivors in order, at most `room` of them. Returns how many.
  __device__ int resolve(int room) {
    int count = 0;
    for (int w = 0; w < kTileWords; ++w) {
      unsigned chosen = 0;
      while (alive[w] != 0 && count < room) {
        const int bit = __ffs(alive[w]) - 1;
        chosen |= 1u << bit;
        ++count;
        alive[w] &= ~(1u << bit);
        for (int v = w; v < kTileWords; ++v) alive[v] &= ~overlaps[w * 32 + bit][v];
      }
      kept[w] = chosen;
    }
    return count;
  }

  __device__ bool is_kept(int place) const { return kept[place / 32] >> place % 32 & 1; }

  // How many boxes of the tile are kept before `place`.
  __device__ int rank(int place) const {
    int before = __popc(kept[place / 32] & ((1u << place % 32) - 1));
    for (int w = 0; w < place / 32; ++w) before += __popc(kept[w]);
    return before;
  }

  // Clears the bits of `open` whose candidate a box kept in this tile suppresses.
  template <int Slots>
  __device__ unsigned strike(const Candidate (&held)[Slots], unsigned open, float threshold) const {
    for (int w = 0; w < kTileWords; ++w) {
      for (unsigned bits = kept[w]; bits != 0 && open != 0; bits &= bits - 1) {
        const Candidate keeper = candidates[w * 32 + __ffs(bits) - 1];
#pragma unroll
        for (int s = 0; s < Slots; ++s) {
          if (open >> s & 1 && suppresses(keeper, held[s], threshold)) open &= ~(1u << s);
        }
      }
    }
    return open;
  }
};

// Resolves up to kThreads * Slots sorted boxes held by the block's threads, thread t holding the
// sorted places t, t + kThreads, ... `alive` has a bit a slot. `keep(slot, rank)` is called by the
// owner of each kept box. Returns, to all threads, `kept` plus the boxes kept here.
template <int Slots, typename Keep>
__device__ int resolve_block(const Candidate (&held)[Slots], unsigned alive, int places, int kept, int max_output,
              float threshold, Keep keep) {
  __shared__ Tile tile;
  __shared__ int kept_in_tile;
  for (int first = 0; first < places && kept < max_output; first += kTile) {
    const int slot = first / kThreads, place = static_cast<int>(threadIdx.x) - first % kThreads;
    const bool owner = place >= 0 && place < kTile;
#pragma unroll
    for (int s = 0; s < Slots; ++s) {
      if (s == slot && owner) tile.put(place, held[s], alive >> s & 1);
    }
    __syncthreads();  // the tile's candidates are visible
    tile.fill_overlaps(threshold);
    __syncthreads();  // the pair masks are visible
    if (threadIdx.x == 0) kept_in_tile = tile.resolve(max_output - kept);
    __syncthreads();  // the kept set is visible
    if (owner && tile.is_kept(place)) keep(slot, kept + tile.rank(place));
    kept += kept_in_tile;
    if (kept == max_output) break;  // what is left cannot be kept, so nothing need be struck out
    const unsigned done = (1u << (place >= kTile ? slot : slot + 1)) - 1;
    alive &= done | tile.strike(held, alive & ~done, threshold);
    __syncthreads();  // all have read the tile before the next one overwrites it
  }
  return kept;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
  nms_block_f32(Scalars p, const float4* boxes, const float* scores, const int* classes, const int* counts,
         int* indices, int* kept_counts) {
  extern __shared__ Key keys[];
  const Image image(boxes, scores, classes, counts, blockIdx.x, p.boxes_per_image);
  int length = 2;
  while (length < image.live) length *= 2;
  for (int i = threadIdx.x; i < length; i += kThreads) keys[i] = key_of(image, i, p.score_threshold);
  long_sort(keys, length, image.live);

  Candidate held[kSlots];
  unsigned alive = 0;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int place = s * kThreads + threadIdx.x;
    const Key key = place < length ? keys[place] : kNoKey;
    held[s] = Candidate{};
    if (key != kNoKey) {
      held[s] = image.candidate(key_index(key));
      alive |= 1u << s;
    }
  }
  int* out = indices + static_cast<long long>(blockIdx.x) * p.max_output;
  const int kept = resolve_block(held, alive, image.live, 0, p.max_output, p.iou_threshold, [&](int slot, int rank) {
    out[rank] = key_index(keys[slot * kThreads + threadIdx.x]);
  });
  for (int i = kept + threadIdx.x; i < p.max_output; i += kThreads) out[i] = -1;
  if (threadIdx.x == 0) kept_counts[blockIdx.x] = kept;
}

// Sorts runs of kRun keys into keys [B, P], P = gridDim.x * kRun, pads the outputs with -1 and sets
// the count before the first chunk, chunk_kept [B, P / kChunk + 1], to 0.
// One block a multiprocessor is enough to promise: for two, ptxas spills on sm_90.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
  nms_sort_f32(Scalars p, const float4* boxes, const float* scores, const int* counts, Key* keys, int* indices,
        int* chunk_kept) {
  __shared__ Key run[kRun];
  const Image image(boxes, scores, nullptr, counts, blockIdx.y, p.boxes_per_image);
  const int first = blockIdx.x * kRun;
  for (int i = threadIdx.x; i < kRun; i += kThreads) run[i] = key_of(image, first + i, p.score_threshold);
  long_sort(run, kRun, max(image.live - first, 0));
  Key* out = keys + (static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x) * kRun;
  for (int i = threadIdx.x; i < kRun; i += kThreads) out[i] = run[i];
  int* image_indices = indices + static_cast<long long>(blockIdx.y) * p.max_output;
  for (int i = first + threadIdx.x; i < min(first + kRun, p.max_output); i += kThreads) image_indices[i] = -1;
  const int chunks = gridDim.x * (kRun / kChunk);
  if (blockIdx.x == 0 && threadIdx.x == 0) chunk_kept[blockIdx.y * (chunks + 1)] = 0;
}

// Merges neighbouring runs of `from` [B, P] into `to`: the place of a key is its place in its own
// run plus the number of keys before it in the other. Grid P / kThreads x B.
extern "C" __global__ void __launch_bounds__(kThreads)
  nms_merge_keys(Scalars p, const Key* from, Key* to) {
  const int length = gridDim.x * kThreads, place = blockIdx.x * kThreads + threadIdx.x;
  from += static_cast<long long>(blockIdx.y) * length;
  to += static_cast<long long>(blockIdx.y) * length;
  const int run = place / p.run_length, other = (run ^ 1) * p.run_length;
  const int other_length = min(max(length - other, 0), p.run_length);
  const Key key = from[place];
  const int before = count_below(from + min(other, length), other_length, key, run % 2 == 1);
  to[run / 2 * 2 * p.run_length + place % p.run_length + before] = key;
}

// Resolves chunk p.chunk of the sorted keys, then strikes out (as kNoKey) the later boxes that it
// suppresses. Every block resolves the chunk for itself, which costs less than a launch between the
// two; block 0 of an image writes the outputs. Grid: any number of blocks x B.
extern "C" __global__ void __launch_bounds__(kThreads)
  nms_chunk_f32(Scalars p, const float4* boxes, const int* classes, const int* counts, int chunks, Key* keys,
         int* chunk_kept, int* indices, int* kept_counts) {
  __shared__ Candidate keepers[kChunk];
  const Image image(boxes, nullptr, classes, counts, blockIdx.y, p.boxes_per_image);
  const int length = chunks * kChunk;
  keys += static_cast<long long>(blockIdx.y) * length;
  chunk_kept += blockIdx.y * (chunks + 1);
  int* out = indices + static_cast<long long>(blockIdx.y) * p.max_output;

  const int before = chunk_kept[p.chunk];
  const bool full = before == p.max_output;
  Candidate held[kChunkSlots] = {};
  int held_index[kChunkSlots];
  unsigned alive = 0;
#pragma unroll
  for (int s = 0; s < kChunkSlots; ++s) {
    const Key key = full ? kNoKey : keys[p.chunk * kChunk + s * kThreads + threadIdx.x];
    held_index[s] = key_index(key);
    if (key != kNoKey) {
      held[s] = image.candidate(held_index[s]);
      alive |= 1u << s;
    }
  }
  const bool writer = blockIdx.x == 0;
  const auto keep = [&](int slot, int rank) {
    keepers[rank - before] = slot == 0 ? held[0] : held[1];
    if (writer) out[rank] = slot == 0 ? held_index[0] : held_index[1];
  };
  const int kept = resolve_block(held, alive, kChunk, before, p.max_output, p.iou_threshold, keep);
  __syncthreads();  // the keepers are visible
  if (writer && threadIdx.x == 0) {
    chunk_kept[p.chunk + 1] = kept;
    if (p.chunk + 1 == chunks) kept_counts[blockIdx.y] = kept;
  }
  if (kept == p.max_output) return;
  const int step = gridDim.x * kThreads;
  for (int place = (p.chunk + 1) * kChunk + blockIdx.x * kThreads + threadIdx.x; place < length; place += step) {
    const Key later = keys[place];
    if (later == kNoKey) continue;
    const Candidate candidate = image.candidate(key_index(later));
    bool suppressed = false;
    for (int k = 0; k < kept - before && !suppressed; ++k) {
      suppressed = suppresses(keepers[k], candidate, p.iou_threshold);
    }
    if (suppressed) keys[place] = kNoKey;
  }
}
