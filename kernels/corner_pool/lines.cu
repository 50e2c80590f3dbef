// Corner pooling along the innermost axis of a map: the running maximum of each line, and its gradient.
//
// Reads:   forward: input [lines, length] T, the output where it accumulates
//          backward: upstream of that shape, bits
// Writes:  forward: output of that shape, bits [lines, ceil(length / 8)] u8 or null, padded with zeros
//          to whole words: bit j of byte g is set where step 8 g + j is a new maximum
//          backward: gradient of that shape
// Launch:  <<<blocks, 256>>>: `lanes` threads a line, each with the elements of 16 bytes
// Order:   step s of a scan is position s, or length - 1 - s. NaN is greater than any number; of equals
//          the first met stands. A gradient is an f32 sum whose tree depends on the length alone
// Cost:    each map is read or written once; 1/8 byte an element for the bits. 32 to 35 PTX instructions an
//          element of 16 bits, 52 to 61 of f32, where fewer share the steps between threads
// Source:  Law and Deng, "CornerNet", 2018, section 3.3
// archs: sm_80

#include "common/scan.cuh"

namespace {

constexpr int kThreads = 256;
constexpr unsigned kFullWarp = 0xffffffffu;

// N values of a line in scan order, the first at `step`; where N > 1 the line's length is a multiple of
// N and every vector is aligned.
template <typename T, int N, bool FROM_END>
__device__ __forceinline__ void load_steps(const Scalars& scalars, const T* line, long long step,
                                           float (&values)[N]) {
  if constexpr (N == 1) {
    values[0] = to_float(line[FROM_END ? scalars.length - 1 - step : step]);
  } else {
    float loaded[N];
    load_vector(line + (FROM_END ? scalars.length - N - step : step), loaded);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = loaded[FROM_END ? N - 1 - i : i];
  }
}

template <typename T, int N, bool FROM_END>
__device__ __forceinline__ void store_steps(const Scalars& scalars, T* line, long long step,
                                            const float (&values)[N]) {
  if constexpr (N == 1) {
    line[FROM_END ? scalars.length - 1 - step : step] = from_float<T>(values[0]);
  } else {
    float stored[N];
#pragma unroll
    for (int i = 0; i < N; ++i) stored[i] = values[FROM_END ? N - 1 - i : i];
    store_vector(line + (FROM_END ? scalars.length - N - step : step), stored);
  }
}

// The byte of bits that holds `step`, from each lane's N: complete in the lane whose steps start it. All
// lanes of the warp take part.
template <int N>
__device__ __forceinline__ unsigned gather_byte(unsigned raised) {
  if constexpr (N == 8) return raised;
  if constexpr (N == 4) return raised | __shfl_down_sync(kFullWarp, raised, 1) << 4;
  return __ballot_sync(kFullWarp, raised) >> (threadIdx.x % 32) & 0xffu;
}

template <typename T, int N, bool FROM_END>
__device__ __forceinline__ void forward_line(const Scalars& scalars, const T* input, T* output, unsigned char* bits) {
  const int lanes = scalars.lanes();
  const int lane = threadIdx.x & (lanes - 1);
  const long long line = 1LL * blockIdx.x * (kThreads >> scalars.lanes_log2) + (threadIdx.x >> scalars.lanes_log2);
  const bool exists = line < scalars.columns;
  const long long offset = line * scalars.length;
  const long long groups = bit_groups(scalars);
  float carry = lowest();
  for (long long chunk = 0; chunk < scalars.length; chunk += lanes * N) {
    const long long step = chunk + lane * N;
    const bool live = exists && step < scalars.length;
    float values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = lowest();
    if (live) load_steps<T, N, FROM_END>(scalars, input + offset, step, values);
    float total = values[0];
#pragma unroll
    for (int i = 1; i < N; ++i) total = later(total, values[i]);
    for (int distance = 1; distance < lanes; distance *= 2) {
      const float other = __shfl_up_sync(kFullWarp, total, distance, lanes);
      if (lane >= distance) total = later(other, total);
    }
    const float left = __shfl_up_sync(kFullWarp, total, 1, lanes);
    float best = lane == 0 ? carry : later(carry, left);
    carry = later(carry, __shfl_sync(kFullWarp, total, lanes - 1, lanes));
    unsigned raised = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const bool rises = exceeds(values[i], best);
      best = rises ? values[i] : best;
      values[i] = best;
      raised |= (rises ? 1u : 0u) << i;
    }
    // The first step is a new maximum whatever it holds.
    if (step == 0) raised |= 1u;
    const unsigned byte = gather_byte<N>(live ? raised : 0u);
    if (!live) continue;
    if (scalars.accumulate) {
      float sums[N];
      load_steps<T, N, FROM_END>(scalars, output + offset, step, sums);
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] += sums[i];
    }
    store_steps<T, N, FROM_END>(scalars, output + offset, step, values);
    if (bits != nullptr && step % kSteps == 0) bits[line * groups + step / kSteps] = static_cast<unsigned char>(byte);
  }
}

