// Gradients of a pair of corner pools with respect to both maps, in one pass over the gradient of their sum.
//
// Reads:   upstream [B, H, W, C] T, aligned to 16 bytes, pixels of whole 16-byte vectors; bits of both scans
//          as kernels/corner_pool/pair.cu writes them
// Writes:  gradients of the vertical and of the horizontal map, of that shape; workspace: control
//          [1 + tiles] i32, zeroed before the launch: a ticket and a flag a tile; carries [tiles, 256]: of
//          each column and row of a tile, kVector<T> f32 sums and a word that says which end in the tile
// Launch:  <<<tiles, 256, 67584>>>, a block a tile of 32 x 32 pixels by 64 bytes of channels
// Order:   a block takes the next tile by ticket, from the scans' ends to their starts, publishes what its
//          columns and rows owe to runs that start in earlier tiles, and then waits for the later tiles of its
//          column and row. Those have lower tickets, so their blocks run and publish before they wait: no
//          schedule stops. Sums are in f32 from a run's last step to its first, cut every 16 steps and where
//          tiles meet, which depends on the shape alone
// Cost:    one map and the bits read, two maps written; carries: 20 (f32) or 36 bytes for each 32 vectors and
//          map written, and read once by each earlier tile of the column or row; 45 PTX instructions an element of
//          upstream
// Source:  Law and Deng, "CornerNet", 2018, section 3.3
// archs: sm_80

#include "common/tile.cuh"

namespace {

// Shared memory holds two on an H100 or H200, and both have the registers they ask for.
constexpr int kBlocksPerMultiprocessor = 2;

// What a run of a thread, or a column of a tile, owes to a new maximum before it.
template <typename T>
struct Owed {
  float sums[kVector<T>];
  unsigned ends;  // bit i: element i has a new maximum here, so that what comes behind does not pass
};

// The owed of two parts, the first being met first.
template <typename T>
__device__ __forceinline__ void join(Owed<T>& first, const Owed<T>& behind) {
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) first.sums[i] += first.ends >> i & 1u ? 0.0f : behind.sums[i];
  first.ends |= behind.ends;
}

// A thread's run of up to 16 pixels in the shared tile, and where it starts new maxima.
template <typename T>
struct Run {
  static constexpr int V = kVector<T>;
  Bits raised[2];
  int steps;

  __device__ __forceinline__ void load_bits(const unsigned char* bits, long long group, long long apart) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      raised[k] = {{0, 0}};
      if (k * kSteps < steps) raised[k] = load_bits_of<T>(bits + group + k * apart);
    }
  }

  // `first` is the run's first pixel in the tile, `apart` vectors lie between two.
  __device__ __forceinline__ Owed<T> owed(const uint4* first, int apart) const {
    Owed<T> owed = {};
#pragma unroll
    for (int k = kRun - 1; k >= 0; --k) {
      if (k >= steps) continue;
      float row[V];
      unpack_vector<T>(first[k * apart], row);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        owed.sums[i] = raised[k / kSteps].has(i, k % kSteps) ? 0.0f : owed.sums[i] + row[i];
      }
    }
#pragma unroll
    for (int i = 0; i < V; ++i) owed.ends |= (raised[0].of(i) | raised[1].of(i) ? 1u : 0u) << i;
    return owed;
  }

  // Gives each new maximum its sum, after `open`; `write` takes step and vector.
  template <typename Write>
  __device__ __forceinline__ void gather(const uint4* first, int apart, float (&open)[V], Write write) const {
#pragma unroll
    for (int k = kRun - 1; k >= 0; --k) {
      if (k >= steps) continue;
      float row[V];
      unpack_vector<T>(first[k * apart], row);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float sum = open[i] + row[i];
        const bool starts = raised[k / kSteps].has(i, k % kSteps);
        row[i] = starts ? sum : 0.0f;
        open[i] = starts ? 0.0f : sum;
      }
      write(k, pack_vector<T>(row));
    }
  }
};

