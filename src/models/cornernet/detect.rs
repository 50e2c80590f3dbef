//! From an image to boxes: the official test procedure at one scale.

use super::{Config, CornerNet, MODEL, Naming, metadata, rename};
use crate::io::Weights;
use crate::models::Detection;
use crate::ops::{CornerBoxes, corner_decode, normalize_image, soft_nms};
use crate::params::{CornerDecode, SoftNms, SoftNmsMethod};
use crate::{DType, Device, Error, Result, Tensor};

/// Pixels of the image a cell of the features, before any rounding.
const STRIDE: usize = 4;

/// How an image is prepared for a [`CornerNet`], and how boxes are read from what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionRule {
    /// Whether the network sees blue first, red last.
    pub blue_first: bool,
    /// Mean of pixels in 0..1, in the network's order of channels.
    pub mean: [f32; 3],
    /// Their standard deviation.
    pub deviation: [f32; 3],
    /// The colour around the image, before it is normalised.
    pub border: [f32; 3],
    /// Whether the mirrored image is searched as well.
    pub flip: bool,
    /// Pixels from cell to cell. `None`: extents of the image with its border by those of the heatmaps (511 / 128), as the
    /// official network was trained.
    pub cell: Option<f32>,
    /// How corners are paired.
    pub decode: CornerDecode,
    /// Scores of pairs must be above this.
    pub score_threshold: f32,
    /// How boxes that overlap are lowered.
    pub soft_nms: SoftNms,
    /// So many boxes are returned, and those that tie with the last.
    pub max_detections: usize,
}

impl Default for DetectionRule {
    /// The official code's, `config/CornerNet.json` and `test/coco.py`.
    fn default() -> Self {
        Self {
            blue_first: true,
            mean: [0.40789654, 0.44719302, 0.47026115],
            deviation: [0.2886383, 0.27408164, 0.27809835],
            border: [0.0; 3],
            flip: true,
            cell: None,
            decode: CornerDecode::default(),
            score_threshold: 0.0,
            soft_nms: SoftNms {
                method: SoftNmsMethod::Gaussian,
                inclusive: true,
                ..SoftNms::default()
            },
            max_detections: 100,
        }
    }
}

impl DetectionRule {
    /// open-mmlab/mmdetection's: red first, ImageNet's moments, a border of the mean colour, pairs that score above 0.05,
    /// continuous coordinates.
    pub fn mmdetection() -> Self {
        let mean = [123.675, 116.28, 103.53].map(|mean| mean / 255.0);
        let rule = Self::default();
        Self {
            blue_first: false,
            mean,
            deviation: [58.395, 57.12, 57.375].map(|deviation| deviation / 255.0),
            border: mean,
            score_threshold: 0.05,
            soft_nms: SoftNms {
                inclusive: false,
                ..rule.soft_nms
            },
            ..rule
        }
    }

    /// That of the file: by whose names it uses, and its metadata `cell`, a number, and `flip`, `true` or `false`.
    ///
    /// # Errors
    /// Other metadata.
    pub fn of(weights: &Weights, naming: Naming) -> Result<Self> {
        let rule = match naming {
            Naming::MmDetection => Self::mmdetection(),
            Naming::Official | Naming::Lite => Self::default(),
        };
        Ok(Self {
            cell: metadata(weights, "cell", "a number")?,
            flip: metadata(weights, "flip", "`true` or `false`")?.unwrap_or(rule.flip),
            ..rule
        })
    }
}

/// A [`CornerNet`] that finds objects in images.
///
/// 1. The image, at its own scale, is put in the middle of a border, so that its extents become the next of the form
///    `n 2^(d + 2) - 1` (`size | 127` for Hourglass-104, d = 5). As in the official code, an image that has such an extent
///    already loses its last row or column. Only then it is normalised, and its mirror image put beside it.
/// 2. Boxes are read from the heads of both with [`corner_decode`], those of the mirror image mirrored back, and all
///    brought to pixels of the image and clipped to it.
/// 3. [`soft_nms`] joins them; the best `max_detections` are kept.
///
/// Different from the official code: scores that are not above the threshold of soft-NMS, 0.001, never count, whereas it
/// tests only boxes that overlap a better one; it has no choice of scales, each image is searched at its own.
///
/// # Example
/// ```no_run
/// use ocelli::io::Weights;
/// use ocelli::models::cornernet::Detector;
/// use ocelli::{DType, Device, Tensor};
///
/// let mut weights = Weights::open("cornernet.safetensors", &Device::Cpu, DType::F32)?;
/// let detector = Detector::open(&mut weights)?;
/// weights.finish()?;
/// let image = Tensor::zeros(&[480, 640, 3], DType::F32, &Device::Cpu)?; // 0 is black, 1 is white
/// for found in detector.detect(&image)? {
///     println!("class {} at {:?}: {}", found.class, found.corners, found.score);
/// }
/// # Ok::<(), ocelli::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Detector {
    /// The network.
    pub model: CornerNet,
    /// What is done before and after it.
    pub rule: DetectionRule,
}

