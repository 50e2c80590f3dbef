// Attention forward of one head in bf16, the workload of the throughput benchmark.
//
//   out[i, :] = sum_j softmax_j(scale * q[i, :] . k[j, :]) v[j, :]      [rows, 128] each
//
// A block of 4 warps does 64 rows of q, a warp 16; k and v come in tiles of 64 rows through two
// stages of cp.async. rows is a multiple of 64.
//
//   nvcc -arch=sm_80 -ptx -o attention.ptx attention.cu
#include <cstdint>

constexpr int kHead = 128, kTile = 64, kWarps = 4;
// Bytes of a row in shared memory: 16 more than its values, so that 8 rows of an ldmatrix lie in different banks.
constexpr int kPitch = kHead * 2 + 16;
constexpr int kTileBytes = kTile * kPitch;

__device__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ void copy_tile(uint32_t to, const uint16_t* from) {
  for (int chunk = threadIdx.x; chunk < kTile * kHead / 8; chunk += kWarps * 32) {
    int row = chunk / (kHead / 8), column = chunk % (kHead / 8);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + row * kPitch + column * 16),
                 "l"(from + row * kHead + column * 8)
                 : "memory");
  }
}

__device__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ void load_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ uint32_t pack(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

__device__ float exp2_approximate(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

extern "C" __global__ void __launch_bounds__(kWarps * 32)
    attention(const uint16_t* q, const uint16_t* k, const uint16_t* v, uint16_t* out, int rows, float scale_log2) {
  extern __shared__ __align__(128) unsigned char stages[];  // two stages of a k and a v tile
  uint32_t base = shared_address(stages);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int first = blockIdx.x * kTile + warp * 16;

  uint32_t queries[kHead / 16][4];
  for (int s = 0; s < kHead / 16; s++) {
    for (int e = 0; e < 4; e++) {
      int row = first + lane / 4 + e % 2 * 8, column = s * 16 + lane % 4 * 2 + e / 2 * 8;
      queries[s][e] = *reinterpret_cast<const uint32_t*>(q + row * kHead + column);
    }
  }
  float sums[kHead / 8][4] = {}, maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

  copy_tile(base, k);
  copy_tile(base + kTileBytes, v);
  asm volatile("cp.async.commit_group;");
  int tiles = rows / kTile;
  for (int tile = 0; tile < tiles; tile++) {
    uint32_t keys = base + tile % 2 * 2 * kTileBytes, values = keys + kTileBytes;
    if (tile + 1 < tiles) {
      uint32_t next = base + (tile + 1) % 2 * 2 * kTileBytes;
      copy_tile(next, k + (tile + 1) * kTile * kHead);
      copy_tile(next + kTileBytes, v + (tile + 1) * kTile * kHead);
    }
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 1;" ::: "memory");
    __syncthreads();  // everyone's copies of this tile are there

    float scores[kTile / 8][4] = {};
#pragma unroll
    for (int s = 0; s < kHead / 16; s++) {
#pragma unroll
      for (int n = 0; n < kTile / 16; n++) {
        uint32_t b[4];
        int row = n * 16 + lane % 8 + lane / 16 * 8, column = s * 16 + lane / 8 % 2 * 8;
        load_matrices(b, keys + row * kPitch + column * 2);
        multiply(scores[2 * n], queries[s], b[0], b[1]);
        multiply(scores[2 * n + 1], queries[s], b[2], b[3]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float best = maximum[half];
      for (int n = 0; n < kTile / 8; n++) best = fmaxf(best, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
      best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
      float shrink = exp2_approximate((maximum[half] - best) * scale_log2);
      maximum[half] = best;
      total[half] *= shrink;
      for (int n = 0; n < kHead / 8; n++) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
      for (int n = 0; n < kTile / 8; n++) {
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          scores[n][e] = exp2_approximate((scores[n][e] - best) * scale_log2);
          total[half] += scores[n][e];
        }
      }
    }
#pragma unroll
    for (int s = 0; s < kTile / 16; s++) {
      uint32_t weights[4] = {pack(scores[2 * s][0], scores[2 * s][1]), pack(scores[2 * s][2], scores[2 * s][3]),
                             pack(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                             pack(scores[2 * s + 1][2], scores[2 * s + 1][3])};
#pragma unroll
      for (int n = 0; n < kHead / 16; n++) {
        uint32_t b[4];
        int row = s * 16 + lane % 16, column = n * 16 + lane / 16 * 8;
        load_transposed(b, values + row * kPitch + column * 2);
        multiply(sums[2 * n], weights, b[0], b[1]);
        multiply(sums[2 * n + 1], weights, b[2], b[3]);
      }
    }
    __syncthreads();  // no one reads this tile any more when the next but one overwrites it
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float all = total[half];
    all += __shfl_xor_sync(~0u, all, 1);
    all += __shfl_xor_sync(~0u, all, 2);
    int row = first + lane / 4 + half * 8;
    for (int n = 0; n < kHead / 8; n++) {
      uint32_t pair = pack(sums[n][2 * half] / all, sums[n][2 * half + 1] / all);
      *reinterpret_cast<uint32_t*>(out + row * kHead + n * 8 + lane % 4 * 2) = pair;
    }
  }
}
