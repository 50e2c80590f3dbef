// The words of common/ that are for compute capability 9.0, a kernel or two each. Only tests launch
// them: tests/devices/hopper.
//
// Reads:   as each kernel says
// Writes:  out or sums, every element once
// Launch:  a block of a warpgroup, where a kernel does not say more; dynamic shared memory for the boxes
//          or operands of 16 bits that it names, and with boxes 8 bytes for a barrier
// Order:   the results are exact, whatever the schedule
// Cost:    of no concern
// archs: sm_90a

#include "common/mma.cuh"
#include "common/named_barrier.cuh"
#include "common/register_share.cuh"
#include "common/shared.cuh"
#include "common/swizzled_tile.cuh"
#include "common/tensor_copy.cuh"
#include "common/wgmma.cuh"

// What a kernel does wrong on purpose, so that tests see it found. Mirrors `Mistake` in
// tests/devices/hopper/launch.rs.
enum Mistake {
  kNone,
  kNoWait,        // reads what it has not waited for
  kEarlyRelease,  // releases a buffer and then reads it
  kNoProxyFence,  // multiplies what ordinary stores left, unfenced
  kEarlyStore,    // overwrites an operand while a product is under way
};

using Block = SwizzledTile<kBoxColumns>;

// The dynamic shared memory.
__device__ __forceinline__ unsigned memory_start() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return shared_address(memory);
}

// A box of [tokens, 64 blocks] from (token, head, batch) on, row-major in `out`.
extern "C" __global__ void __launch_bounds__(kWarpgroup, 1)
hopper_copy_boxes(const __grid_constant__ TensorMap map, int token, int head, int batch,
                  int tokens, int blocks, int mistake, uint4* out) {
  const unsigned start = memory_start();
  const int bytes = tokens * kBoxRowBytes;
  const Mbarrier there = {start + blocks * bytes};
  if (threadIdx.x == 0) {
    prefetch_map(map);
    there.init(1);
    publish_barriers();
  }
  // The barrier is there.
  __syncthreads();
  if (threadIdx.x == 0) {
    there.arrive_expecting(blocks * bytes);
    copy_boxes(start, bytes, blocks, map, {0, token, head, batch}, there);
  }
  if (mistake != kNoWait) there.wait(0);
  const int chunks = blocks * Block::kChunks;
  for (int i = threadIdx.x; i < tokens * chunks; i += kWarpgroup) {
    const int row = i / chunks, chunk = i % chunks;
    const Block block = {start + chunk / Block::kChunks * bytes};
    out[i] = load_shared(block.chunk(row, chunk % Block::kChunks));
  }
}

// Pieces [count, 128] through a ring of three buffers, each with a label through one of two, which
// ordinary stores fill: out[n][i] = pieces[n][(i + 33) % 128] + label n, which is 3 n + 1. A block of a
// warpgroup that reads and a warp that fills.
extern "C" __global__ void __launch_bounds__(kWarpgroup + 32, 1)
hopper_rings(const int* pieces, int count, int mistake, int* out) {
  constexpr int kStages = 3, kLabels = 2, kBytes = kWarpgroup * 4;
  __shared__ __align__(16) int buffers[kStages][kWarpgroup];
  __shared__ int labels[kLabels];
  __shared__ __align__(8) unsigned char barriers[Ring<kStages>::kBytes + Ring<kLabels>::kBytes];
  const Ring<kStages> ring = {shared_address(barriers)};
  const Ring<kLabels> label_ring = {ring.address + Ring<kStages>::kBytes};
  if (threadIdx.x == 0) {
    ring.init(kWarpgroup / 32);
    label_ring.init(kWarpgroup / 32);
    publish_barriers();
  }
  // The barriers are there.
  __syncthreads();
  if (threadIdx.x >= kWarpgroup) {
    if (threadIdx.x != kWarpgroup) return;
    for (int n = 0; n < count; ++n) {
      const unsigned to = shared_address(buffers[n % kStages]);
      const int* from = pieces + n * kWarpgroup;
      ring.acquire(n, kBytes);
      // Several copies count on one barrier.
      copy_bytes(to, from, kBytes / 4, ring.full(n));
      copy_bytes(to + kBytes / 4, from + kWarpgroup / 4, kBytes - kBytes / 4, ring.full(n));
      label_ring.acquire(n);
      labels[n % kLabels] = 3 * n + 1;
      label_ring.full(n).arrive();
    }
    return;
  }
  for (int n = 0; n < count; ++n) {
    label_ring.wait(n);
    const int label = labels[n % kLabels];
    label_ring.release(n);
    if (mistake != kNoWait) ring.wait(n);
    if (mistake == kEarlyRelease) ring.release(n);
    out[n * kWarpgroup + threadIdx.x] = buffers[n % kStages][(threadIdx.x + 33) % kWarpgroup] + label;
    if (mistake != kEarlyRelease) ring.release(n);
  }
}