impl Detector {
    /// Loads a network with the names of the official code, of CornerNet-Lite or of mmdetection, and with the
    /// configuration and the rule of its file.
    ///
    /// # Errors
    /// Metadata that say what they may not; from the device.
    pub fn open(weights: &mut Weights) -> Result<Self> {
        let naming = rename(weights)?;
        let rule = DetectionRule::of(weights, naming)?;
        let config = Config::of(weights)?;
        let model = CornerNet::load(weights, &config)?;
        Ok(Self { model, rule })
    }

    /// The objects in an image `[H, W, 3]`, best first: red, green and blue in 0..1, of any float type, on any device.
    ///
    /// # Errors
    /// An image of another shape or type, or without pixels; a rule that is none; from the device.
    pub fn detect(&self, image: &Tensor) -> Result<Vec<Detection>> {
        let (batch, frame) = self.prepare(image)?;
        let heads = self.model.forward(&batch)?;
        let (top_left, bottom_right) = (heads.top_left.maps(), heads.bottom_right.maps());
        let found = corner_decode(top_left, bottom_right, &self.rule.decode)?;
        let shape = heads.top_left.heat.shape();
        let grid = [shape[1], shape[2]];
        self.join(frame.boxes(&found, grid, &self.rule)?)
    }

    /// What the network sees of an image, `[1 or 2, H', W', 3]`, and where in it the image lies.
    fn prepare(&self, image: &Tensor) -> Result<(Tensor, Frame)> {
        let (height, width) = match *image.shape() {
            [height, width, 3] if height * width > 0 => (height, width),
            _ => {
                let rule = "[H, W, 3] with pixels";
                let shape = format!("{:?}", image.shape());
                return Err(Error::input(MODEL, "image", rule, shape));
            }
        };
        if let Some(cell) = self.rule.cell
            && !(cell.is_normal() && cell > 0.0)
        {
            return Err(Error::input(MODEL, "cell", "a number above 0", cell));
        }
        let multiple = STRIDE << self.model.config().hourglass.depth();
        let frame = Frame::new([height, width], multiple);
        let pixels = image.to_dtype(DType::F32)?.to_vec::<f32>()?;
        let mut framed = frame.surround(&pixels, &self.rule);
        let mut images = 1;
        if self.rule.flip {
            let mirrored = mirror(&framed, frame.framed[1]);
            framed.extend(mirrored);
            images = 2;
        }
        let [height, width] = frame.framed;
        // On the CPU, so that every device gets the same pixels.
        let batch = Tensor::from_vec(framed, &[images, height, width, 3], &Device::Cpu)?;
        let batch = normalize_image(&batch, &self.rule.mean, &self.rule.deviation)?;
        let batch = batch.to_dtype(self.model.dtype())?;
        Ok((batch.to_device(self.model.device())?, frame))
    }

    /// Soft-NMS, and the best of what is left.
    fn join(&self, found: Found) -> Result<Vec<Detection>> {
        let (n, most) = (found.scores.len(), self.rule.max_detections);
        let device = self.model.device();
        let boxes = Tensor::from_vec(found.boxes.concat(), &[1, n, 4], device)?;
        let scores = Tensor::from_vec(found.scores, &[1, n], device)?;
        let classes = Tensor::from_vec(found.classes.clone(), &[1, n], device)?;
        let kept = soft_nms(&boxes, &scores, Some(&classes), None, &self.rule.soft_nms)?;
        let count = kept.count.to_vec::<i32>()?[0] as usize;
        let (indices, scores) = (kept.indices.to_vec::<i32>()?, kept.scores.to_vec::<f32>()?);
        let scores = &scores[..count];
        let ties = |&score: &f32| most > 0 && score >= scores[most - 1];
        let count = if count > most {
            scores.iter().take_while(|score| ties(score)).count()
        } else {
            count
        };
        let kept = indices.iter().zip(scores).take(count);
        Ok(kept
            .map(|(&index, &score)| Detection {
                corners: found.boxes[index as usize],
                score,
                class: found.classes[index as usize] as usize,
            })
            .collect())
    }
}

/// Boxes in pixels of the image.
struct Found {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    classes: Vec<i32>,
}

/// Where an image lies in what surrounds it. All extents are rows, then columns.
struct Frame {
    image: [usize; 2],
    framed: [usize; 2],
    /// Rows above and columns left of the image.
    before: [usize; 2],
}

impl Frame {
    /// Extents one less than a multiple of `multiple`, a power of two.
    fn new(image: [usize; 2], multiple: usize) -> Self {
        let framed = image.map(|extent| extent | (multiple - 1));
        let before = [0, 1].map(|axis| framed[axis] / 2 - image[axis] / 2);
        Self {
            image,
            framed,
            before,
        }
    }

