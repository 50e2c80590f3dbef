// The parts of the forward kernel for sm_90a: its shared memory, the warp that fills it, and what a
// warpgroup of 64 queries does with a tile of keys.
#pragma once

#include "attention/forward_rows.cuh"
#include "attention/products_sm90.cuh"
#include "attention/schedule.cuh"
#include "common/named_barrier.cuh"
#include "common/register_share.cuh"

constexpr int kStages = 2;  // buffers for keys, and for values

// What D columns allow. A thread's registers hold scores (KEYS / 2), the probabilities of the tile before
// (KEYS / 4) and outputs (D / 2): 128 of 160 where three warpgroups share the file, and with two of 232
// at D = 128 160, at D = 256 188. There, keys, values and queries fill the shared memory, and outputs
// leave through the queries' place.
template <int D>
struct Shape90 {
  static constexpr int kGroups = D == 64 ? 3 : 2;
  static constexpr int kRows = kGroups * kGroupRows;
  static constexpr int kKeys = D == 256 ? 80 : 128;
  static constexpr int kColumnBlocks = D / kBoxColumns;
  static constexpr int kConsumers = kGroups * kWarpgroup;
  static constexpr int kThreads = kConsumers + kWarpgroup;
  // Multiples of 8 that fill the 65536 registers: 32 * 128 + 160 * 384, 40 * 128 + 232 * 256 + 1024.
  static constexpr int kConsumerRegisters = kGroups == 3 ? 160 : 232;
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 40;
  static constexpr bool kOwnStage = D < 256;
  // The generator's registers would not fit.
  static constexpr bool kDrops = D < 256;
  static constexpr int kGroupBytes = kGroupRows * D * 2;
  static constexpr int kTileBytes = kKeys * D * 2;
};

// What the producer tells the warpgroups to do; it lies in shared memory, not in each thread's registers.
struct Task {
  Work work;
  int tile;    // tiles of keys before
  int seeing;  // tasks before that have keys
  bool done;   // there are no more
};

// A block's dynamic shared memory; mirrored by `Tiles` in src/cuda/attention/forward/hopper.rs.
template <int D>
struct Shared90 {
  using Shape = Shape90<D>;
  // Where things start.
  static constexpr int kKeysAt = Shape::kGroups * Shape::kGroupBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * Shape::kTileBytes;
  static constexpr int kEnd = kValuesAt + kStages * Shape::kTileBytes;
  static constexpr int kStageAt = Shape::kOwnStage ? kEnd : 0;
  static constexpr int kRingsAt = kEnd + (Shape::kOwnStage ? kKeysAt : 0);
  static constexpr int kTasksAt = kRingsAt + Ring<1>::kBytes + 3 * Ring<kStages>::kBytes;
  static constexpr int kBytes = kTasksAt + kStages * static_cast<int>(sizeof(Task));

  using Queries = BlockedTile<kGroupRows>;
  using Keys = BlockedTile<Shape::kKeys>;

  unsigned char* memory;

  __device__ __forceinline__ unsigned at(int offset) const { return shared_address(memory) + offset; }
  __device__ __forceinline__ Queries queries(int group) const {
    return {at(group * Shape::kGroupBytes)};
  }
  __device__ __forceinline__ Keys keys(int n) const {
    return {at(kKeysAt + n % kStages * Shape::kTileBytes)};
  }
  __device__ __forceinline__ Keys values(int n) const {
    return {at(kValuesAt + n % kStages * Shape::kTileBytes)};
  }
  __device__ __forceinline__ unsigned stage(int group) const {
    return at(kStageAt + group * Shape::kGroupBytes);
  }
  __device__ __forceinline__ Task& task(int n) const {
    return reinterpret_cast<Task*>(memory + kTasksAt)[n % kStages];
  }
  __device__ __forceinline__ Ring<1> query_ring() const { return {at(kRingsAt)}; }
  __device__ __forceinline__ Ring<kStages> key_ring() const { return ring(0); }
  __device__ __forceinline__ Ring<kStages> value_ring() const { return ring(1); }
  __device__ __forceinline__ Ring<kStages> task_ring() const { return ring(2); }

 private:
  __device__ __forceinline__ Ring<kStages> ring(int number) const {
    return {at(kRingsAt + Ring<1>::kBytes + number * Ring<kStages>::kBytes)};
  }
};

static_assert(Shared90<64>::kBytes == 114952 && Shared90<128>::kBytes == 196872 &&
                  Shared90<256>::kBytes == 229640,
              "mirrored by the host");

struct Maps {
  const TensorMap& q;
  const TensorMap& k;
  const TensorMap& v;
};

// Says what this block has to do, tile of queries after tile, and starts the copies of what its
// warpgroups will want, in their order. One warp.
template <int D>
struct Producer {
  using Shape = Shape90<D>;
  const AttentionScalars& scalars;
  const Maps& maps;
  Shared90<D> shared;
  bool packed;
  int tile;    // tiles of keys so far
  int seeing;  // tiles of queries so far that saw keys