// Warpgroup 0 hands warpgroup 1 a row of 128 numbers in each round: out[round][i] = 1000 round +
// (i + 33) % 128. After that each warpgroup votes; votes[i] is whether thread `voter` is of the same one
// as thread i. A block of two warpgroups.
extern "C" __global__ void __launch_bounds__(2 * kWarpgroup, 1)
hopper_named_barriers(int rounds, int voter, int mistake, int* out, int* votes) {
  constexpr int kStarted = 1, kFull = 2, kEmpty = 3, kVote = 4;  // and one a warpgroup
  __shared__ int row[kWarpgroup];
  const int group = warpgroup_number(), thread = threadIdx.x % kWarpgroup;
  for (int round = 0; round < rounds; ++round) {
    if (group == 0) {
      // The last row has been read.
      if (round > 0) meet(kEmpty, 2 * kWarpgroup);
      // Met after kFull: a `pass` that waited would wait for ever.
      pass(kStarted, 2 * kWarpgroup);
      row[thread] = 1000 * round + thread;
      pass(kFull, 2 * kWarpgroup);
    } else {
      const int from = (thread + 33) % kWarpgroup;
      int number = 0;
      if (mistake == kNoWait) number = row[from];
      // The row is there.
      meet(kFull, 2 * kWarpgroup);
      meet(kStarted, 2 * kWarpgroup);
      if (mistake != kNoWait) number = row[from];
      out[round * kWarpgroup + thread] = number;
      if (round + 1 < rounds) pass(kEmpty, 2 * kWarpgroup);
    }
  }
  const bool mine = static_cast<int>(threadIdx.x) == voter;
  votes[threadIdx.x] = meet_or(kVote + group, kWarpgroup, mine);
}

// GROUPS warpgroups take TAKEN registers a thread and hold LIVE numbers in them, more than an equal share
// of the registers, while one more keeps KEPT. Of `numbers` [LIVE][threads], row i of out is the sum of
// the last i + 1 rows; in the columns of the one more, it is row 0 and then zeros. Each block has an out
// [LIVE][threads] of its own.
template <int GROUPS, int KEPT, int TAKEN, int LIVE>
__device__ __forceinline__ void share_registers(const float* numbers, float* out) {
  constexpr int kThreads = (GROUPS + 1) * kWarpgroup;
  static_assert(65536 / kThreads < LIVE && LIVE < TAKEN, "without a share the numbers are spilled");
  out += blockIdx.x * LIVE * kThreads + threadIdx.x;
  numbers += threadIdx.x;
  if (threadIdx.x >= GROUPS * kWarpgroup) {
    keep_registers<KEPT>();
    out[0] = numbers[0];
#pragma unroll 1
    for (int i = 1; i < LIVE; ++i) out[i * kThreads] = 0.0f;
  } else {
    take_registers<TAKEN>();
    float held[LIVE / 4][4];
#pragma unroll
    for (int i = 0; i < LIVE; ++i) held[i / 4][i % 4] = numbers[i * kThreads];
    // All are there before the first is used.
    pin(held);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LIVE; ++i) {
      const int last = LIVE - 1 - i;
      sum += held[last / 4][last % 4];
      out[i * kThreads] = sum;
    }
  }
}

#define SHARE_REGISTERS(SYMBOL, GROUPS, KEPT, TAKEN, LIVE)                   \
  extern "C" __global__ void __launch_bounds__((GROUPS + 1) * kWarpgroup, 1) \
  SYMBOL(const float* numbers, float* out) {                                 \
    share_registers<GROUPS, KEPT, TAKEN, LIVE>(numbers, out);                \
  }