// The owed of every thread's runs, and what is open behind the tile; 16-byte vectors of sums in turn, so
// that consecutive threads meet no bank conflict.
template <typename T>
struct Ledger {
  float4 sums[kVector<T> / 4][kThreads];
  unsigned ends[kThreads];

  __device__ __forceinline__ void put(const Owed<T>& owed) {
#pragma unroll
    for (int k = 0; k < kVector<T> / 4; ++k) {
      const float* four = owed.sums + 4 * k;
      sums[k][threadIdx.x] = make_float4(four[0], four[1], four[2], four[3]);
    }
    ends[threadIdx.x] = owed.ends;
  }
  __device__ __forceinline__ Owed<T> get(int thread) const {
    Owed<T> owed;
#pragma unroll
    for (int k = 0; k < kVector<T> / 4; ++k) {
      const float4 four = sums[k][thread];
      owed.sums[4 * k] = four.x;
      owed.sums[4 * k + 1] = four.y;
      owed.sums[4 * k + 2] = four.z;
      owed.sums[4 * k + 3] = four.w;
    }
    owed.ends = ends[thread];
    return owed;
  }
};

// Tiles' ledgers of columns and rows in device memory, in the same order.
template <typename T>
struct Carries {
  float4* sums;
  unsigned* ends;

  __device__ Carries(unsigned char* memory, long long tiles)
      : sums(reinterpret_cast<float4*>(memory)),
        ends(reinterpret_cast<unsigned*>(memory + tiles * kThreads * kVector<T> * 4)) {}

  __device__ __forceinline__ void put(long long tile, const Owed<T>& owed) const {
#pragma unroll
    for (int k = 0; k < kVector<T> / 4; ++k) {
      const float* four = owed.sums + 4 * k;
      __stcg(sums + (tile * (kVector<T> / 4) + k) * kThreads + threadIdx.x,
             make_float4(four[0], four[1], four[2], four[3]));
    }
    __stcg(ends + tile * kThreads + threadIdx.x, owed.ends);
  }
  __device__ __forceinline__ Owed<T> get(long long tile) const {
    Owed<T> owed;
#pragma unroll
    for (int k = 0; k < kVector<T> / 4; ++k) {
      const float4 four = __ldcg(sums + (tile * (kVector<T> / 4) + k) * kThreads + threadIdx.x);
      owed.sums[4 * k] = four.x;
      owed.sums[4 * k + 1] = four.y;
      owed.sums[4 * k + 2] = four.z;
      owed.sums[4 * k + 3] = four.w;
    }
    owed.ends = __ldcg(ends + tile * kThreads + threadIdx.x);
    return owed;
  }
};

// What is open behind the tile: of its columns in the first half of the threads, of its rows in the second.
// Publishes what the tile owes first. All threads take part, and see the ledgers of runs.
template <typename T>
__device__ __forceinline__ Owed<T> exchange(const PairScalars& scalars, const Tile& tile, const Ledger<T>* runs,
                                            int* flags, const Carries<T>& carries) {
  const int scan = threadIdx.x / kColumns, column = threadIdx.x % kColumns;
  Owed<T> owed = runs[scan].get(column);
  join(owed, runs[scan].get(kColumns + column));
  carries.put(tile.number, owed);
  publish_and_wait(scalars, tile, flags);
  Owed<T> open = {};
  const int apart = scan == 0 ? scalars.tiles_x : 1;
  for (int away = scan == 0 ? tile.y : tile.x; away > 0; --away) {
    Owed<T> nearer = carries.get(tile.number - away * apart);
    join(nearer, open);
    open = nearer;
  }
  return open;
}