  __device__ __forceinline__ void copy_keys(const Corner& from, int n) const {
    const auto to = shared.keys(n);
    shared.key_ring().acquire(n, Shape::kTileBytes);
    copy_boxes(to.address, to.kBlockBytes, Shape::kColumnBlocks, maps.k, from,
               shared.key_ring().full(n));
  }

  // One thread.
  __device__ __forceinline__ void copy(const Work& work) {
    const int batch = packed ? 0 : work.block.batch;
    Corner from = {0, work.sequence.keys.first + work.begin, divide(work.block.head, scalars.by_group),
                  batch};
    // The first keys need not wait for the last outputs, as the queries may.
    copy_keys(from, tile);
    shared.query_ring().acquire(seeing, Shape::kGroups * Shape::kGroupBytes);
    for (int group = 0; group < Shape::kGroups; ++group) {
      const int token = work.sequence.queries.first + work.first + group * kGroupRows;
      const auto to = shared.queries(group);
      copy_boxes(to.address, to.kBlockBytes, Shape::kColumnBlocks, maps.q,
                 {0, token, work.block.head, batch}, shared.query_ring().full(seeing));
    }
    for (int left = work.end - work.begin; left > 0; left -= Shape::kKeys, ++tile) {
      Corner next = from;
      next.token += Shape::kKeys;
      if (left > Shape::kKeys) copy_keys(next, tile + 1);
      const auto to = shared.values(tile);
      shared.value_ring().acquire(tile, Shape::kTileBytes);
      copy_boxes(to.address, to.kBlockBytes, Shape::kColumnBlocks, maps.v, from,
                 shared.value_ring().full(tile));
      from = next;
    }
    ++seeing;
  }
};

template <int D>
__device__ __forceinline__ void produce(const AttentionScalars& scalars, const Schedule& schedule,
                                        const Limits& limits, const Maps& maps,
                                        const Shared90<D>& shared) {
  using Shape = Shape90<D>;
  Producer<D> producer = {scalars, maps, shared, limits.offsets_q != nullptr, 0, 0};
  int number = 0;
  for (unsigned round = 0;; ++round) {
    const unsigned index = index_in_round(round);
    const bool done = index >= static_cast<unsigned>(schedule.count);
    Work work = {};
    if (!done) work = work_at<Shape::kRows, Shape::kKeys>(scalars, schedule, limits, index);
    const bool writes_between = producer.packed && work.block.tile == 0;
    if (!done && work.last < work.first && !writes_between) continue;
    if (threadIdx.x % 32 == 0) {
      shared.task_ring().acquire(number);
      shared.task(number) = {work, producer.tile, producer.seeing, done};
      shared.task_ring().full(number).arrive();
      if (work.begin < work.end) producer.copy(work);
    }
    __syncwarp();
    if (done) break;
    ++number;
  }
}

// Whose turn it is to start products: while one warpgroup's run, the others compute exponentials. The
// turn goes round from group 0. All threads of a warpgroup take part.
template <int GROUPS>
struct Turns {
  static constexpr int kFirstBarrier = 1;
  int group;

  __device__ __forceinline__ void take() const {
    meet(kFirstBarrier + group, 2 * kWarpgroup);
  }
  __device__ __forceinline__ void hand_on() const {
    pass(kFirstBarrier + (group + 1 == GROUPS ? 0 : group + 1), 2 * kWarpgroup);
  }
  // Before the first turn, and after the last: the last group's turn is over.
  __device__ __forceinline__ void open() const {
    if (group == GROUPS - 1) hand_on();
  }
  __device__ __forceinline__ void close() const {
    if (group == 0) take();
  }
};
// Named barriers after those of the turns.
constexpr int kCleanedBarrier = 4;
constexpr int kStagedBarrier = 5;  // and one a group

// Zeros what nobody may see of a tile of values from `key`, and where some queries may not see all keys
// what is not finite. Whether there was any of that. The consumers take part.
template <typename T, int D>
__device__ __forceinline__ bool clean_values(const AttentionScalars& scalars,
                                             const Sequence& sequence,
                                             BlockedTile<Shape90<D>::kKeys> values, int key) {
  using Shape = Shape90<D>;
  constexpr int kChunks = values.kBlockChunks;
  bool found = false;
  for (int block = 0; block < Shape::kColumnBlocks; ++block) {
    const SwizzledTile<kBoxColumns> tile = values.block(block);
    const int column = threadIdx.x % kChunks;
    for (int row = threadIdx.x / kChunks; row < Shape::kKeys; row += Shape::kConsumers / kChunks) {
      if (key + row >= sequence.visible) store_shared(tile.chunk(row, column), make_uint4(0, 0, 0, 0));
    }
    if (has_window(scalars)) {
      // The same thread has the same chunks.
      found |= remove_non_finite<T>(tile, Shape::kKeys, kChunks, threadIdx.x, Shape::kConsumers);
    }
  }
  fence_async_proxy();
  // All chunks are clean before any warpgroup multiplies with them.
  return meet_or(kCleanedBarrier, Shape::kConsumers, found);
}