// What the kernels of attention share.
SHARE_REGISTERS(hopper_share_registers_2x240, 2, 24, 240, 208)
SHARE_REGISTERS(hopper_share_registers_2x232, 2, 40, 232, 200)
SHARE_REGISTERS(hopper_share_registers_3x160, 3, 32, 160, 132)

// Products. Operands are row-major, and so are the sums [64, COLUMNS].

constexpr int kRows = 64;
constexpr int kAlong = 128;  // k of operands along whose rows it runs: two blocks
constexpr int kDown = 32;    // and of those down whose rows: two steps

// Stores [rows, columns] elements as blocks of 64 columns.
template <typename T>
__device__ __forceinline__ void place(unsigned to, const T* from, int rows, int columns) {
  const int chunks = columns * 2 / 16;
  for (int i = threadIdx.x; i < rows * chunks; i += kWarpgroup) {
    const int row = i / chunks, chunk = i % chunks;
    const Block block = {to + chunk / Block::kChunks * rows * kBoxRowBytes};
    store_shared(block.chunk(row, chunk % Block::kChunks), reinterpret_cast<const uint4*>(from)[i]);
  }
}

// Calls body(sum, its place in [64, 8 N]) for each sum of this thread.
template <int N, typename Body>
__device__ __forceinline__ void for_each_sum(float (&d)[N][4], const Body& body) {
  const int row = threadIdx.x / 32 * 16 + fragment_row();
#pragma unroll
  for (int i = 0; i < 4 * N; ++i) {
    body(d[i / 4][i % 4], (row + i % 4 / 2 * 8) * 8 * N + i / 4 * 8 + fragment_column() + i % 2);
  }
}
template <int N>
__device__ __forceinline__ void load_sums(float (&d)[N][4], const float* from) {
  for_each_sum(d, [&](float& sum, int at) { sum = from[at]; });
}
template <int N>
__device__ __forceinline__ void store_sums(float (&d)[N][4], float* to) {
  for_each_sum(d, [&](float& sum, int at) { to[at] = sum; });
}

// Adds to the sums what `start` starts, once the operands are in shared memory.
template <int COLUMNS, typename Start>
__device__ __forceinline__ void add_products(float* sums, bool fence, const Start& start) {
  float d[COLUMNS / 8][4];
  load_sums(d, sums);
  if (fence) fence_async_proxy();
  // The operands are there.
  __syncthreads();
  pin(d);
  begin_products();
  start(d);
  commit_products();
  wait_for_products<0>();
  pin(d);
  store_sums(d, sums);
}

// sums = a b^T, or with `add` sums += a b^T; a [64, 128], b [COLUMNS, 128].
template <typename T, int COLUMNS>
__device__ __forceinline__ void multiply_along_rows(const T* a, const T* b, bool add, int mistake,
                                                    float* sums) {
  const unsigned a_at = memory_start(), b_at = a_at + kRows * kAlong * 2;
  place(a_at, a, kRows, kAlong);
  place(b_at, b, COLUMNS, kAlong);
  add_products<COLUMNS>(sums, mistake != kNoProxyFence, [&](float (&d)[COLUMNS / 8][4]) {
#pragma unroll
    for (int step = 0; step < kAlong / 16; ++step) {
      const int block = step / 4, within = step % 4 * 32;
      multiply_async(d, along_rows(a_at).advance(block * kRows * kBoxRowBytes + within),
                     along_rows(b_at).advance(block * COLUMNS * kBoxRowBytes + within),
                     add || step > 0, T());
    }
  });
}

// sums += a b, a [64, 32] in registers, made of sums of this layout and rounded; b [32, COLUMNS].
template <typename T, int COLUMNS>
__device__ __forceinline__ void multiply_registers(const float* a, const T* b, float* sums) {
  const unsigned b_at = memory_start();
  place(b_at, b, kDown, COLUMNS);
  unsigned rounded[kDown / 16][4];
  float left[kDown / 8][4];
  load_sums(left, a);
#pragma unroll
  for (int step = 0; step < kDown / 16; ++step) {
    as_left_operand<T>(rounded[step], left[2 * step], left[2 * step + 1]);
  }
  pin(rounded);
  add_products<COLUMNS>(sums, true, [&](float (&d)[COLUMNS / 8][4]) {
#pragma unroll
    for (int step = 0; step < kDown / 16; ++step) {
      const Operand right = down_rows(b_at, kDown * kBoxRowBytes);
      multiply_async(d, rounded[step], right.advance(step * 16 * kBoxRowBytes), T());
    }
  });
  pin(rounded);
}

