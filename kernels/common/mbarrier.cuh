// Barriers in shared memory that count arrivals and copied bytes (mbarrier), and rings of buffers on
// them. For sm_90.
#pragma once

// A barrier of 8 bytes. It goes through phases; one ends when the expected threads have arrived and
// the expected bytes are there, and the parity of phases 0, 1, 2, .. is 0, 1, 0, ..
struct Mbarrier {
  unsigned address;  // in shared memory, a multiple of 8

  // Expects `arrivals` in each phase. One thread; the others may use it after `publish_barriers` by
  // that thread and a barrier of the block.
  __device__ __forceinline__ void init(int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory");
  }

  // The calling thread arrives: what it did before is seen by those who wait for the phase.
  __device__ __forceinline__ void arrive() const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
  }

  // The same, and the phase waits for `bytes` more of copies.
  __device__ __forceinline__ void arrive_expecting(int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
                 : "memory");
  }

  // Waits until the phase of this parity has ended. A new barrier is past a phase of parity 1. Each
  // calling thread waits for itself.
  __device__ __forceinline__ void wait(unsigned parity) const {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "AGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra AGAIN;\n"
        "}" ::"r"(address),
        "r"(parity)
        : "memory");
  }
};

// Makes initialised barriers known to the copy engine. The thread that initialised them.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Orders this thread's accesses to shared memory by ordinary instructions before those by wgmma and
// tensor copies that follow a barrier.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// STAGES buffers that one producer fills by copies and some warps empty, in turn. Use number n is of
// buffer n % STAGES; both sides count.
template <int STAGES>
struct Ring {
  static constexpr int kBytes = 2 * STAGES * 8;

  unsigned address;  // of kBytes for the barriers

  __device__ __forceinline__ Mbarrier full(int n) const { return {address + n % STAGES * 8}; }
  __device__ __forceinline__ Mbarrier empty(int n) const {
    return {address + (STAGES + n % STAGES) * 8};
  }

  // One thread.
  __device__ __forceinline__ void init(int consumer_warps) const {
    for (int i = 0; i < STAGES; ++i) {
      full(i).init(1);
      empty(i).init(consumer_warps);
    }
  }

  // The producer waits until all have released the buffer; one thread.
  __device__ __forceinline__ void acquire(int n) const { empty(n).wait(n / STAGES % 2 ^ 1); }

  // The same, and says how many bytes it will copy there.
  __device__ __forceinline__ void acquire(int n, int bytes) const {
    acquire(n);
    full(n).arrive_expecting(bytes);
  }

  // Waits until the copies are there. Each calling thread waits for itself.
  __device__ __forceinline__ void wait(int n) const { full(n).wait(n / STAGES % 2); }

  // This warp has read the buffer. All lanes take part.
  __device__ __forceinline__ void release(int n) const {
    // The other lanes' reads come before the one arrival.
    __syncwarp();
    if (threadIdx.x % 32 == 0) empty(n).arrive();
  }
};
