// Matrix products of a warpgroup on the tensor cores (wgmma), m64nNk16, 16-bit operands, f32 sums. For
// sm_90a.
//
// A warpgroup is four warps, the first a multiple of four. The products run beside the program: between
// `begin_products` and the wait for their group nobody touches the registers and the shared memory that
// they use. All threads of the warpgroup take part in everything here.
//
// Who holds what (PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16"): warp w of the warpgroup
// has rows 16 w to 16 w + 15, and those as mma.cuh has them: d[n] is the C [16 x 8] of columns 8 n to
// 8 n + 7, and an A in registers is the A [16 x 16].
//
// Operands in shared memory are column blocks of 64 elements: rows of 128 bytes, chunk c of row r at
// place c ^ (r % 8), from a multiple of 1024 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int kWarpgroup = 128;  // threads
constexpr int kGroupRows = 64;   // rows of a warpgroup's product: the M of wgmma

// Which warpgroup of the block this is, for all that follows known to be one number a warp: operands
// are taken from uniform registers. All lanes take part.
__device__ __forceinline__ int warpgroup_number() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
}

// Where an operand lies, and how (PTX ISA, "Matrix Descriptor Format"): bits 0 to 13 the address, 16 to
// 29 and 32 to 45 two distances, all in units of 16 bytes, bits 62 and 63 the swizzle, 1 for that of
// 128 bytes. Only the lower word differs between operands.
struct Operand {
  unsigned lower;

  __device__ __forceinline__ unsigned long long descriptor() const {
    constexpr unsigned long long kUpper = 1024 >> 4 | 1u << 30;
    return kUpper << 32 | lower;
  }
  __device__ __forceinline__ Operand advance(int bytes) const {
    return {lower + static_cast<unsigned>(bytes >> 4)};
  }
};

// An operand whose k runs along the rows, eight rows after another, 1024 bytes apart. A step of k = 16 is
// 32 bytes on.
__device__ __forceinline__ Operand along_rows(unsigned address) {
  constexpr unsigned kUnused = 1;
  return {(address & 0x3ffff) >> 4 | kUnused << 16};
}

// A B whose k runs down the rows, and whose columns are blocks `block_bytes` apart; eight rows are 1024
// bytes. A step of k = 16 is 2048 bytes on.
__device__ __forceinline__ Operand down_rows(unsigned address, unsigned block_bytes) {
  return {(address & 0x3ffff) >> 4 | block_bytes >> 4 << 16};
}

// Orders the registers' values before the products that follow.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends the group of the products since the last one.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most the youngest PENDING groups are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Ties values to this place of the program: reads of sums stay behind the wait, writes before the products.
template <int N>
__device__ __forceinline__ void pin(float (&values)[N][4]) {
#pragma unroll
  for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+f"(values[i / 4][i % 4])::"memory");
}
template <int N>
__device__ __forceinline__ void pin(unsigned (&values)[N][4]) {
#pragma unroll
  for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+r"(values[i / 4][i % 4])::"memory");
}

// Names of ten registers from 10 T on, and of sums.
#define TEN(T)                                                                                     \
  "%" #T "0, %" #T "1, %" #T "2, %" #T "3, %" #T "4, %" #T "5, %" #T "6, %" #T "7, %" #T "8, %" #T \
  "9"
#define SUMS1(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SUMS2(n) SUMS1(n), SUMS1((n) + 1)
#define SUMS4(n) SUMS2(n), SUMS2((n) + 2)
#define SUMS8(n) SUMS2(n), SUMS2((n) + 2), SUMS2((n) + 4), SUMS2((n) + 6)

#define REGISTERS16 TEN() ", %10, %11, %12, %13, %14, %15"
#define REGISTERS32 TEN() ", " TEN(1) ", " TEN(2) ", %30, %31"
#define REGISTERS40 TEN() ", " TEN(1) ", " TEN(2) ", " TEN(3)
#define REGISTERS64 REGISTERS40 ", " TEN(4) ", " TEN(5) ", %60, %61, %62, %63"
#define REGISTERS68 REGISTERS64 ", %64, %65, %66, %67"
#define REGISTERS104 \
  REGISTERS68 ", %68, %69, " TEN(7) ", " TEN(8) ", " TEN(9) ", %100, %101, %102, %103"
#define REGISTERS128 \
  REGISTERS104 ", %104, %105, %106, %107, %108, %109, " TEN(11) ", %120, %121, %122, %123, %124, " \
               "%125, %126, %127"

