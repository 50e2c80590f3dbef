//! The sizes of a Vision Transformer, from its file.

use super::{Interpolation, Naming, OP};
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::tensor::ShapeText;

/// The sizes of a Vision Transformer, and how its file is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whose names the tensors have.
    pub naming: Naming,
    /// What stands before all names but the head's: `""`, or `vit.` and the like.
    pub prefix: &'static str,
    /// Rows and columns of a patch.
    pub patch: [usize; 2],
    /// Channels of the image.
    pub channels: usize,
    /// Rows, and columns, of the patches of an image that positions were learned for.
    pub grid: usize,
    /// Elements of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention, of a multiple of 8 elements each, at most 256.
    pub heads: usize,
    /// Hidden elements of a block's MLP.
    pub hidden: usize,
    /// Tokens beside the class token that belong to no patch.
    pub registers: usize,
    /// Whether positions have a term for the class token, too.
    pub class_position: bool,
    /// Whether blocks scale the results of attention and MLP.
    pub layer_scale: bool,
    /// Classes of the head, where there is one.
    pub classes: Option<usize>,
    /// Of the layer norms.
    pub epsilon: f32,
    /// How positions are fitted to images of other sizes.
    pub interpolation: Interpolation,
}

impl Default for Config {
    /// ViT-B/16 at 224 as torchvision has it, with ImageNet's 1000 classes: 86,567,656 parameters.
    fn default() -> Self {
        Self {
            naming: Naming::Torchvision,
            prefix: "",
            patch: [16; 2],
            channels: 3,
            grid: 14,
            width: 768,
            depth: 12,
            heads: 12,
            hidden: 3072,
            registers: 0,
            class_position: true,
            layer_scale: false,
            classes: Some(1000),
            epsilon: 1e-6,
            interpolation: Interpolation::None,
        }
    }
}

impl Config {
    /// The sizes that a file's tensors have. Heads are not among them: 16 for the widths of ViT-Huge (1280), giant (1408),
    /// gigantic (1664) and SoViT-400m (1152), else the width over 64, as in the other published sizes.
    ///
    /// # Errors
    /// [`Error::Input`] for names of no known kind, and patches or positions that no image has.
    pub fn of(weights: &Weights) -> Result<Self> {
        let Some((naming, prefix)) = Naming::of(weights) else {
            let rule = "named as by torchvision, timm, Hugging Face or DINOv2: with conv_proj.weight, \
                        patch_embed.proj.weight or embeddings.patch_embeddings.projection.weight";
            let found = weights.names().take(3).collect::<Vec<_>>().join(", ");
            return Err(Error::input(OP, "weights", rule, format!("{found}, ..")));
        };
        let names = naming.names();
        let shape = |name: &str| weights.shape(&format!("{prefix}{name}")).unwrap_or(&[]);
        let patches = format!("{}.weight", names.patches);
        let &[width, channels, rows, columns] = shape(&patches) else {
            let value = ShapeText(shape(&patches));
            return Err(Error::input(OP, patches, "[D, C, P, P]", value));
        };
        let (grid, class_position) = grid(names.positions, shape(names.positions), width)?;
        let block = |index: usize, name: &str| format!("{}{index}.{name}", names.blocks);
        let norm = |index: &usize| !shape(&(block(*index, names.norms[0]) + ".weight")).is_empty();
        let registers = names.registers.map_or(&[][..], shape);
        let registers = registers.get(1).copied().unwrap_or(0);
        let rows_of = |name: String| shape(&name).first().copied();
        let head = weights.shape(&format!("{}.weight", names.head));
        Ok(Self {
            naming,
            prefix,
            patch: [rows, columns],
            channels,
            grid,
            width,
            depth: (0..).take_while(norm).count(),
            heads: match width {
                1152 | 1280 | 1408 | 1664 => 16,
                _ => (width / 64).max(1),
            },
            hidden: rows_of(block(0, names.mlp[0]) + ".weight").unwrap_or(0),
            registers,
            class_position,
            layer_scale: (names.scales)
                .is_some_and(|[scale, _]| !shape(&block(0, scale)).is_empty()),
            classes: head.and_then(|shape| shape.first().copied()),
            epsilon: naming.epsilon(),
            interpolation: naming.interpolation(registers),
        })
    }

    /// Rows and columns of the images that positions were learned for.
    pub fn extents(&self) -> [usize; 2] {
        self.patch.map(|patch| patch * self.grid)
    }

    /// Checks what divides, and what makes up sizes before any tensor is at hand.
    pub(super) fn check(&self) -> Result<()> {
        /// No model comes near it, and all products of two sizes fit 32 bits.
        const LIMIT: usize = (1 << 16) - 1;
        let [rows, columns] = self.patch;
        for (argument, value) in [
            ("patch", rows),
            ("channels", self.channels),
            ("grid", self.grid),
            ("width", self.width),
            ("registers", 1 + self.registers.min(LIMIT)),
        ] {
            if !(1..=LIMIT).contains(&value) {
                let rule = format!("at least 1 and at most {LIMIT}");
                return Err(Error::input(OP, argument, rule, value));
            }
        }
        if rows != columns {
            return Err(Error::input(
                OP,
                "patch",
                "square",
                format!("{rows} x {columns}"),
            ));
        }
        Ok(())
    }
}

/// The side of the square of patches that positions are for, and whether there is one more for the class token.
fn grid(name: &str, shape: &[usize], width: usize) -> Result<(usize, bool)> {
    let side = |patches: usize| {
        let side = patches.isqrt();
        (side > 0 && side * side == patches).then_some(side)
    };
    let found = match *shape {
        [1, positions, columns] if columns == width => {
            let with_class = positions.checked_sub(1).and_then(side);
            let with_class = with_class.map(|side| (side, true));
            with_class.or_else(|| side(positions).map(|side| (side, false)))
        }
        _ => None,
    };
    found.ok_or_else(|| {
        let rule = format!("[1, 1 + a square, {width}]");
        Error::input(OP, name, rule, ShapeText(shape))
    })
}
