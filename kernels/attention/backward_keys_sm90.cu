// Gradients of attention's keys and values for 16-bit elements on Hopper.
//
// Reads:   tensor maps of q, k, v and dout (src/cuda/tensor_map.rs), of boxes of 64 keys and of COLUMNS
//          queries; what backward_keys_sm80.cu reads
// Writes:  dk, dv [B, Nk, Hkv, D] T, strided
// Launch:  <<<B * Hkv * tiles of keys, Shape::kThreads, Shared90<Shape>::kBytes>>>
// Order:   a block owns its keys and adds queries in order, head after head: no sum crosses blocks
// Cost:    4 products of 2 Nq Nk D operations a query head, halved by a causal mask; the queries and
//          output gradients read once a tile of keys
// Source:  as backward_keys_sm80.cu; warpgroups as in Shah et al., "FlashAttention-3", 2024
// archs: sm_90a

#include "attention/backward_step90.cuh"

// Three stages let the warpgroups drift apart by one tile, while another is copied. Steps of 32: from 64
// on, what masks and biases need would spill.
using Keys64 = Shape90<true, 64, 128, 32, 3>;
using Keys128 = Shape90<true, 128, 64, 32, 3>;
static_assert(Shared90<Keys64>::kBytes == 134200 && Shared90<Keys128>::kBytes == 165432,
              "mirrored by the host");

#define KEY_GRADIENTS(SYMBOL, T, SHAPE)                                                      \
  extern "C" __global__ void __launch_bounds__(SHAPE::kThreads, 1)                           \
  SYMBOL(MAP_PARAMETERS, BACKWARD_PARAMETERS(T), T* dk, T* dv) {                             \
    gradients<SHAPE>(scalars, first_block_first(blocks), BACKWARD_INPUTS(T), MAPS, dk, dv);  \
  }

KEY_GRADIENTS(attention_backward_keys_sm90_d64_f16, __half, Keys64)
KEY_GRADIENTS(attention_backward_keys_sm90_d64_bf16, __nv_bfloat16, Keys64)
KEY_GRADIENTS(attention_backward_keys_sm90_d128_f16, __half, Keys128)
KEY_GRADIENTS(attention_backward_keys_sm90_d128_bf16, __nv_bfloat16, Keys128)
