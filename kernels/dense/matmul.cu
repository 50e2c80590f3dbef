// Matrix product with a gathered left matrix: linear layers and two-dimensional convolutions.
//
//   out[m, n] = act(sum_k x[m, k] * weight[n, k] + bias[n] + residual[m, n])
//
// Reads:   x [B, H, W, C] T, of which row m, column k of the left matrix are gathered (gather.cuh);
//          weight [N, K up to a multiple of 8] T, zeros at the end; bias [N] T or null;
//          residual [M, N] T or null
// Writes:  out [M, N] T
// Launch:  <<<row tiles * column tiles, threads, shared>>> as in the host's plan; a block's tile is
//          128 x 128 by 256 threads, or 64 x 64 by 128
// Order:   each sum is formed by one warp in the order of k; no result depends on the schedule
// Cost:    2 M N K operations; x once for each column of tiles, weight once for each row of tiles,
//          most of it from L2; out and residual once
// Source:  the pipeline is that of the PTX ISA's asynchronous copies; f32 by mma_tf32.cuh
// archs: sm_80

#include "common/activation.cuh"
#include "common/mma_tf32.cuh"
#include "common/reduce.cuh"
#include "dense/gather.cuh"

#include <type_traits>

// Three stages under way hide the latency of L2 behind the products of one; with the largest tile, 64
// KiB let two blocks share a multiprocessor on every GPU from 8.0 on.
constexpr int kStages = 4;
// Columns of a warp's part: with 64 rows, 96 rows and columns are read from shared memory for 2048
// products, within its bandwidth.
constexpr int kWarpColumns = 32;
constexpr int kFragments = kWarpColumns / 8;
// Floats from one staged row to the next: 8 more than a row, so that the fragments' stores of 8 bytes
// meet no bank twice.
constexpr int kStagedPitch = kWarpColumns + 8;

// A block's shape. MI: blocks of 16 rows in a warp's part.
template <typename T, int MI>
struct Shape {
  static constexpr int kWarpRows = MI * 16;
  static constexpr int kWarpsAcross = MI == 4 ? 4 : 2;
  static constexpr int kThreads = 2 * kWarpsAcross * 32;
  static constexpr int kRows = 2 * kWarpRows;
  static constexpr int kColumns = kWarpsAcross * kWarpColumns;
  static constexpr int kStageBytes = (kRows + kColumns) * 16 * kStageChunks;
  // Rows that one pass of all threads brings, a chunk each.
  static constexpr int kPass = kThreads / kStageChunks;
  static_assert(kRows == kColumns && kRows == 2 * kPass, "two chunks of each matrix a thread");
  static_assert(kThreads / 32 * 16 * kStagedPitch * 4 <= kStages * kStageBytes,
                "staged rows take the pipeline's place");
};

// What one thread brings into each stage: chunk `chunk` of two rows of either matrix.
template <typename T, int MI>
struct Loader {
  using S = Shape<T, MI>;
  const T* x;
  const T* weight[2];
  Pixel pixels[2];
  bool outputs[2];
  Tap tap;
  int k;
  int row;
  int chunk;

  __device__ __forceinline__ Loader(const Scalars& s, const T* x, const T* weights, int first_row,
                                    int first_column)
      : x(x), tap{0, 0, 0} {
    chunk = threadIdx.x % kStageChunks;
    row = threadIdx.x / kStageChunks;
    k = chunk * kChunk<T>;
    tap.advance(k, s);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      pixels[i].locate(first_row + row + i * S::kPass, s);
      const int column = first_column + row + i * S::kPass;
      outputs[i] = column < s.outputs;
      weight[i] = weights + (outputs[i] ? 1LL * column * s.weight_pitch : 0);
    }
  }

  // Starts the copies of the next stage, into `stage`.
  __device__ __forceinline__ void load(unsigned stage, const Scalars& s) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int to = row + i * S::kPass;
      gather_chunk(chunk_address(stage, to, chunk), x, pixels[i], tap, k, s);
      const bool valid = outputs[i] && k < s.weight_pitch;
      copy_async(chunk_address(stage, S::kRows + to, chunk), weight[i] + (valid ? k : 0), valid);
    }
    k += kStageSteps<T>;
    tap.advance(kStageSteps<T>, s);
  }
};

