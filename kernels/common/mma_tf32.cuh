// Products of f32 matrices on the tensor cores, by three products of their tf32 parts.
//
// x = big + small, each rounded to the 11 bits of tf32, holds 22 bits of x's 24. Of the four products
// of two such sums, that of the small parts is below 2^-22 of the whole and left out.
//
// Source: Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores", 2022
#pragma once

// An operand's part in a register: its f32 pattern with the low 13 bits 0.
struct Parts {
  unsigned big;
  unsigned small;
};

__device__ __forceinline__ unsigned round_to_tf32(float x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}

__device__ __forceinline__ Parts split(unsigned bits) {
  const float x = __uint_as_float(bits);
  const unsigned big = round_to_tf32(x);
  return {big, round_to_tf32(x - __uint_as_float(big))};
}

// c += a * b, 16 x 8 x 8, with row = lane / 4 and column = lane % 4 (PTX ISA, "Matrix Fragments for
// mma.m16n8k8"): a[0] (row, column), a[1] (row + 8, column), a[2] (row, column + 4), a[3] (row + 8,
// column + 4); b0 (k = column, n = row), b1 (k = column + 4, n = row); c as of m16n8k16. ldmatrix
// loads these as it does 16-bit operands: 16 rows of 32 bytes. All lanes take part.
__device__ __forceinline__ void multiply_add_tf32(float (&c)[4], const unsigned (&a)[4],
                                                  unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
