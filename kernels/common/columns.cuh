// The neighbouring columns of a scan that one thread holds, and the bits of 8 of their steps.
#pragma once

#include "common/scan.cuh"

// Byte i % 4 of word i / 4 holds the bits of element i.
struct Bits {
  unsigned words[2];

  __device__ void set(int element, int bit) { words[element / 4] |= 1u << (element % 4 * 8 + bit); }
  __device__ bool has(int element, int bit) const {
    return words[element / 4] >> (element % 4 * 8 + bit) & 1u;
  }
  __device__ unsigned of(int element) const { return words[element / 4] >> (element % 4 * 8) & 0xffu; }
};

// The columns of a thread: kVector<T> neighbours, or, where vectors are not aligned, as many that are
// `lanes` apart, so that neighbouring threads still load neighbouring elements.
template <typename T>
struct Columns {
  static constexpr int kCount = kVector<T>;
  int first;   // number of the vector, or of the first column
  int apart;   // columns between two of the thread's; 0 where wide
  int count;   // how many exist
  long long inner;
  Divisor by_inner;

  __device__ Columns(const Scalars& scalars, int lane)
      : inner(scalars.inner), by_inner(scalars.by_inner) {
    if (scalars.wide) {
      first = blockIdx.x * scalars.lanes() + lane;
      apart = 0;
      count = 1LL * first * kCount < scalars.columns ? kCount : 0;
    } else {
      first = blockIdx.x * scalars.lanes() * kCount + lane;
      apart = scalars.lanes();
      const long long left = (scalars.columns - first + apart - 1) / apart;
      count = static_cast<int>(max(min(left, 0LL + kCount), 0LL));
    }
  }

  // Place of row 0 of column i, or of the vector, where each block has `rows` rows.
  __device__ __forceinline__ long long base(int i, long long rows) const {
    const long long number = first + i * apart;
    const long long outer = divide(static_cast<int>(number), by_inner);
    const long long column = apart == 0 ? number * kCount : number;
    return outer * (rows - 1) * inner + column;
  }

  // `vector` is base(0, rows), which is kept from row to row.
  __device__ __forceinline__ uint4 load(const T* map, long long vector, long long rows, long long row) const {
    uint4 words = make_uint4(0, 0, 0, 0);
    if (apart == 0) {
      if (count > 0) words = __ldcs(reinterpret_cast<const uint4*>(map + vector + row * inner));
      return words;
    }
    float values[kCount] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) values[i] = to_float(map[base(i, rows) + row * inner]);
    }
    return pack_vector<T>(values);
  }

  __device__ __forceinline__ void store(T* map, long long vector, long long rows, long long row,
                                        uint4 words) const {
    if (apart == 0) {
      if (count > 0) __stwb(reinterpret_cast<uint4*>(map + vector + row * inner), words);
      return;
    }
    float values[kCount];
    unpack_vector<T>(words, values);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) map[base(i, rows) + row * inner] = from_float<T>(values[i]);
    }
  }

  __device__ __forceinline__ Bits load_bits(const unsigned char* bits, long long groups, long long group) const {
    Bits loaded = {{0, 0}};
    if (apart != 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < count) loaded.words[i / 4] |= bits[base(i, groups) + group * inner] << (i % 4 * 8);
      }
    } else if (count > 0) {
      const unsigned* words = reinterpret_cast<const unsigned*>(bits + base(0, groups) + group * inner);
      if constexpr (kCount == 4) {
        loaded.words[0] = *words;
      } else {
        const uint2 both = *reinterpret_cast<const uint2*>(words);
        loaded.words[0] = both.x;
        loaded.words[1] = both.y;
      }
    }
    return loaded;
  }

  __device__ __forceinline__ void store_bits(unsigned char* bits, long long groups, long long group,
                                             Bits stored) const {
    if (apart != 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < count) bits[base(i, groups) + group * inner] = static_cast<unsigned char>(stored.of(i));
      }
    } else if (count > 0) {
      unsigned* words = reinterpret_cast<unsigned*>(bits + base(0, groups) + group * inner);
      if constexpr (kCount == 4) {
        *words = stored.words[0];
      } else {
        *reinterpret_cast<uint2*>(words) = make_uint2(stored.words[0], stored.words[1]);
      }
    }
  }
};