template <typename T, int N, bool FROM_END>
__device__ __forceinline__ void backward_line(const Scalars& scalars, const T* upstream,
                                              const unsigned char* bits, T* gradient) {
  const int lanes = scalars.lanes();
  const int lane = threadIdx.x & (lanes - 1);
  const long long line = 1LL * blockIdx.x * (kThreads >> scalars.lanes_log2) + (threadIdx.x >> scalars.lanes_log2);
  const bool exists = line < scalars.columns;
  const long long offset = line * scalars.length;
  const long long groups = bit_groups(scalars);
  const long long of_chunk = lanes * N;
  float carry = 0.0f;
  for (long long chunk = (scalars.length - 1) & -of_chunk; chunk >= 0; chunk -= of_chunk) {
    const long long step = chunk + lane * N;
    const bool live = exists && step < scalars.length;
    float values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = 0.0f;
    unsigned raised = 0;
    if (live) {
      load_steps<T, N, FROM_END>(scalars, upstream + offset, step, values);
      raised = bits[line * groups + step / kSteps] >> (step % kSteps) & ((1u << N) - 1u);
    }
    // Sum before the thread's first new maximum, then of all up to the next one in later threads.
    float head = 0.0f;
#pragma unroll
    for (int i = N - 1; i >= 0; --i) head = raised >> i & 1u ? 0.0f : head + values[i];
    bool closed = raised != 0;
    for (int distance = 1; distance < lanes; distance *= 2) {
      const float other = __shfl_down_sync(kFullWarp, head, distance, lanes);
      const bool other_closed = __shfl_down_sync(kFullWarp, closed, distance, lanes);
      if (lane + distance < lanes && !closed) {
        head += other;
        closed = other_closed;
      }
    }
    const float next = __shfl_down_sync(kFullWarp, head, 1, lanes);
    const bool next_closed = __shfl_down_sync(kFullWarp, closed, 1, lanes);
    float open = lane == lanes - 1 ? carry : next + (next_closed ? 0.0f : carry);
    const float first = __shfl_sync(kFullWarp, head, 0, lanes);
    carry = first + (__shfl_sync(kFullWarp, closed, 0, lanes) ? 0.0f : carry);
    if (!live) continue;
#pragma unroll
    for (int i = N - 1; i >= 0; --i) {
      const float sum = open + values[i];
      const bool starts = raised >> i & 1u;
      values[i] = starts ? sum : 0.0f;
      open = starts ? 0.0f : sum;
    }
    store_steps<T, N, FROM_END>(scalars, gradient + offset, step, values);
  }
}

template <typename T>
__device__ __forceinline__ void forward_lines(const Scalars& scalars, const T* input, T* output, unsigned char* bits) {
  clear_padding(scalars, bits);
  if (scalars.wide && scalars.from_end) {
    forward_line<T, kVector<T>, true>(scalars, input, output, bits);
  } else if (scalars.wide) {
    forward_line<T, kVector<T>, false>(scalars, input, output, bits);
  } else if (scalars.from_end) {
    forward_line<T, 1, true>(scalars, input, output, bits);
  } else {
    forward_line<T, 1, false>(scalars, input, output, bits);
  }
}

template <typename T>
__device__ __forceinline__ void backward_lines(const Scalars& scalars, const T* upstream,
                                               const unsigned char* bits, T* gradient) {
  if (scalars.wide && scalars.from_end) {
    backward_line<T, kVector<T>, true>(scalars, upstream, bits, gradient);
  } else if (scalars.wide) {
    backward_line<T, kVector<T>, false>(scalars, upstream, bits, gradient);
  } else if (scalars.from_end) {
    backward_line<T, 1, true>(scalars, upstream, bits, gradient);
  } else {
    backward_line<T, 1, false>(scalars, upstream, bits, gradient);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_forward_lines_f32(Scalars scalars, const float* input, float* output, unsigned char* bits) {
  forward_lines(scalars, input, output, bits);
}
extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_forward_lines_f16(Scalars scalars, const __half* input, __half* output, unsigned char* bits) {
  forward_lines(scalars, input, output, bits);
}
extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_forward_lines_bf16(Scalars scalars, const __nv_bfloat16* input, __nv_bfloat16* output,
                                 unsigned char* bits) {
  forward_lines(scalars, input, output, bits);
}

extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_backward_lines_f32(Scalars scalars, const float* upstream, const unsigned char* bits,
                               float* gradient) {
  backward_lines(scalars, upstream, bits, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_backward_lines_f16(Scalars scalars, const __half* upstream, const unsigned char* bits,
                               __half* gradient) {
  backward_lines(scalars, upstream, bits, gradient);
}
extern "C" __global__ void __launch_bounds__(kThreads)
corner_pool_backward_lines_bf16(Scalars scalars, const __nv_bfloat16* upstream, const unsigned char* bits,
                                __nv_bfloat16* gradient) {
  backward_lines(scalars, upstream, bits, gradient);
}
