//! Arithmetic and layouts of the tensor instructions, as pure functions.
//!
//! ```text
//! format      bits of f16, bf16, tf32, fp8 and f32 as significand and exponent
//! model       the fused dot-add of a tensor core, bit for bit
//! multiply    a whole matrix product by that model, eight columns at a time
//! product     the share of a warp in such a product, on registers
//! fragment    which lane and register holds which matrix element
//! swizzle     the XOR pattern that TMA and wgmma share
//! descriptor  wgmma's shared-memory matrices: descriptor and canonical layouts
//! tensor_map  tensor maps of TMA
//! tensor_box  the walk over a tensor map's box
//! ```

pub mod descriptor;
pub mod format;
pub mod fragment;
pub mod model;
pub mod multiply;
pub mod product;
pub mod swizzle;
pub mod tensor_box;
pub mod tensor_map;
