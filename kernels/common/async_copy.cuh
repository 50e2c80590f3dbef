// Copies from global to shared memory that run beside the program (cp.async).
#pragma once

// Copies 16 bytes between addresses that are multiples of 16, past the L1 cache; writes zeros and
// reads nothing where `valid` is false. The calling thread alone takes part.
__device__ __forceinline__ void copy_async(unsigned to_shared, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to_shared),
               "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
}

// Ends the group of the copies that this thread has started since the last one.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the youngest `PENDING` groups of this thread are under way. What others
// copied is visible after a barrier that follows their waits.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
