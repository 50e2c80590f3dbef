// Gradient of attention's queries for 16-bit elements on Hopper.
//
// Reads:   tensor maps of q, k, v and dout (src/cuda/tensor_map.rs), of boxes of 64 queries and of
//          COLUMNS keys; what backward_queries_sm80.cu reads
// Writes:  dq [B, Nq, H, D] T, strided
// Launch:  <<<B * H * tiles of queries, Shape::kThreads, Shared90<Shape>::kBytes>>>
// Order:   a block adds the keys of its queries in order: no sum crosses blocks
// Cost:    3 products of 2 Nq Nk D operations a head, halved by a causal mask; the keys and values
//          read once a tile of queries
// Source:  as backward_queries_sm80.cu; warpgroups as in Shah et al., "FlashAttention-3", 2024
// archs: sm_90a

#include "attention/backward_step90.cuh"

// Three stages let the warpgroups drift apart by one tile, while another is copied; of 128 columns two
// fit. Steps of 64: dq leaves the registers that masks and biases need.
using Queries64 = Shape90<false, 64, 128, 64, 3>;
using Queries128 = Shape90<false, 128, 128, 64, 2>;
static_assert(Shared90<Queries64>::kBytes == 131128 && Shared90<Queries128>::kBytes == 196648,
              "mirrored by the host");

#define QUERY_GRADIENTS(SYMBOL, T, SHAPE)                                                    \
  extern "C" __global__ void __launch_bounds__(SHAPE::kThreads, 1)                           \
  SYMBOL(MAP_PARAMETERS, BACKWARD_PARAMETERS(T), T* dq) {                                    \
    gradients<SHAPE, T>(scalars, this_block(blocks), BACKWARD_INPUTS(T), MAPS, dq, nullptr); \
  }

QUERY_GRADIENTS(attention_backward_queries_sm90_d64_f16, __half, Queries64)
QUERY_GRADIENTS(attention_backward_queries_sm90_d64_bf16, __nv_bfloat16, Queries64)
QUERY_GRADIENTS(attention_backward_queries_sm90_d128_f16, __half, Queries128)
QUERY_GRADIENTS(attention_backward_queries_sm90_d128_bf16, __nv_bfloat16, Queries128)
