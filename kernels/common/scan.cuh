// The order, the bits and the geometry of corner pooling's scans.
#pragma once

#include "common/params.cuh"
#include "common/vec.cuh"

#include <cstddef>

// Steps of a column that share a byte of bits.
constexpr int kSteps = 8;

// Mirrors `Scalars` in src/cuda/corner_pool/plan.rs.
struct Scalars {
  long long length;
  long long inner;
  long long columns;  // outer * inner
  Divisor by_inner;   // of columns; where `wide`, of vectors of them
  int lanes_log2;     // threads of a block that hold the same steps
  int from_end;
  int wide;        // every vector is aligned and lies in one row of columns, or in one line
  int accumulate;  // the forward adds to what the output holds
  int padding;     // bytes behind the bits that are cleared

  __device__ int lanes() const { return 1 << lanes_log2; }
};
static_assert(sizeof(Scalars) == 56, "mirrored by the host");
static_assert(offsetof(Scalars, by_inner) == 24, "mirrored by the host");
static_assert(offsetof(Scalars, padding) == 48, "mirrored by the host");

// Position of a step on its axis.
__device__ __forceinline__ long long position(const Scalars& scalars, long long step) {
  return scalars.from_end ? scalars.length - 1 - step : step;
}

// Bytes of bits along a column.
__device__ __forceinline__ long long bit_groups(const Scalars& scalars) {
  return (scalars.length + kSteps - 1) / kSteps;
}

// Threads of block 0 clear the bytes that fill the last word of the bits.
__device__ __forceinline__ void clear_padding(const Scalars& scalars, unsigned char* bits) {
  if (bits == nullptr || blockIdx.x != 0 || threadIdx.x >= scalars.padding) return;
  bits[bit_groups(scalars) * scalars.columns + threadIdx.x] = 0;
}

// Whether x is a new maximum after m. NaN is greater than any number, and a tie raises nothing: the
// first of equals stands.
__device__ __forceinline__ bool exceeds(float x, float m) { return !(x <= m) && m == m; }

// The maximum of two parts of a scan, `earlier` being met first.
__device__ __forceinline__ float later(float earlier, float x) {
  return exceeds(x, earlier) ? x : earlier;
}

// What a scan starts from. An input may be as low: the first step is a new maximum by its place.
__device__ __forceinline__ float lowest() { return __int_as_float(0xff800000); }
