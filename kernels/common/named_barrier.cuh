// Barriers for some warps of a block. Number 0 is that of __syncthreads.
#pragma once

// Waits until `threads` threads, of whole warps, have come to or passed barrier `number`. All lanes
// take part.
__device__ __forceinline__ void meet(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Counts as having come, and goes on. All lanes take part.
__device__ __forceinline__ void pass(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// As `meet`; whether it is true for any of the threads, which all learn.
__device__ __forceinline__ bool meet_or(int number, int threads, bool mine) {
  int any;
  asm volatile(
      "{\n"
      ".reg .pred mine, any;\n"
      "setp.ne.b32 mine, %3, 0;\n"
      "bar.red.or.pred any, %1, %2, mine;\n"
      "selp.b32 %0, 1, 0, any;\n"
      "}"
      : "=r"(any)
      : "r"(number), "r"(threads), "r"(static_cast<int>(mine))
      : "memory");
  return any != 0;
}