// Adds the products of one stage to a warp's sums. `left` and `right` are the shared addresses of
// its rows and columns. A step is 32 bytes of both: 16 elements of 16 bits, or 8 floats.
template <typename T, int MI>
__device__ __forceinline__ void multiply_stage(float (&sums)[MI][kFragments][4], unsigned tile,
                                               int left, int right) {
  const int lane = threadIdx.x % 32;
  const int left_row = left + lane % 16;
  const int right_row = right + lane % 8 + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < kStageChunks / 2; ++step) {
    unsigned b[kFragments / 2][4];
#pragma unroll
    for (int pair = 0; pair < kFragments / 2; ++pair) {
      load_matrices(b[pair],
                    chunk_address(tile, right_row + 16 * pair, 2 * step + lane / 8 % 2));
    }
#pragma unroll
    for (int block = 0; block < MI; ++block) {
      unsigned a[4];
      load_matrices(a, chunk_address(tile, left_row + 16 * block, 2 * step + lane / 16));
#pragma unroll
      for (int n = 0; n < kFragments; ++n) {
        multiply_add(sums[block][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1], T());
      }
    }
  }
}

// The same for floats. The tensor cores cut off the low bits of a sum, always towards 0; so they add
// up one stage, 16 steps, from 0, and the sums of stages are added with rounding.
template <int MI>
__device__ __forceinline__ void multiply_stage_f32(float (&sums)[MI][kFragments][4], unsigned tile,
                                                   int left, int right) {
  constexpr int kSteps = kStageChunks / 2;
  const int lane = threadIdx.x % 32;
  const int left_row = left + lane % 16;
  const int right_row = right + lane % 8 + lane / 16 * 8;
  Parts b[kSteps][kFragments][2];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int pair = 0; pair < kFragments / 2; ++pair) {
      unsigned bits[4];
      load_matrices(bits, chunk_address(tile, right_row + 16 * pair, 2 * step + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 4; ++i) b[step][2 * pair + i / 2][i % 2] = split(bits[i]);
    }
  }
#pragma unroll
  for (int block = 0; block < MI; ++block) {
    unsigned big[kSteps][4], small[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      unsigned bits[4];
      load_matrices(bits, chunk_address(tile, left_row + 16 * block, 2 * step + lane / 16));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Parts parts = split(bits[i]);
        big[step][i] = parts.big;
        small[step][i] = parts.small;
      }
    }
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const Parts(&parts)[2] = b[step][n];
        multiply_add_tf32(sum, small[step], parts[0].big, parts[1].big);
        multiply_add_tf32(sum, big[step], parts[0].small, parts[1].small);
        multiply_add_tf32(sum, big[step], parts[0].big, parts[1].big);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][n][i] += sum[i];
    }
  }
}

// Finishes a warp's sums, 16 rows at a time, through `staged`, the shared address of
// [16, kStagedPitch] floats of its own.
template <typename T, int MI>
__device__ __forceinline__ void finish(const Scalars& s, const float (&sums)[MI][kFragments][4],
                                       unsigned staged, const T* bias, const T* residual, T* out,
                                       int first_row, int first_column) {
  constexpr int kLanesPerRow = kWarpColumns / kChunk<T>;
  constexpr int kRowsPerPass = 32 / kLanesPerRow;
  const int lane = threadIdx.x % 32;
  const int column_in_warp = lane % kLanesPerRow * kChunk<T>;
  const int column = first_column + column_in_warp;
  const int count = max(0, min(kChunk<T>, s.outputs - column));
  float biases[kChunk<T>];
#pragma unroll
  for (int i = 0; i < kChunk<T>; ++i) {
    biases[i] = bias != nullptr && i < count ? to_float(bias[column + i]) : 0.0f;
  }
#pragma unroll
  for (int block = 0; block < MI; ++block) {
    // The lanes have read the rows before.
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      const int column = 8 * n + fragment_column();
      const float(&sum)[4] = sums[block][n];
      store_shared(staged + 4 * (fragment_row() * kStagedPitch + column),
                   make_float2(sum[0], sum[1]));
      store_shared(staged + 4 * ((fragment_row() + 8) * kStagedPitch + column),
                   make_float2(sum[2], sum[3]));
    }
    // The lanes read what others staged.
    __syncwarp();
#pragma unroll
    for (int pass = 0; pass < 16 / kRowsPerPass; ++pass) {
      const int row_in_block = pass * kRowsPerPass + lane / kLanesPerRow;
      const int row = first_row + block * 16 + row_in_block;
      if (row >= s.rows || count == 0) continue;
      const unsigned values = staged + 4 * (row_in_block * kStagedPitch + column_in_warp);
      const long long at = 1LL * row * s.outputs + column;
      float result[kChunk<T>], added[kChunk<T>];
#pragma unroll
      for (int i = 0; i < kChunk<T>; i += 4) {
        const uint4 four = load_shared(values + 4 * i);
        result[i] = __uint_as_float(four.x);
        result[i + 1] = __uint_as_float(four.y);
        result[i + 2] = __uint_as_float(four.z);
        result[i + 3] = __uint_as_float(four.w);
      }
      if (residual != nullptr && s.wide_output) load_vector(residual + at, added);
#pragma unroll
      for (int i = 0; i < kChunk<T>; ++i) {
        float term = 0.0f;
        if (residual != nullptr && i < count) {
          term = s.wide_output ? added[i] : to_float(residual[at + i]);
        }
        result[i] = activate(result[i] + biases[i] + term, s.activation);
      }
      if (s.wide_output) {
        store_vector(out + at, result);
      } else {
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
          if (i < count) out[at + i] = from_float<T>(result[i]);
        }
      }
    }
  }
}