// sums += a^T b; a [32, 64], b [32, 64].
template <typename T>
__device__ __forceinline__ void multiply_turned(const T* a, const T* b, float* sums) {
  const unsigned a_at = memory_start(), b_at = a_at + kDown * kBoxRowBytes;
  place(a_at, a, kDown, kBoxColumns);
  place(b_at, b, kDown, kBoxColumns);
  add_products<kBoxColumns>(sums, true, [&](float (&d)[kBoxColumns / 8][4]) {
#pragma unroll
    for (int step = 0; step < kDown / 16; ++step) {
      const int bytes = step * 16 * kBoxRowBytes;
      multiply_turned_async(d, down_rows(a_at, kDown * kBoxRowBytes).advance(bytes),
                            down_rows(b_at, kDown * kBoxRowBytes).advance(bytes), T());
    }
  });
}

// Two groups of products: sums[0] = a b^T, which is read while sums[1] = b a^T may still be under way;
// a and b [64, 64].
extern "C" __global__ void __launch_bounds__(kWarpgroup, 1)
hopper_two_groups(const __nv_bfloat16* a, const __nv_bfloat16* b, int mistake, float* sums) {
  const unsigned a_at = memory_start(), b_at = a_at + kRows * kBoxRowBytes;
  place(a_at, a, kRows, kBoxColumns);
  place(b_at, b, kRows, kBoxColumns);
  fence_async_proxy();
  // Both operands are there.
  __syncthreads();
  float d[2][kRows / 8][4];
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    pin(d[group]);
    begin_products();
    const Operand left = along_rows(group ? b_at : a_at), right = along_rows(group ? a_at : b_at);
#pragma unroll
    for (int step = 0; step < kBoxColumns / 16; ++step) {
      multiply_async(d[group], left.advance(32 * step), right.advance(32 * step), step > 0,
                     __nv_bfloat16());
    }
    commit_products();
  }
  wait_for_products<1>();
  pin(d[0]);
  store_sums(d[0], sums);
  if (mistake == kEarlyStore) store_shared(a_at + 16 * threadIdx.x, make_uint4(0, 0, 0, 0));
  wait_for_products<0>();
  pin(d[1]);
  store_sums(d[1], sums + kRows * kRows);
}

#define ALONG_ROWS(T, NAME, COLUMNS)                                                       \
  extern "C" __global__ void __launch_bounds__(kWarpgroup, 1)                              \
  hopper_along_rows_n##COLUMNS##_##NAME(const T* a, const T* b, int add, int mistake,      \
                                        float* sums) {                                     \
    multiply_along_rows<T, COLUMNS>(a, b, add != 0, mistake, sums);                        \
  }
#define REGISTERS(T, NAME, COLUMNS)                                                        \
  extern "C" __global__ void __launch_bounds__(kWarpgroup, 1)                              \
  hopper_registers_n##COLUMNS##_##NAME(const float* a, const T* b, float* sums) {          \
    multiply_registers<T, COLUMNS>(a, b, sums);                                            \
  }

// All products that there are.
#define PRODUCTS(T, NAME)                                                                  \
  ALONG_ROWS(T, NAME, 32) ALONG_ROWS(T, NAME, 64) ALONG_ROWS(T, NAME, 80)                  \
  ALONG_ROWS(T, NAME, 128) ALONG_ROWS(T, NAME, 136) ALONG_ROWS(T, NAME, 208)               \
  REGISTERS(T, NAME, 64) REGISTERS(T, NAME, 128) REGISTERS(T, NAME, 256)                   \
  extern "C" __global__ void __launch_bounds__(kWarpgroup, 1)                              \
  hopper_turned_##NAME(const T* a, const T* b, float* sums) {                              \
    multiply_turned<T>(a, b, sums);                                                        \
  }

PRODUCTS(__half, f16)
PRODUCTS(__nv_bfloat16, bf16)
