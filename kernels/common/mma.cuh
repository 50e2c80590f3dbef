// Matrix products of a warp on the tensor cores: m16n8k16, 16-bit operands, f32 sums.
//
// Who holds what (PTX ISA, "Matrix Fragments for mma.m16n8k16"), with row = lane / 4 and
// column = 2 * (lane % 4); a register holds two neighbours along the axis in brackets, the first in
// its low half:
//   A [16 x 16], [k]:  a[0] (row, column)  a[1] (row + 8, column)
//                      a[2] (row, column + 8)  a[3] (row + 8, column + 8)
//   B [16 x 8], [k]:   b0 (k = column, n = row)  b1 (k = column + 8, n = row)
//   C [16 x 8]:        c[0], c[1] (row, column), (row, column + 1)  c[2], c[3] the same of row + 8
// So two neighbouring C, rounded to 16 bits, are an A: a = {c0[0:1], c0[2:3], c1[0:1], c1[2:3]}.
#pragma once

#include "common/shared.cuh"
#include "common/vec.cuh"

__device__ __forceinline__ int fragment_row() { return threadIdx.x % 32 / 4; }
__device__ __forceinline__ int fragment_column() { return 2 * (threadIdx.x % 4); }

// Loads four 8 x 8 matrices of 16-bit elements; matrix i's rows of 16 bytes start at the addresses
// that lanes 8 i to 8 i + 7 give. A lane gets elements (row, column) and (row, column + 1) of each.
// All lanes take part.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// The same, each matrix transposed: a lane gets elements (column, row) and (column + 1, row).
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// c += a * b. All lanes take part.
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                             unsigned b1, __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                             unsigned b1, __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two neighbouring C, rounded, as an A.
template <typename T>
__device__ __forceinline__ void as_left_operand(unsigned (&a)[4], const float (&c0)[4],
                                                const float (&c1)[4]) {
  a[0] = pack(c0, T());
  a[1] = pack(c0 + 2, T());
  a[2] = pack(c1, T());
  a[3] = pack(c1 + 2, T());
}