template <typename T, int MI>
__device__ __forceinline__ void matmul(const Scalars& s, const T* x, const T* weight, const T* bias,
                                       const T* residual, T* out) {
  using S = Shape<T, MI>;
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned pipeline = shared_address(shared);
  const int warp = threadIdx.x / 32;
  // Neighbouring blocks share rows, which are many, and find the weights, which are few, in L2.
  const int first_row = blockIdx.x / s.column_tiles * S::kRows;
  const int first_column = blockIdx.x % s.column_tiles * S::kColumns;
  const int left = warp / S::kWarpsAcross * S::kWarpRows;
  const int right = warp % S::kWarpsAcross * kWarpColumns;
  const int stages = (s.steps + kStageSteps<T> - 1) / kStageSteps<T>;

  Loader<T, MI> loader(s, x, weight, first_row, first_column);
  // Not unrolled: the slow gather is long, and the start is once a block.
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < stages) loader.load(pipeline + stage * S::kStageBytes, s);
    commit_copies();
  }
  float sums[MI][kFragments][4] = {};
  for (int stage = 0; stage < stages; ++stage) {
    wait_for_copies<kStages - 2>();
    // All threads see the stage, which others brought; and all have read the stage before, whose
    // place the next copies take.
    __syncthreads();
    const int next = stage + kStages - 1;
    if (next < stages) loader.load(pipeline + next % kStages * S::kStageBytes, s);
    commit_copies();
    const unsigned tile = pipeline + stage % kStages * S::kStageBytes;
    if constexpr (std::is_same_v<T, float>) {
      multiply_stage_f32<MI>(sums, tile, left, S::kRows + right);
    } else {
      multiply_stage<T, MI>(sums, tile, left, S::kRows + right);
    }
  }
  wait_for_copies<0>();
  // All have read the last stages before staged rows take their place.
  __syncthreads();
  const unsigned staged = pipeline + 4 * warp * 16 * kStagedPitch;
  finish<T, MI>(s, sums, staged, bias, residual, out, first_row + left, first_column + right);
}

extern "C" __global__ void __launch_bounds__(256, 2)
matmul_128_f16(Scalars s, const __half* x, const __half* weight, const __half* bias,
               const __half* residual, __half* out) {
  matmul<__half, 4>(s, x, weight, bias, residual, out);
}

extern "C" __global__ void __launch_bounds__(256, 2)
matmul_128_bf16(Scalars s, const __nv_bfloat16* x, const __nv_bfloat16* weight,
                const __nv_bfloat16* bias, const __nv_bfloat16* residual, __nv_bfloat16* out) {
  matmul<__nv_bfloat16, 4>(s, x, weight, bias, residual, out);
}

extern "C" __global__ void __launch_bounds__(128, 4)
matmul_64_f16(Scalars s, const __half* x, const __half* weight, const __half* bias,
              const __half* residual, __half* out) {
  matmul<__half, 2>(s, x, weight, bias, residual, out);
}

extern "C" __global__ void __launch_bounds__(128, 4)
matmul_64_bf16(Scalars s, const __nv_bfloat16* x, const __nv_bfloat16* weight,
               const __nv_bfloat16* bias, const __nv_bfloat16* residual, __nv_bfloat16* out) {
  matmul<__nv_bfloat16, 2>(s, x, weight, bias, residual, out);
}

extern "C" __global__ void __launch_bounds__(128, 3)
matmul_64_f32(Scalars s, const float* x, const float* weight, const float* bias,
              const float* residual, float* out) {
  matmul<float, 2>(s, x, weight, bias, residual, out);
}
