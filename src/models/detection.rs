//! What detectors find.

/// One object in an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// `(x1, y1, x2, y2)` in pixels of the image as it was given.
    pub corners: [f32; 4],
    /// In (0, 1].
    pub score: f32,
    /// In 0..classes.
    pub class: usize,
}
