// Corner pooling along an outer axis of a map: the running maximum of each column, and its gradient.
//
// Reads:   forward: input [outer, length, inner] T, the output where it accumulates
//          backward: upstream of that shape, bits
// Writes:  forward: output of that shape, bits [outer, ceil(length / 8), inner] u8 or null, padded with
//          zeros to whole words: bit j of byte g is set where step 8 g + j is a new maximum
//          backward: gradient of that shape
// Launch:  <<<blocks, 256>>>: 256 / lanes segments of 8 steps, each by `lanes` vectors of columns
// Order:   step s of a scan is position s, or length - 1 - s. NaN is greater than any number; of equals
//          the first met stands. A gradient is an f32 sum from its run's last step to its first, cut
//          where segments meet, which depends on the shape alone
// Cost:    each map is read or written once; 1/8 byte an element for the bits. One block has the whole
//          of a column, so that carries stay on the chip. 26 to 33 PTX instructions an
//          element
// Source:  Law and Deng, "CornerNet", 2018, section 3.3
// archs: sm_80

#include "common/columns.cuh"
#include "common/scan.cuh"

namespace {

constexpr int kThreads = 256;
// Promises 128 registers: the 8 vectors of a thread take 32, their sums and carries as many.
constexpr int kBlocksPerMultiprocessor = 2;

// Where a thread stands in a chunk of a scan: 8 steps of `segment`.
struct Place {
  int lane;
  int segment;
  int segments;

  __device__ explicit Place(const Scalars& scalars)
      : lane(threadIdx.x & (scalars.lanes() - 1)),
        segment(threadIdx.x >> scalars.lanes_log2),
        segments(kThreads >> scalars.lanes_log2) {}

  // Steps of the thread's that exist.
  __device__ int steps(const Scalars& scalars, long long chunk) const {
    return static_cast<int>(max(min(scalars.length - chunk - segment * kSteps, 0LL + kSteps), 0LL));
  }
  // Segments that hold any.
  __device__ int used(const Scalars& scalars, long long chunk) const {
    return static_cast<int>(min((scalars.length - chunk + kSteps - 1) / kSteps, 0LL + segments));
  }
};

// V floats of each thread of the block, put and got by 16 bytes of consecutive threads, and walked by
// consecutive words: no bank conflicts.
template <int V>
struct Exchange {
  float4 values[V / 4][kThreads];

  __device__ __forceinline__ void put(const float (&from)[V]) {
#pragma unroll
    for (int k = 0; k < V / 4; ++k) {
      values[k][threadIdx.x] = make_float4(from[4 * k], from[4 * k + 1], from[4 * k + 2], from[4 * k + 3]);
    }
  }
  __device__ __forceinline__ void get(float (&to)[V]) const {
#pragma unroll
    for (int k = 0; k < V / 4; ++k) {
      const float4 four = values[k][threadIdx.x];
      to[4 * k] = four.x;
      to[4 * k + 1] = four.y;
      to[4 * k + 2] = four.z;
      to[4 * k + 3] = four.w;
    }
  }
  // The block's column `column` in the first segment; the next segment's lies 4 * lanes behind.
  __device__ __forceinline__ float* column(int column, int lanes) {
    const int of_quarter = 4 * lanes;
    return reinterpret_cast<float*>(values[column / of_quarter]) + column % of_quarter;
  }
};

// Where the next chunk of a block goes on. Scans of several chunks have 16 lanes, at most 128 columns,
// one a thread.
struct Carry {
  float value;

  // Replaces each segment's total by what the segments before it hold.
  template <int V>
  __device__ __forceinline__ void before(Exchange<V>& totals, const Scalars& scalars, int used, bool start) {
    for (int number = threadIdx.x; number < V * scalars.lanes(); number += kThreads) {
      float running = start ? lowest() : value;
      float* total = totals.column(number, scalars.lanes());
      for (int segment = 0; segment < used; ++segment, total += 4 * scalars.lanes()) {
        const float own = *total;
        *total = running;
        running = later(running, own);
      }
      value = running;
    }
  }

  // Replaces each segment's head by what is open behind it.
  template <int V>
  __device__ __forceinline__ void behind(Exchange<V>& heads, const unsigned* closed, const Scalars& scalars,
                                         int used, bool start) {
    const int lanes = scalars.lanes();
    for (int number = threadIdx.x; number < V * lanes; number += kThreads) {
      float running = start ? 0.0f : value;
      const int lane = number % (4 * lanes) / 4;
      const int element = number / (4 * lanes) * 4 + number % 4;
      float* head = heads.column(number, lanes) + 4 * lanes * (used - 1);
      for (int segment = used - 1; segment >= 0; --segment, head -= 4 * lanes) {
        const float own = *head;
        *head = running;
        running = (closed[segment * lanes + lane] >> element & 1u ? 0.0f : running) + own;
      }
      value = running;
    }
  }
};

template <typename T>
__device__ __forceinline__ void forward(const Scalars& scalars, const T* input, T* output, unsigned char* bits) {
  constexpr int V = kVector<T>;
  __shared__ Exchange<V> totals;
  const Place place(scalars);
  const Columns<T> columns(scalars, place.lane);
  const long long length = scalars.length;
  const long long vector = columns.base(0, length);
  clear_padding(scalars, bits);
  Carry carry;
  for (long long chunk = 0; chunk < length; chunk += place.segments * kSteps) {
    const long long first = chunk + place.segment * kSteps;
    const int steps = place.steps(scalars, chunk);
    uint4 values[kSteps];
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k < steps) values[k] = columns.load(input, vector, length, position(scalars, first + k));
    }
    float best[V];
#pragma unroll
    for (int i = 0; i < V; ++i) best[i] = lowest();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k >= steps) break;
      float row[V];
      unpack_vector<T>(values[k], row);