// d (+)= a * b, [64 x 16] * [16 x COLUMNS], both in shared memory, k along their rows. %A, %B and %ADD
// follow the sums.
#define MULTIPLY_SHARED(COLUMNS, REGISTERS, A, B, ADD, T, NAME, ...)                                \
  __device__ __forceinline__ void multiply_async(float (&d)[COLUMNS / 8][4], Operand a, Operand b, \
                                                 bool add, T) {                                    \
    asm volatile(                                                                                  \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %" #ADD ", 0;\n"                                     \
        "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " {" REGISTERS       \
        "}, %" #A ", %" #B ", add, 1, 1, 0, 0;\n}"                                                 \
        : __VA_ARGS__                                                                              \
        : "l"(a.descriptor()), "l"(b.descriptor()), "r"(static_cast<int>(add)));                   \
  }

// d += a * b, [64 x 16] * [16 x COLUMNS], both in shared memory, k down their rows: a is a block of 64
// columns.
#define MULTIPLY_TURNED(COLUMNS, REGISTERS, A, B, T, NAME, ...)                                     \
  __device__ __forceinline__ void multiply_turned_async(float (&d)[COLUMNS / 8][4], Operand a,     \
                                                        Operand b, T) {                            \
    asm volatile(                                                                                  \
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\n"                                             \
        "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " {" REGISTERS       \
        "}, %" #A ", %" #B ", add, 1, 1, 1, 1;\n}"                                                 \
        : __VA_ARGS__                                                                              \
        : "l"(a.descriptor()), "l"(b.descriptor()));                                               \
  }

// d += a * b, a in registers, b in shared memory, k down its rows.
#define MULTIPLY_REGISTERS(COLUMNS, REGISTERS, A0, A1, A2, A3, B, T, NAME, ...)                       \
  __device__ __forceinline__ void multiply_async(float (&d)[COLUMNS / 8][4], const unsigned (&a)[4], \
                                                 Operand b, T) {                                     \
    asm volatile(                                                                                    \
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\n"                                               \
        "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " {" REGISTERS         \
        "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", add, 1, 1, 1;\n}"                     \
        : __VA_ARGS__                                                                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor()));                          \
  }

#define MULTIPLY(T, NAME)                                                                          \
  MULTIPLY_SHARED(32, REGISTERS16, 16, 17, 18, T, NAME, SUMS4(0))                                   \
  MULTIPLY_SHARED(64, REGISTERS32, 32, 33, 34, T, NAME, SUMS8(0))                                   \
  MULTIPLY_SHARED(80, REGISTERS40, 40, 41, 42, T, NAME, SUMS8(0), SUMS2(8))                         \
  MULTIPLY_SHARED(128, REGISTERS64, 64, 65, 66, T, NAME, SUMS8(0), SUMS8(8))                        \
  MULTIPLY_SHARED(136, REGISTERS68, 68, 69, 70, T, NAME, SUMS8(0), SUMS8(8), SUMS1(16))             \
  MULTIPLY_SHARED(208, REGISTERS104, 104, 105, 106, T, NAME, SUMS8(0), SUMS8(8), SUMS8(16),         \
                  SUMS2(24))                                                                       \
  MULTIPLY_TURNED(64, REGISTERS32, 32, 33, T, NAME, SUMS8(0))                                       \
  MULTIPLY_REGISTERS(64, REGISTERS32, 32, 33, 34, 35, 36, T, NAME, SUMS8(0))                        \
  MULTIPLY_REGISTERS(128, REGISTERS64, 64, 65, 66, 67, 68, T, NAME, SUMS8(0), SUMS8(8))             \
  MULTIPLY_REGISTERS(256, REGISTERS128, 128, 129, 130, 131, 132, T, NAME, SUMS8(0), SUMS8(8),       \
                     SUMS8(16), SUMS8(24))

MULTIPLY(__half, "f16")
MULTIPLY(__nv_bfloat16, "bf16")

#undef MULTIPLY
#undef MULTIPLY_REGISTERS
#undef MULTIPLY_TURNED
#undef MULTIPLY_SHARED
#undef REGISTERS128
#undef REGISTERS104
#undef REGISTERS68
#undef REGISTERS64
#undef REGISTERS40
#undef REGISTERS32
#undef REGISTERS16
#undef SUMS8
#undef SUMS4
#undef SUMS2
#undef SUMS1
#undef TEN
