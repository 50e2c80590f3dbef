//! The definition of each op: plain loops over slices, sums in `f64`, written from the source that
//! each names.
//!
//! Everything else is tested against it. It is slow, uses nothing else of the crate, and shares no
//! formula with the backends where the mathematics leaves a choice.

mod attention;
mod nms;
mod sigmoid_focal_loss;

pub use attention::{
    Attention, AttentionGradient, AttentionInputs, AttentionSequences, attention,
    attention_gradient, attention_probabilities, philox4x32,
};
pub use nms::{Nms, iou, nms};
pub use sigmoid_focal_loss::{SigmoidFocalLoss, sigmoid_focal_loss};
