//! Tensor maps and copies: every layout and height of box that attention uses.

use super::launch::{Argument, Call, Hopper, Memory, Mistake, hoppers};
use half::{bf16, f16};
use ocelli::Element;
use ocelli::testing::tensor_map::{Tensor, TensorMap};
use ptxsim::report::FindingKind;

const BOX_COLUMNS: usize = 64;
const ELEMENT: usize = 2;
/// Tokens of the kernels' boxes.
const HEIGHTS: [usize; 5] = [64, 80, 104, 128, 136];

/// A tensor, and how many elements lie before it.
struct Form {
    name: &'static str,
    tensor: Tensor,
    before: usize,
}

const fn form(name: &'static str, extents: [usize; 4], strides: [usize; 3]) -> Form {
    let tensor = Tensor { extents, strides };
    Form {
        name,
        tensor,
        before: 0,
    }
}

/// Tensors of 2 sequences, 150 tokens, 3 heads and 64 columns, where the name says nothing else.
const FORMS: [Form; 9] = [
    form("[B, N, H, D]", [64, 150, 3, 2], [192, 64, 28_800]),
    form("[B, H, N, D]", [64, 150, 3, 2], [64, 9_600, 28_800]),
    Form {
        before: 192,
        ..form(
            "keys of [B, N, 3, H, D]",
            [64, 150, 3, 2],
            [576, 64, 86_400],
        )
    },
    form("packed [T, H, D]", [64, 150, 3, 1], [192, 64, 0]),
    form("one head", [64, 150, 1, 2], [64, 0, 9_600]),
    form("one token", [64, 1, 3, 2], [0, 64, 192]),
    form("D of 8", [8, 150, 3, 2], [24, 8, 3_600]),
    form("D of 56", [56, 150, 3, 2], [168, 56, 25_200]),
    form("D of 160, in 256", [160, 150, 3, 2], [480, 160, 72_000]),
];

impl Form {
    /// Place of an element, or `None` outside of the tensor.
    fn place(&self, at: [usize; 4]) -> Option<usize> {
        let Tensor { extents, strides } = self.tensor;
        let inside = at.iter().zip(extents).all(|(&at, extent)| at < extent);
        let rest = at[1..].iter().zip(strides);
        inside.then(|| self.before + at[0] + rest.map(|(at, stride)| at * stride).sum::<usize>())
    }

    fn len(&self) -> usize {
        let last = self.tensor.extents.map(|extent| extent - 1);
        self.place(last).map_or(0, |place| place + 1)
    }

    /// Boxes beside each other: 1, 2 or 4.
    fn blocks(&self) -> usize {
        let blocks = self.tensor.extents[0].div_ceil(BOX_COLUMNS);
        blocks.next_power_of_two()
    }
}

/// Bits of numbers that are finite in both types, and none of them 0.
fn numbers<T: Element>(len: usize) -> Vec<T> {
    let bits: Vec<u16> = (0..len).map(|i| (1 + i * 31 % 30_000) as u16).collect();
    bytemuck::cast_slice(&bits).to_vec()
}

fn copy_boxes<T: Element>(
    hopper: &Hopper,
    form: &Form,
    height: usize,
    [token, head, batch]: [usize; 3],
    mistake: Mistake,
) -> Vec<T> {
    let from = Memory::holding(hopper, &numbers::<T>(form.len()));
    let start = from.address() + (form.before * ELEMENT) as u64;
    let map = TensorMap::new(start, T::DTYPE, &form.tensor, height as u32).unwrap();
    let elements = height * form.blocks() * BOX_COLUMNS;
    let out = Memory::<T>::unwritten(hopper, elements);
    let number = |number: usize| Argument::Number(number as i32);
    hopper.launch(
        Call::warpgroup("hopper_copy_boxes", elements * ELEMENT + 8),
        &[
            Argument::Map(&map),
            number(token),
            number(head),
            number(batch),
            number(height),
            number(form.blocks()),
            mistake.argument(),
            out.argument(),
        ],
    );
    out.read()
}

/// The same by its definition.
fn expected<T: Element>(form: &Form, height: usize, [token, head, batch]: [usize; 3]) -> Vec<T> {
    let numbers = numbers::<T>(form.len());
    let columns = form.blocks() * BOX_COLUMNS;
    let element = |i: usize| {
        let place = form.place([i % columns, token + i / columns, head, batch]);
        place.map_or_else(T::default, |place| numbers[place])
    };
    (0..height * columns).map(element).collect()
}

fn check<T: Element>(hopper: &Hopper, form: &Form, height: usize) {
    let [_, tokens, heads, batches] = form.tensor.extents;
    // Inside, across the end, and behind it.
    for token in [0, tokens / 2 + 7, tokens - 1, tokens, tokens + 1000] {
        let from = if token == 0 {
            [0; 3]
        } else {
            [token, heads - 1, batches - 1]
        };
        let boxes = copy_boxes::<T>(hopper, form, height, from, Mistake::None);
        let name = form.name;
        assert!(
            boxes == expected(form, height, from),
            "{name}, {height} from {from:?}"
        );
    }
    hopper.check();
}

#[test]
fn boxes_lie_as_swizzled_tiles_with_zeros_outside_of_the_tensor() {
    for hopper in hoppers() {
        for form in &FORMS {
            assert!(form.tensor.has_map());
            for height in HEIGHTS {
                check::<f16>(&hopper, form, height);
                check::<bf16>(&hopper, form, height);
            }
        }
    }
}

#[test]
fn a_box_that_is_not_waited_for_is_a_race() {
    for hopper in hoppers() {
        let run = || {
            copy_boxes::<bf16>(&hopper, &FORMS[0], 64, [0; 3], Mistake::NoWait);
        };
        if let Some(findings) = hopper.findings(run) {
            assert!(findings.contains(&FindingKind::SharedRace), "{findings:?}");
        }
    }
}
