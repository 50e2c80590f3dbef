//! Pairs of pools: their sum and their gradients.

use super::{Case, DIRECTIONS, Data, naive, same, wide};
use crate::device::targets;
use half::{bf16, f16};
use ocelli::cpu::corner_pool::Ordered;
use ocelli::ops::{
    corner_pool_pair, corner_pool_pair_backward, corner_pool_pair_with_bits, corner_pool_with_bits,
};
use ocelli::params::{Corner, Layout};
use ocelli::reference::{corner_pool_gradient, corner_pool_winners};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::strategy::{cases, data, size};
use ocelli::{DType, Device, Float, Tensor};
use proptest::prelude::*;
use proptest::sample::select;

fn shape() -> impl Strategy<Value = [usize; 4]> {
    let channels = select(vec![1, 3, 4, 8, 16, 64]);
    prop_oneof![
        (1..3usize, size(40), size(40), channels.clone()).prop_map(|(b, h, w, c)| [b, h, w, c]),
        (Just(1usize), size(140), size(9), channels).prop_map(|(b, h, w, c)| [b, h, w, c]),
        (Just(1usize), size(9), size(140), size(70)).prop_map(|(b, h, w, c)| [b, h, w, c]),
    ]
}

fn check<T: Float + Ordered>(
    device: &Device,
    corner: Corner,
    vertical: &Case,
    horizontal: &Case,
) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!("{device} {}: {what}: {error}", T::DTYPE))
    };
    let upload = |values: Vec<T>| Tensor::from_vec(values, &vertical.shape, device).unwrap();
    let (first, second) = (upload(vertical.map()), upload(horizontal.map()));
    let upstream = upload(vertical.upstream());
    let layout = vertical.layout;
    let run = || {
        let alone = corner_pool_pair(&first, &second, corner, layout).unwrap();
        let (sum, bits) = corner_pool_pair_with_bits(&first, &second, corner, layout).unwrap();
        let (down, across) = corner_pool_pair_backward(&upstream, &bits, corner, layout).unwrap();
        [alone, sum, down, across].map(|tensor| tensor.to_vec::<T>().unwrap())
    };
    let [alone, sum, down, across] = run();
    for (once, again) in [&alone, &sum, &down, &across].into_iter().zip(run()) {
        same(once, &again).map_err(|error| fail("second run", &error))?;
    }
    let mut expected = Vec::new();
    for (case, gradient) in [(vertical, &down), (horizontal, &across)] {
        let (map, upstream) = (case.map::<T>(), vertical.upstream::<T>());
        let winners = corner_pool_winners(&wide(&map), &case.lines());
        expected.push(winners.iter().map(|&at| map[at]).collect::<Vec<_>>());
        let exact = corner_pool_gradient(&wide(&map), &wide(&upstream), &case.lines());
        let (naive, terms) = naive(&winners, &upstream);
        let budget = Budget::of_sums(&exact, &terms, &naive, T::DTYPE);
        within(&wide(gradient), &exact, &budget).map_err(|error| fail("gradient", &error))?;
    }
    let added = expected[0].iter().zip(&expected[1]);
    let added: Vec<T> = added
        .map(|(a, b)| T::from_f32(a.to_f32() + b.to_f32()))
        .collect();
    same(&alone, &added).map_err(|error| fail("sum", &error))?;
    same(&sum, &added).map_err(|error| fail("sum with bits", &error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]
    #[test]
    fn every_device_agrees_with_the_reference(
        shape in shape(),
        data in data(),
        seed: u64,
        corner in select(vec![Corner::TopLeft, Corner::BottomRight]),
        layout in select(vec![Layout::ChannelsLast, Layout::ChannelsFirst]),
    ) {
        let case = |direction, seed| Case { shape, direction, layout, data, seed, shift: 0 };
        let vertical = case(corner.vertical(), seed);
        let horizontal = case(corner.horizontal(), seed ^ 2);
        for target in targets() {
            let device = target.device();
            check::<f32>(&device, corner, &vertical, &horizontal)?;
            check::<f16>(&device, corner, &vertical, &horizontal)?;
            check::<bf16>(&device, corner, &vertical, &horizontal)?;
        }
    }
}

