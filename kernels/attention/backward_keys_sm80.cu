// Gradients of attention's keys and values, on tensor cores.
//
// Reads:   q [B, Nq, H, D], k, v [B, Nk, Hkv, D], dout like q, T, strided; bias [B or 1, H or 1,
//          Nq, Nk] T or null; log_sum_exps, deltas: the statistics of backward_rows.cu; limits
// Writes:  dk, dv [B, Nk, Hkv, D] T, strided
// Launch:  <<<B * Hkv * tiles of keys, Shape::kThreads, Shape::kBytes>>>
// Order:   a block owns its keys and adds queries in order, head after head: no sum crosses blocks
// Cost:    4 products of 2 Nq Nk D operations a query head (5 at D = 256), halved by a causal mask;
//          the queries and output gradients read once a tile of keys
// Source:  Dao, "FlashAttention-2", 2023, algorithm 2, without its sum of dq; the transposed
//          scores are Shah et al., "FlashAttention-3", 2024
// archs: sm_80

#include "attention/backward_keys.cuh"

// 32 keys a warp: each operand of queries loaded from shared memory meets 32 rows, without which
// ldmatrix would set the pace; 128 registers hold the sums.
using KeyBlock64 = KeyBlock<64, 2, 4, 64, 16>;
// The sums of 16 keys fill 128 registers, too. 97 KiB of shared memory fit every GPU since sm_80.
using KeyBlock128 = KeyBlock<128, 1, 8, 32, 32>;
// Here 16 keys' dk or dv alone do, so each is made by blocks of its own.
using KeyBlock256 = KeyBlock<256, 1, 4, 16, 16>;

#define KEY_GRADIENTS(SYMBOL, T, SHAPE, DK, DV)                                                  \
  extern "C" __global__ void __launch_bounds__(SHAPE::kThreads, 1)                               \
  SYMBOL(BACKWARD_PARAMETERS(T), T* dk, T* dv) {                                                 \
    key_gradients<SHAPE, DK, DV>(scalars, first_block_first(blocks), BACKWARD_INPUTS(T), dk,     \
                                 dv);                                                            \
  }

KEY_GRADIENTS(attention_backward_keys_d64_f16, __half, KeyBlock64, true, true)
KEY_GRADIENTS(attention_backward_keys_d64_bf16, __nv_bfloat16, KeyBlock64, true, true)
KEY_GRADIENTS(attention_backward_keys_d128_f16, __half, KeyBlock128, true, true)
KEY_GRADIENTS(attention_backward_keys_d128_bf16, __nv_bfloat16, KeyBlock128, true, true)
KEY_GRADIENTS(attention_backward_dk_d256_f16, __half, KeyBlock256, true, false)
KEY_GRADIENTS(attention_backward_dk_d256_bf16, __nv_bfloat16, KeyBlock256, true, false)
KEY_GRADIENTS(attention_backward_dv_d256_f16, __half, KeyBlock256, false, true)
KEY_GRADIENTS(attention_backward_dv_d256_bf16, __nv_bfloat16, KeyBlock256, false, true)