    /// The image in the middle of the border's colour, channels in the network's order.
    fn surround(&self, pixels: &[f32], rule: &DetectionRule) -> Vec<f32> {
        let [height, width] = self.framed;
        let mut framed = rule.border.repeat(height * width);
        // Half of the frame on each side of the middle: an odd frame's last row and column stay border.
        let seen =
            [0, 1].map(|axis| self.image[axis].min(self.image[axis] / 2 + self.framed[axis] / 2));
        for row in 0..seen[0] {
            let from = &pixels[3 * row * self.image[1]..][..3 * seen[1]];
            let at = 3 * ((row + self.before[0]) * width + self.before[1]);
            let to = &mut framed[at..at + 3 * seen[1]];
            to.copy_from_slice(from);
            if rule.blue_first {
                to.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
            }
        }
        framed
    }

    /// What was found in the image and in its mirror image.
    fn boxes(&self, found: &CornerBoxes, grid: [usize; 2], rule: &DetectionRule) -> Result<Found> {
        let (boxes, scores) = (found.boxes.to_vec::<f32>()?, found.scores.to_vec::<f32>()?);
        let (classes, counts) = (found.classes.to_vec::<i32>()?, found.count.to_vec::<i32>()?);
        let mut all = Found {
            boxes: Vec::new(),
            scores: Vec::new(),
            classes: Vec::new(),
        };
        for (image, &count) in counts.iter().enumerate() {
            let first = image * rule.decode.num_dets;
            for at in first..first + count as usize {
                if scores[at] > rule.score_threshold {
                    let cells = [0, 1, 2, 3].map(|side| boxes[4 * at + side]);
                    let pixels = self.pixels(cells, image == 1, grid, rule.cell);
                    all.boxes.push(pixels);
                    all.scores.push(scores[at]);
                    all.classes.push(classes[at]);
                }
            }
        }
        Ok(all)
    }

    /// A box in cells as one in pixels of the image, clipped to it.
    fn pixels(
        &self,
        cells: [f32; 4],
        mirrored: bool,
        grid: [usize; 2],
        cell: Option<f32>,
    ) -> [f32; 4] {
        let scale = [0, 1].map(|axis| cell.unwrap_or(self.framed[axis] as f32 / grid[axis] as f32));
        let [x1, y1, x2, y2] = cells;
        let [y1, y2] = [y1, y2].map(|y| y * scale[0]);
        let [mut x1, mut x2] = [x1, x2].map(|x| x * scale[1]);
        if mirrored {
            let width = self.framed[1] as f32;
            (x1, x2) = (width - x2, width - x1);
        }
        let inside = |value: f32, axis: usize| {
            (value - self.before[axis] as f32).clamp(0.0, self.image[axis] as f32)
        };
        [inside(x1, 1), inside(y1, 0), inside(x2, 1), inside(y2, 0)]
    }
}

/// Each row of `width` pixels backwards.
fn mirror(pixels: &[f32], width: usize) -> Vec<f32> {
    let rows = pixels.chunks_exact(3 * width);
    let backwards = rows.flat_map(|row| row.chunks_exact(3).rev());
    backwards.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_the_official_one() {
        // Extents of crop_image for 511 | 127 and 300 | 127.
        let frame = Frame::new([511, 300], 128);
        assert_eq!((frame.framed, frame.before), ([511, 383], [0, 41]));
        let rule = DetectionRule {
            border: [0.5; 3],
            ..DetectionRule::default()
        };
        let frame = Frame::new([3, 2], 4);
        let pixels: Vec<f32> = (0..18).map(|x| x as f32).collect();
        let framed = frame.surround(&pixels, &rule);
        let border = [0.5f32; 3];
        let rows = [
            [[2., 1., 0.], [5., 4., 3.], border],
            [[8., 7., 6.], [11., 10., 9.], border],
            // The image's last row, whose extent was right already.
            [border, border, border],
        ];
        assert_eq!(framed, rows.concat().concat());
        assert_eq!(mirror(&framed, 3)[..6], [0.5, 0.5, 0.5, 5., 4., 3.]);
    }

    #[test]
    fn a_mirrored_box_is_mirrored_back() {
        let frame = Frame::new([100, 100], 128);
        let cells = [4.0, 2.0, 8.0, 10.0];
        let [x1, _, x2, _] = frame.pixels(cells, false, [32, 32], Some(4.0));
        assert_eq!((x1, x2), (3.0, 19.0));
        let mirrored = [127.0 / 4.0 - 8.0, 2.0, 127.0 / 4.0 - 4.0, 10.0];
        let back = frame.pixels(mirrored, true, [32, 32], Some(4.0));
        assert_eq!((back[0], back[2]), (x1, x2));
    }
}
