//! Every kernel of the forward pass: its symbol, and the image that holds it.

use super::{hopper, hopper_short};
use crate::cuda::launch::Kernel;

/// Symbols for f16, bf16 and, where there is one, f32, of each [`Columns`](super::method::Columns).
pub(super) const TILED: [[&str; 3]; 3] = [
    [
        "attention_forward_d64_f16",
        "attention_forward_d64_bf16",
        "attention_forward_d64_f32",
    ],
    [
        "attention_forward_d128_f16",
        "attention_forward_d128_bf16",
        "attention_forward_d128_f32",
    ],
    [
        "attention_forward_d256_f16",
        "attention_forward_d256_bf16",
        "attention_forward_d256_f32",
    ],
];
pub(super) const SHORT: [&str; 2] = [
    "attention_forward_short_d64_f16",
    "attention_forward_short_d64_bf16",
];
pub(super) const SPLIT: [[&str; 2]; 3] = [
    ["attention_split_d64_f16", "attention_split_d64_bf16"],
    ["attention_split_d128_f16", "attention_split_d128_bf16"],
    ["attention_split_d256_f16", "attention_split_d256_bf16"],
];
pub(super) const COMBINE: [&str; 2] = ["attention_combine_f16", "attention_combine_bf16"];

pub(super) const TILED_IMAGE: &str = "attention/forward_sm80";
pub(super) const F32_IMAGE: &str = "attention/forward_f32";
pub(super) const SHORT_IMAGE: &str = "attention/forward_short_sm80";
pub(super) const SPLIT_IMAGE: &str = "attention/forward_split_sm80";

/// Every kernel of the forward pass.
pub(in super::super) fn kernels() -> impl Iterator<Item = Kernel> {
    let tiled = TILED.into_iter().flatten().map(|symbol| Kernel {
        image: if symbol.ends_with("f32") {
            F32_IMAGE
        } else {
            TILED_IMAGE
        },
        symbol,
    });
    let short = SHORT.into_iter().map(|symbol| Kernel {
        image: SHORT_IMAGE,
        symbol,
    });
    let split = SPLIT.into_iter().flatten().chain(COMBINE);
    let split = split.map(|symbol| Kernel {
        image: SPLIT_IMAGE,
        symbol,
    });
    let hopper = hopper::kernels().chain(hopper_short::kernels());
    tiled.chain(short).chain(split).chain(hopper)
}