template <typename T>
__device__ __forceinline__ void backward(const PairScalars& scalars, const T* upstream,
                                         const unsigned char* down_bits, const unsigned char* across_bits,
                                         T* vertical, T* horizontal, int* control, unsigned char* memory) {
  constexpr int V = kVector<T>;
  extern __shared__ uint4 rows[];  // [kSide, kRow]
  __shared__ Ledger<T> runs[2];
  __shared__ Ledger<T> opens;
  const Tile tile(scalars, take_ticket(control));
  // Tickets go from the scans' ends to their starts.
  const int first_y = (scalars.tiles_y - 1 - tile.y) * kSide;
  const int first_x = (scalars.tiles_x - 1 - tile.x) * kSide;
  const Pixels pixels(scalars, tile);
  const int lane = pixels.lane, across = pixels.across, half = pixels.half;
  const int height = scalars.height, width = scalars.width;
  const int column = first_x + across, row = first_y + across;
  const bool live = pixels.live;
  Run<T> down, right;
  const int below = first_y + half * kRun, beside = first_x + half * kRun;
  down.steps = live && column < width ? max(min(height - below, kRun), 0) : 0;
  right.steps = live && row < height ? max(min(width - beside, kRun), 0) : 0;
  const uint4* map = reinterpret_cast<const uint4*>(upstream);
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    if (k >= down.steps) break;
    const uint4 words = __ldcs(map + pixels.place(pixels.y_of(below + k), pixels.x_of(column)));
    rows[(half * kRun + k) * kRow + across * kLanes + lane] = words;
  }
  const long long channels = 1LL * scalars.vectors * V;
  const long long of_vector = 1LL * pixels.vector * V;
  const long long down_group = tile.image * ((height + kSteps - 1LL) / kSteps) + below / kSteps;
  down.load_bits(down_bits, (down_group * width + pixels.x_of(column)) * channels + of_vector, width * channels);
  const long long of_row = 1LL * tile.image * height + pixels.y_of(row);
  const long long across_group = of_row * ((width + kSteps - 1) / kSteps) + beside / kSteps;
  right.load_bits(across_bits, across_group * channels + of_vector, channels);
  __syncthreads();  // the tile is visible
  const uint4* down_first = rows + half * kRun * kRow + across * kLanes + lane;
  const uint4* right_first = rows + across * kRow + half * kRun * kLanes + lane;
  runs[0].put(down.owed(down_first, kRow));
  runs[1].put(right.owed(right_first, kLanes));
  __syncthreads();  // the ledgers of both halves are visible
  opens.put(exchange<T>(scalars, tile, runs, control + 1, Carries<T>(memory, gridDim.x)));
  __syncthreads();  // what is open behind the tile is visible
  const int place_in_tile = threadIdx.x % kColumns;
  uint4* down_map = reinterpret_cast<uint4*>(vertical);
  uint4* right_map = reinterpret_cast<uint4*>(horizontal);
#pragma unroll
  for (int scan = 0; scan < 2; ++scan) {
    Owed<T> open = opens.get(scan * kColumns + place_in_tile);
    if (half == 0) {
      Owed<T> nearer = runs[scan].get(kColumns + place_in_tile);
      join(nearer, open);
      open = nearer;
    }
    if (scan == 0) {
      down.gather(down_first, kRow, open.sums, [&](int k, uint4 words) {
        __stwb(down_map + pixels.place(pixels.y_of(below + k), pixels.x_of(column)), words);
      });
    } else {
      right.gather(right_first, kLanes, open.sums, [&](int k, uint4 words) {
        __stwb(right_map + pixels.place(pixels.y_of(row), pixels.x_of(beside + k)), words);
      });
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_pair_backward_f32(PairScalars scalars, const float* upstream, const unsigned char* down_bits,
                               const unsigned char* across_bits, float* vertical, float* horizontal,
                               int* control, unsigned char* carries) {
  backward(scalars, upstream, down_bits, across_bits, vertical, horizontal, control, carries);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_pair_backward_f16(PairScalars scalars, const __half* upstream, const unsigned char* down_bits,
                               const unsigned char* across_bits, __half* vertical, __half* horizontal,
                               int* control, unsigned char* carries) {
  backward(scalars, upstream, down_bits, across_bits, vertical, horizontal, control, carries);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_pair_backward_bf16(PairScalars scalars, const __nv_bfloat16* upstream, const unsigned char* down_bits,
                               const unsigned char* across_bits, __nv_bfloat16* vertical, __nv_bfloat16* horizontal,
                               int* control, unsigned char* carries) {
  backward(scalars, upstream, down_bits, across_bits, vertical, horizontal, control, carries);
}
