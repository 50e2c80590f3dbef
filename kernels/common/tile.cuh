// Tiles of a pair of scans, one down and one across a map, that blocks take by ticket.
#pragma once

#include "common/columns.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kSide = 32;                 // pixels of a tile, each way
constexpr int kLanes = 4;                 // vectors of a tile's pixel: 64 bytes, two sectors
constexpr int kRun = 16;                  // pixels of a thread: half a side
constexpr int kColumns = kSide * kLanes;  // columns of vectors of a tile, and rows of them
// Vectors of a row in shared memory: 64 bytes of padding put neighbouring rows in other banks.
constexpr int kRow = kColumns + kLanes;

// Mirrors `PairScalars` in src/cuda/corner_pool_pair/plan.rs.
struct PairScalars {
  int height, width;
  int vectors;                   // of a pixel
  int tiles_y, tiles_x, strips;  // of an image
  int from_end;
};
static_assert(sizeof(PairScalars) == 28, "mirrored by the host");

// Where a tile lies. Its row and column count the tiles that its own waits for.
struct Tile {
  int number;
  int image, strip;
  int y, x;

  __device__ Tile(const PairScalars& scalars, int ticket) : number(ticket) {
    x = ticket % scalars.tiles_x;
    int rest = ticket / scalars.tiles_x;
    y = rest % scalars.tiles_y;
    rest /= scalars.tiles_y;
    strip = rest % scalars.strips;
    image = rest / scalars.strips;
  }
};

// A thread's part of a tile: one vector of a pixel, in one half of a column and in one half of a row.
struct Pixels {
  int lane, across, half;
  int vector;
  bool live;  // the vector exists
  int height, width, vectors, from_end;
  long long image;

  __device__ Pixels(const PairScalars& scalars, const Tile& tile)
      : lane(threadIdx.x % kLanes),
        across(threadIdx.x / kLanes % kSide),
        half(threadIdx.x / kColumns),
        vector(tile.strip * kLanes + lane),
        live(vector < scalars.vectors),
        height(scalars.height),
        width(scalars.width),
        vectors(scalars.vectors),
        from_end(scalars.from_end),
        image(tile.image) {}

  // Positions of a step.
  __device__ int y_of(int step) const { return from_end ? height - 1 - step : step; }
  __device__ int x_of(int step) const { return from_end ? width - 1 - step : step; }
  // Place of the pixel's vector in a map.
  __device__ long long place(int y, int x) const { return ((image * height + y) * width + x) * vectors + vector; }
};

// The next ticket. All threads of the block take part, once, and hold it.
__device__ __forceinline__ int take_ticket(int* control) {
  __shared__ int ticket;
  if (threadIdx.x == 0) ticket = atomicAdd(control, 1);
  __syncthreads();  // the ticket is visible
  return ticket;
}

// Raises the tile's flag and waits for those of the tiles before it in its column and row. All threads take
// part: what they wrote to device memory is visible to who sees the flag, and what those tiles wrote to them.
__device__ __forceinline__ void publish_and_wait(const PairScalars& scalars, const Tile& tile, int* flags) {
  __threadfence();
  __syncthreads();  // everything is written before the flag
  if (threadIdx.x == 0) atomicExch(flags + tile.number, 1);
  for (int other = threadIdx.x; other < tile.y + tile.x; other += kThreads) {
    const int away = other < tile.y ? (other + 1) * scalars.tiles_x : other - tile.y + 1;
    while (atomicAdd(flags + tile.number - away, 0) == 0) {
    }
    __threadfence();
  }
  __syncthreads();  // all flags were seen before anything is read
}

// The bits of a vector's 8 steps.
template <typename T>
__device__ __forceinline__ Bits load_bits_of(const unsigned char* from) {
  if constexpr (kVector<T> == 4) {
    return {{*reinterpret_cast<const unsigned*>(from), 0}};
  } else {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    return {{words.x, words.y}};
  }
}
template <typename T>
__device__ __forceinline__ void store_bits_of(unsigned char* to, Bits bits) {
  if constexpr (kVector<T> == 4) {
    *reinterpret_cast<unsigned*>(to) = bits.words[0];
  } else {
    *reinterpret_cast<uint2*>(to) = make_uint2(bits.words[0], bits.words[1]);
  }
}

}  // namespace
