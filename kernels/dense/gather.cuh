// The left matrix of a convolution as a product: row m is a pixel of the output, column k a tap of
// the kernel and a channel, (ky * kernel width + kx) * C + c. It is gathered from the images, never
// stored. A linear layer is the case of images and kernels of one pixel.
#pragma once

#include "common/async_copy.cuh"
#include "common/mma.cuh"
#include "common/params.cuh"

#include <cstddef>

// Mirrors `Scalars` in src/cuda/matmul/mod.rs.
struct Scalars {
  int rows;          // M: pixels of all outputs
  int outputs;       // N
  int steps;         // K
  int weight_pitch;  // elements from one output's weights to the next, a multiple of 8
  int height;        // of an image
  int width;
  int channels;
  int kernel_width;
  int stride;
  int padding;
  int pixels;        // of one output image
  int out_width;
  Divisor by_pixels;
  Divisor by_out_width;
  int column_tiles;  // blocks side by side
  int activation;
  int wide_input;    // x and C are multiples of 16 bytes: chunks are copied whole
  int wide_output;   // out, residual and N are multiples of 16 bytes
};
static_assert(sizeof(Scalars) == 80, "mirrored by the host");
static_assert(offsetof(Scalars, by_pixels) == 48, "mirrored by the host");
static_assert(offsetof(Scalars, wide_output) == 76, "mirrored by the host");

// Elements of T in a chunk of 16 bytes, and chunks of a row in one stage of the pipeline.
template <typename T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
constexpr int kStageChunks = 4;
template <typename T>
constexpr int kStageSteps = kStageChunks * kChunk<T>;

// Shared address of a chunk: rows of 64 bytes, two to the 128 bytes of all banks, so that chunk c of
// row r lies at place c ^ (r / 2 % 4), and eight rows' chunks of one column lie in different banks.
__device__ __forceinline__ unsigned chunk_address(unsigned tile, int row, int chunk) {
  return tile + row * (16 * kStageChunks) + ((chunk ^ (row / 2 % kStageChunks)) << 4);
}

// Column k of the left matrix.
struct Tap {
  int y, x, channel;

  __device__ __forceinline__ void advance(int steps, const Scalars& s) {
    channel += steps;
    while (channel >= s.channels) {
      channel -= s.channels;
      if (++x == s.kernel_width) {
        x = 0;
        ++y;
      }
    }
  }
};

// Where a row of the left matrix starts: its first tap, which may lie in the padding.
struct Pixel {
  long long image;  // first row of the image, in rows of all images
  int y, x;
  bool exists;

  __device__ __forceinline__ void locate(int row, const Scalars& s) {
    exists = row < s.rows;
    const int image_number = divide(row, s.by_pixels);
    const int pixel = row - image_number * s.pixels;
    const int out_y = divide(pixel, s.by_out_width);
    image = 1LL * image_number * s.height;
    y = out_y * s.stride - s.padding;
    x = (pixel - out_y * s.out_width) * s.stride - s.padding;
  }

  __device__ __forceinline__ bool holds(const Tap& tap, const Scalars& s) const {
    return exists && static_cast<unsigned>(y + tap.y) < static_cast<unsigned>(s.height) &&
           static_cast<unsigned>(x + tap.x) < static_cast<unsigned>(s.width);
  }

  __device__ __forceinline__ long long offset(const Tap& tap, const Scalars& s) const {
    return ((image + y + tap.y) * s.width + x + tap.x) * s.channels + tap.channel;
  }
};

// Brings one chunk of the left matrix, from column k on, which is `tap`. Whole chunks lie in one tap
// and are copied asynchronously; others are put together element by element, by this thread alone.
template <typename T>
__device__ __forceinline__ void gather_chunk(unsigned to, const T* x, const Pixel& pixel, Tap tap,
                                             int k, const Scalars& s) {
  if (s.wide_input) {
    const bool valid = k < s.steps && pixel.holds(tap, s);
    copy_async(to, valid ? x + pixel.offset(tap, s) : x, valid);
    return;
  }
  float values[kChunk<T>];
#pragma unroll
  for (int i = 0; i < kChunk<T>; ++i) {
    const bool valid = k + i < s.steps && pixel.holds(tap, s);
    values[i] = valid ? to_float(x[pixel.offset(tap, s)]) : 0.0f;
    tap.advance(1, s);
  }
  constexpr int kWord = 4 / sizeof(T);
  store_shared(to, make_uint4(pack(values, T()), pack(values + kWord, T()),
                              pack(values + 2 * kWord, T()), pack(values + 3 * kWord, T())));
}