#[test]
fn bits_are_those_of_the_single_pools() {
    let (corner, layout) = (Corner::BottomRight, Layout::ChannelsLast);
    for target in targets() {
        let device = target.device();
        let values = Data::Ties.values(2 * 33 * 17 * 8, 5);
        let map = Tensor::from_vec(values, &[2, 33, 17, 8], &device).unwrap();
        let (_, bits) = corner_pool_pair_with_bits(&map, &map, corner, layout).unwrap();
        for (bits, direction) in [
            (&bits.vertical, DIRECTIONS[1]),
            (&bits.horizontal, DIRECTIONS[3]),
        ] {
            let (_, single) = corner_pool_with_bits(&map, direction, layout).unwrap();
            let words = |tensor: &Tensor| tensor.to_vec::<i32>().unwrap();
            bitwise(&words(bits), &words(&single)).unwrap();
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let map = zeros(&[1, 2, 3, 4], DType::F32);
    let wrong = |horizontal: &Tensor| {
        let sum = corner_pool_pair(&map, horizontal, Corner::TopLeft, Layout::ChannelsLast);
        sum.unwrap_err().to_string()
    };
    assert_eq!(
        wrong(&zeros(&[1, 2, 4, 3], DType::F32)),
        "corner_pool_pair: horizontal must be [1, 2, 3, 4], got [1, 2, 4, 3]"
    );
    assert_eq!(
        wrong(&zeros(&[1, 2, 3, 4], DType::F16)),
        "corner_pool_pair: horizontal must be of type f32, got f16"
    );
}

/// Forward, two maps are read once and one is written; backward, one is read and two are written; the carries
/// between tiles aside. Of 4 x 4 tiles, each writes its own and reads on average 1.5 of its column's and 1.5 of
/// its row's.
#[cfg(feature = "cuda")]
#[test]
fn a_pair_is_pooled_in_one_pass() {
    use crate::device::{Cuda, Target};
    for target in targets() {
        let Target::Cuda(
            device @ Cuda {
                simulator: Some(_), ..
            },
        ) = target
        else {
            continue;
        };
        let on = target.device();
        for dtype in [DType::F32, DType::BF16] {
            let map = Data::Spread(1.0).values(128 * 128 * 32, 3);
            let map = Tensor::from_vec(map, &[1, 128, 128, 32], &Device::Cpu).unwrap();
            let map = map.to_dtype(dtype).unwrap().to_device(&on).unwrap();
            let (corner, layout) = (Corner::TopLeft, Layout::ChannelsLast);
            device.launches();
            corner_pool_pair(&map, &map, corner, layout).unwrap();
            let (_, bits) = corner_pool_pair_with_bits(&map, &map, corner, layout).unwrap();
            corner_pool_pair_backward(&map, &bits, corner, layout).unwrap();
            device.context.synchronize().unwrap();
            let launches = device.launches();
            assert_eq!(launches.len(), 3);
            let elements = 128 * 128 * 32;
            let (vector, sums) = (16, 4 * 16 / dtype.size() + 4);
            for (launch, (bits, of_column)) in
                launches
                    .iter()
                    .zip([(0, vector), (elements / 4, vector), (elements / 4, sums)])
            {
                let counters = &launch.counters;
                let moved = 32 * (counters.global_loads.sectors + counters.global_stores.sectors);
                let carries = launch.grid[0] as usize * of_column * (256 + 3 * 128);
                let floor = 3 * elements * dtype.size() + bits;
                let per_element = counters.thread_instructions as usize / elements;
                println!(
                    "{}: {moved} bytes, {floor} and carries {carries}, {per_element}",
                    launch.kernel
                );
                let moved = moved as usize - carries;
                assert!(
                    100 * moved <= 105 * floor,
                    "{}: {moved} for {floor}",
                    launch.kernel
                );
                let conflicts = counters.shared_loads.conflicts + counters.shared_stores.conflicts;
                assert_eq!(conflicts, 0, "{}", launch.kernel);
            }
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_graph_replays_the_pair() {
    use crate::device::Target;
    use ocelli::cuda::Buffer;
    use ocelli::cuda::corner_pool::Pass;
    use ocelli::cuda::corner_pool_pair::{Forward, Plan, forward};
    use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let device = device.for_capture();
        let (context, stream) = (&device.context, device.context.stream());
        let shape = [1, 40, 70, 8];
        let (corner, layout) = (Corner::BottomRight, Layout::ChannelsLast);
        let plan = Plan::new(shape, corner, layout, DType::F32, Pass::Forward).unwrap();
        let values = Data::Ties.values(shape.iter().product(), 9);
        let map = Buffer::from_slice(context, &values).unwrap();
        let mut output = Buffer::from_slice(context, &vec![f32::NAN; values.len()]).unwrap();
        let mut workspace = stream
            .clone_htod(&vec![0xffu8; plan.workspace_bytes()])
            .unwrap();
        let mut queue = |output: &mut Buffer| {
            let mut arguments = Forward::<f32> {
                vertical: map.view().unwrap(),
                horizontal: map.view().unwrap(),
                output: output.view_mut().unwrap(),
                bits: None,
                workspace: workspace.as_view_mut(),
            };
            forward(context, &plan, &mut arguments).unwrap();
        };
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        queue(&mut output);
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(
            output.to_vec::<f32>().unwrap()[0].is_nan(),
            "captured, not run"
        );
        // Twice: each run clears the flags of the one before.
        graph.launch().unwrap();
        graph.launch().unwrap();
        let host = Tensor::from_vec(values.clone(), &shape, &Device::Cpu).unwrap();
        let expected = corner_pool_pair(&host, &host, corner, layout).unwrap();
        assert_eq!(
            output.to_vec::<f32>().unwrap(),
            expected.to_vec::<f32>().unwrap()
        );
        device.launches();
    }
}

/// Enough tiles that some wait for others, and extents that no tile fills.
#[test]
fn tiles_go_on_where_others_end() {
    for target in targets() {
        let device = target.device();
        for shape in [
            [1, 100, 70, 20],
            [2, 33, 129, 8],
            [1, 1, 97, 16],
            [1, 65, 1, 4],
        ] {
            for corner in [Corner::TopLeft, Corner::BottomRight] {
                let case = |direction, seed| Case {
                    shape,
                    direction,
                    layout: Layout::ChannelsLast,
                    data: Data::Special,
                    seed,
                    shift: 0,
                };
                let vertical = case(corner.vertical(), 5);
                let horizontal = case(corner.horizontal(), 6);
                check::<f32>(&device, corner, &vertical, &horizontal).unwrap();
                check::<bf16>(&device, corner, &vertical, &horizontal).unwrap();
            }
        }
    }
}