#pragma unroll
      for (int i = 0; i < V; ++i) best[i] = later(best[i], row[i]);
    }
    __syncthreads();  // what was before the segments of the last chunk has been read
    totals.put(best);
    __syncthreads();  // the totals are visible to those who walk them
    carry.before(totals, scalars, place.used(scalars, chunk), chunk == 0);
    __syncthreads();  // what is before each segment is visible
    totals.get(best);
    Bits raised = {{0, 0}};
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k >= steps) break;
      const long long at = position(scalars, first + k);
      float row[V], sums[V];
      unpack_vector<T>(values[k], row);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const bool rises = exceeds(row[i], best[i]);
        best[i] = rises ? row[i] : best[i];
        if (rises) raised.set(i, k);
        sums[i] = best[i];
      }
      if (scalars.accumulate) {
        unpack_vector<T>(columns.load(output, vector, length, at), row);
#pragma unroll
        for (int i = 0; i < V; ++i) sums[i] += row[i];
      }
      columns.store(output, vector, length, at, pack_vector<T>(sums));
    }
    if (bits == nullptr || steps == 0) continue;
    // The first step is a new maximum whatever it holds.
    if (first == 0) {
#pragma unroll
      for (int i = 0; i < V; ++i) raised.set(i, 0);
    }
    columns.store_bits(bits, bit_groups(scalars), first / kSteps, raised);
  }
}

template <typename T>
__device__ __forceinline__ void backward(const Scalars& scalars, const T* upstream, const unsigned char* bits,
                                         T* gradient) {
  constexpr int V = kVector<T>;
  __shared__ Exchange<V> heads;
  __shared__ unsigned closed[kThreads];  // bit i: the segment holds a new maximum of column i
  const Place place(scalars);
  const Columns<T> columns(scalars, place.lane);
  const long long length = scalars.length;
  const long long vector = columns.base(0, length);
  Carry carry;
  const long long of_chunk = place.segments * kSteps;
  const long long last = (length - 1) & -of_chunk;
  for (long long chunk = last; chunk >= 0; chunk -= of_chunk) {
    const long long first = chunk + place.segment * kSteps;
    const int steps = place.steps(scalars, chunk);
    uint4 values[kSteps];
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k < steps) values[k] = columns.load(upstream, vector, length, position(scalars, first + k));
    }
    Bits raised = {{0, 0}};
    if (steps > 0) raised = columns.load_bits(bits, bit_groups(scalars), first / kSteps);
    // Sum before the segment's first new maximum.
    float open[V] = {};
#pragma unroll
    for (int k = kSteps - 1; k >= 0; --k) {
      if (k >= steps) continue;
      float row[V];
      unpack_vector<T>(values[k], row);
#pragma unroll
      for (int i = 0; i < V; ++i) open[i] = raised.has(i, k) ? 0.0f : open[i] + row[i];
    }
    unsigned closes = 0;
#pragma unroll
    for (int i = 0; i < V; ++i) closes |= (raised.of(i) != 0 ? 1u : 0u) << i;
    __syncthreads();  // what is open behind the segments of the last chunk has been read
    heads.put(open);
    closed[threadIdx.x] = closes;
    __syncthreads();  // the heads are visible to those who walk them
    carry.behind(heads, closed, scalars, place.used(scalars, chunk), chunk == last);
    __syncthreads();  // what is open behind each segment is visible
    heads.get(open);
#pragma unroll
    for (int k = kSteps - 1; k >= 0; --k) {
      if (k >= steps) continue;
      float row[V];
      unpack_vector<T>(values[k], row);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float sum = open[i] + row[i];
        const bool starts = raised.has(i, k);
        row[i] = starts ? sum : 0.0f;
        open[i] = starts ? 0.0f : sum;
      }
      columns.store(gradient, vector, length, position(scalars, first + k), pack_vector<T>(row));
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_forward_columns_f32(Scalars scalars, const float* input, float* output, unsigned char* bits) {
  forward(scalars, input, output, bits);
}
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_forward_columns_f16(Scalars scalars, const __half* input, __half* output, unsigned char* bits) {
  forward(scalars, input, output, bits);
}
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_forward_columns_bf16(Scalars scalars, const __nv_bfloat16* input, __nv_bfloat16* output,
                                 unsigned char* bits) {
  forward(scalars, input, output, bits);
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_backward_columns_f32(Scalars scalars, const float* upstream, const unsigned char* bits,
                                 float* gradient) {
  backward(scalars, upstream, bits, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_backward_columns_f16(Scalars scalars, const __half* upstream, const unsigned char* bits,
                                 __half* gradient) {
  backward(scalars, upstream, bits, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
corner_pool_backward_columns_bf16(Scalars scalars, const __nv_bfloat16* upstream, const unsigned char* bits,
                                  __nv_bfloat16* gradient) {
  backward(scalars, upstream, bits, gradient);
}
