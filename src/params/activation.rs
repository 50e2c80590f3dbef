//! Functions that a layer ends with.

/// A function of each element of a layer's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `x * Phi(x)` with the normal distribution function `Phi(x) = (1 + erf(x / sqrt(2))) / 2`:
    /// the exact form, not the one by a hyperbolic tangent.
    Gelu,
}
