// Registers handed from some warps of a block to others (setmaxnreg), for sm_90a. What a thread
// starts with follows from __launch_bounds__(threads, 1). The compiler honours it where each role is
// one branch of an if.
#pragma once

// Keeps COUNT registers a thread, a multiple of 8. All threads of a warpgroup take part.
template <int COUNT>
__device__ __forceinline__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Waits for, and takes, registers up to COUNT a thread. All threads of a warpgroup take part.
template <int COUNT>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
