// Corner pooling of a pair of maps: the vertical running maximum of one plus the horizontal one of another,
// in one pass.
//
// Reads:   vertical, horizontal [B, H, W, C] T, aligned to 16 bytes, pixels of whole 16-byte vectors
// Writes:  output of that shape; bits of both scans as kernels/corner_pool/columns.cu writes them, or null
//          (they fill whole words, as C is a multiple of 4);
//          workspace: control [1 + tiles] i32, zeroed before the launch: a ticket and a flag a tile;
//          carries [tiles, 2, 128] vectors
// Launch:  <<<tiles, 256, 67584>>>, a block a tile of 32 x 32 pixels by 64 bytes of channels
// Order:   a block takes the next tile by ticket, publishes its columns' and rows' maxima, and then waits for
//          the tiles before it in its column and row. Those have lower tickets, so their blocks run and
//          publish before they wait: no schedule stops. Maxima are the same in any grouping
// Cost:    two maps read, one written, 1/4 byte an element for bits; carries: a vector in 16 written, and
//          read once by each later tile of the column or row; 53 PTX instructions an element of
//          the sum
// Source:  Law and Deng, "CornerNet", 2018, section 3.3
// archs: sm_80

#include "common/tile.cuh"

namespace {

// A thread's run of pixels along one scan: `steps` of them from step `first`.
template <typename T>
struct Run {
  static constexpr int V = kVector<T>;
  uint4 values[kRun];
  int first;
  int steps;

  // From step `from` of a scan of `length`; without steps where the line does not exist.
  __device__ Run(int from, int length, bool exists)
      : first(from), steps(exists ? max(min(length - from, kRun), 0) : 0) {}

  // The maximum of the run.
  __device__ __forceinline__ void total(float (&best)[V]) const {
#pragma unroll
    for (int i = 0; i < V; ++i) best[i] = lowest();
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (k >= steps) break;
      float row[V];
      unpack_vector<T>(values[k], row);
#pragma unroll
      for (int i = 0; i < V; ++i) best[i] = later(best[i], row[i]);
    }
  }

  // Replaces the values by their running maxima after `best`, and returns the bits of the 16 steps.
  __device__ __forceinline__ void scan(float (&best)[V], Bits (&raised)[2]) {
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (k >= steps) break;
      float row[V];
      unpack_vector<T>(values[k], row);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const bool rises = exceeds(row[i], best[i]);
        best[i] = rises ? row[i] : best[i];
        if (rises) raised[k / kSteps].set(i, k % kSteps);
      }
      values[k] = pack_vector<T>(best);
    }
    if (first != 0) return;
    // The first step is a new maximum whatever it holds.
#pragma unroll
    for (int i = 0; i < V; ++i) raised[0].set(i, 0);
  }
};

template <typename T>
__device__ __forceinline__ void later_vector(float (&best)[kVector<T>], uint4 words) {
  float values[kVector<T>];
  unpack_vector<T>(words, values);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) best[i] = later(best[i], values[i]);
}

// Publishes a tile's maxima, and returns in `before` those of the tiles before it: of its columns (first
// half of the threads) and of its rows (second half). All threads take part; totals are visible to all.
template <typename T>
__device__ __forceinline__ void exchange(const PairScalars& scalars, const Tile& tile, const uint4* totals,
                                         int* flags, uint4* carries, float (&before)[kVector<T>]) {
  constexpr int V = kVector<T>;
  const int scan = threadIdx.x / kColumns, column = threadIdx.x % kColumns;
  const uint4* of_scan = totals + scan * kThreads;
  float total[V];
  unpack_vector<T>(of_scan[column], total);
  later_vector<T>(total, of_scan[kColumns + column]);
  __stcg(carries + 2LL * kColumns * tile.number + threadIdx.x, pack_vector<T>(total));
  publish_and_wait(scalars, tile, flags);
#pragma unroll
  for (int i = 0; i < V; ++i) before[i] = lowest();
  const int apart = scan == 0 ? scalars.tiles_x : 1;
  for (int behind = scan == 0 ? tile.y : tile.x; behind > 0; --behind) {
    const long long other = tile.number - behind * apart;
    later_vector<T>(before, __ldcg(carries + 2 * kColumns * other + threadIdx.x));
  }
}

template <typename T>
__device__ __forceinline__ void forward(const PairScalars& scalars, const T* vertical, const T* horizontal,
                                        T* output, unsigned char* down_bits, unsigned char* across_bits,
                                        int* control, uint4* carries) {
  constexpr int V = kVector<T>;
  extern __shared__ uint4 rows[];  // [kSide, kRow]
  __shared__ uint4 totals[2][kThreads];
  __shared__ uint4 befores[kThreads];
  const Tile tile(scalars, take_ticket(control));
  const Pixels pixels(scalars, tile);
  const int lane = pixels.lane, across = pixels.across, half = pixels.half, vector = pixels.vector;
  const bool live = pixels.live;
  const int height = scalars.height, width = scalars.width;
  const int column = tile.x * kSide + across, row = tile.y * kSide + across;
  Run<T> down(tile.y * kSide + half * kRun, height, live && column < width);
  Run<T> right(tile.x * kSide + half * kRun, width, live && row < height);
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    if (k < down.steps) {
      const uint4* map = reinterpret_cast<const uint4*>(vertical);
      down.values[k] = __ldcs(map + pixels.place(pixels.y_of(down.first + k), pixels.x_of(column)));
    }
    if (k < right.steps) {
      const uint4* map = reinterpret_cast<const uint4*>(horizontal);
      right.values[k] = __ldcs(map + pixels.place(pixels.y_of(row), pixels.x_of(right.first + k)));
    }
  }
  float best[V];
  down.total(best);
  totals[0][threadIdx.x] = pack_vector<T>(best);
  right.total(best);
  totals[1][threadIdx.x] = pack_vector<T>(best);
  __syncthreads();  // the totals of both halves are visible
  exchange<T>(scalars, tile, totals[0], control + 1, carries, best);
  befores[threadIdx.x] = pack_vector<T>(best);
  __syncthreads();  // what is before the tile is visible
  const int place_in_tile = threadIdx.x % kColumns;
  Bits raised[2] = {};
  unpack_vector<T>(befores[kColumns + place_in_tile], best);
  if (half == 1) later_vector<T>(best, totals[1][place_in_tile]);
  right.scan(best, raised);
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    if (k < right.steps) rows[across * kRow + (half * kRun + k) * kLanes + lane] = right.values[k];
  }
  const long long channels = 1LL * scalars.vectors * V;
  if (across_bits != nullptr) {
    const long long of_row = 1LL * tile.image * height + pixels.y_of(row);
    const long long groups = (width + kSteps - 1) / kSteps;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (k * kSteps >= right.steps) break;
      const long long group = right.first / kSteps + k;
      store_bits_of<T>(across_bits + (of_row * groups + group) * channels + vector * V, raised[k]);
    }
  }
  __syncthreads();  // the rows of the tile are visible
  Bits risen[2] = {};
  unpack_vector<T>(befores[place_in_tile], best);
  if (half == 1) later_vector<T>(best, totals[0][place_in_tile]);
  down.scan(best, risen);
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    if (k >= down.steps) break;
    float sums[V], others[V];
    unpack_vector<T>(down.values[k], sums);
    unpack_vector<T>(rows[(half * kRun + k) * kRow + across * kLanes + lane], others);
#pragma unroll
    for (int i = 0; i < V; ++i) sums[i] += others[i];
    uint4* map = reinterpret_cast<uint4*>(output);
    __stwb(map + pixels.place(pixels.y_of(down.first + k), pixels.x_of(column)), pack_vector<T>(sums));
  }
  if (down_bits == nullptr) return;
  const long long groups = (height + kSteps - 1) / kSteps;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (k * kSteps >= down.steps) break;
    const long long group = tile.image * groups + down.first / kSteps + k;
    store_bits_of<T>(down_bits + (group * width + pixels.x_of(column)) * channels + vector * V, risen[k]);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_pair_forward_f32(PairScalars scalars, const float* vertical, const float* horizontal,
                              float* output, unsigned char* down_bits, unsigned char* across_bits,
                              int* control, uint4* carries) {
  forward(scalars, vertical, horizontal, output, down_bits, across_bits, control, carries);
}

extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_pair_forward_f16(PairScalars scalars, const __half* vertical, const __half* horizontal,
                              __half* output, unsigned char* down_bits, unsigned char* across_bits,
                              int* control, uint4* carries) {
  forward(scalars, vertical, horizontal, output, down_bits, across_bits, control, carries);
}

extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_pair_forward_bf16(PairScalars scalars, const __nv_bfloat16* vertical, const __nv_bfloat16* horizontal,
                              __nv_bfloat16* output, unsigned char* down_bits, unsigned char* across_bits,
                              int* control, uint4* carries) {
  forward(scalars, vertical, horizontal, output, down_bits, across_bits, control, carries);
}
