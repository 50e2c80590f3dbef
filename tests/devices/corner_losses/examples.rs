//! Single cases: the official losses, empty batches, graphs, mistakes.

#[cfg(feature = "cuda")]
use crate::device::Target;
use crate::device::targets;
use ocelli::ops::{
    corner_embedding_loss, corner_embedding_loss_with_gradient, corner_offset_loss,
    corner_offset_loss_with_gradient,
};
use ocelli::params::{CornerEmbeddingLoss, CornerOffsetLoss};
use ocelli::{DType, Device, Tensor};

const UNWEIGHTED: CornerEmbeddingLoss = CornerEmbeddingLoss {
    pull_weight: 1.0,
    push_weight: 1.0,
};

#[test]
fn the_official_losses_agree() {
    let bytes = include_bytes!("../../golden/corner_losses.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let data = |name: &str| golden.tensor(name).unwrap().data().to_vec();
    let doubles = |name: &str| -> Vec<f64> { bytemuck::pod_collect_to_vec(&data(name)) };
    let near = |ours: &[f32], theirs: &[f64]| {
        assert_eq!(ours.len(), theirs.len());
        for (&ours, &theirs) in ours.iter().zip(theirs) {
            let error = (f64::from(ours) - theirs).abs();
            assert!(
                error <= 1e-6 * theirs.abs() + 1e-9,
                "{ours:e} for {theirs:e}"
            );
        }
    };
    for target in targets() {
        let device = target.device();
        let floats = |name: &str, shape: &[usize]| {
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&data(name));
            Tensor::from_vec(values, shape, &device).unwrap()
        };
        let integers = |name: &str| {
            let values: Vec<i32> = bytemuck::pod_collect_to_vec(&data(name));
            Tensor::from_vec(values, &[3, 10], &device).unwrap()
        };
        let maps = [0, 1].map(|corner| floats(&format!("tags_{corner}"), &[3, 6, 7, 1]));
        let indices = [integers("indices_0"), integers("indices_1")];
        let (losses, gradients) = corner_embedding_loss_with_gradient(
            [&maps[0], &maps[1]],
            [&indices[0], &indices[1]],
            None,
            &UNWEIGHTED,
        )
        .unwrap();
        near(&losses.to_vec::<f32>().unwrap(), &doubles("pull_and_push"));
        for (corner, gradient) in gradients.iter().enumerate() {
            let theirs = doubles(&format!("tag_gradient_{corner}"));
            near(&gradient.to_vec::<f32>().unwrap(), &theirs);
        }
        let (loss, gradient) = corner_offset_loss_with_gradient(
            &floats("offsets", &[3, 6, 7, 2]),
            &indices[0],
            &floats("offset_targets", &[3, 10, 2]),
            None,
            &CornerOffsetLoss::default(),
        )
        .unwrap();
        near(&loss.to_vec::<f32>().unwrap(), &doubles("offset_loss"));
        near(
            &gradient.to_vec::<f32>().unwrap(),
            &doubles("offset_gradient"),
        );
    }
}

#[test]
fn no_boxes_give_no_loss_and_zero_gradients() {
    for target in targets() {
        let device = target.device();
        for (images, side, boxes) in [(0, 4, 3), (2, 0, 3), (2, 4, 0), (2, 4, 3)] {
            let map = |channels| {
                let shape = [images, side, side, channels];
                Tensor::from_vec(vec![7f32; images * side * side * channels], &shape, &device)
            };
            let (tags, offsets) = (map(1).unwrap(), map(2).unwrap());
            let indices = Tensor::from_vec(vec![-1i32; images * boxes], &[images, boxes], &device);
            let indices = indices.unwrap();
            let wanted = Tensor::zeros(&[images, boxes, 2], DType::F32, &device).unwrap();
            let (losses, gradients) = corner_embedding_loss_with_gradient(
                [&tags, &tags],
                [&indices, &indices],
                None,
                &UNWEIGHTED,
            )
            .unwrap();
            let params = CornerOffsetLoss::default();
            let (loss, gradient) =
                corner_offset_loss_with_gradient(&offsets, &indices, &wanted, None, &params)
                    .unwrap();
            let zero = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap().iter().all(|&x| x == 0.0);
            assert_eq!(losses.to_vec::<f32>().unwrap(), [0.0, 0.0], "{target:?}");
            assert_eq!(loss.to_vec::<f32>().unwrap(), [0.0], "{target:?}");
            assert!(zero(&gradients[0]) && zero(&gradients[1]) && zero(&gradient));
        }
    }
}

#[test]
fn nan_is_not_hidden() {
    for target in targets() {
        let device = target.device();
        let on =
            |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &device).unwrap();
        let tags = on(vec![f32::NAN, 1.0], &[1, 1, 2, 1]);
        let indices = Tensor::from_vec(vec![0i32, 1], &[1, 2], &device).unwrap();
        let losses = corner_embedding_loss([&tags, &tags], [&indices, &indices], &UNWEIGHTED);
        let losses = losses.unwrap().to_vec::<f32>().unwrap();
        assert!(
            losses.iter().all(|loss| loss.is_nan()),
            "{target:?}: {losses:?}"
        );
        let offsets = on(vec![f32::NAN, 0.0, 0.0, 0.0], &[1, 1, 2, 2]);
        let wanted = on(vec![0.0; 4], &[1, 2, 2]);
        let params = CornerOffsetLoss::default();
        let loss = corner_offset_loss(&offsets, &indices, &wanted, &params).unwrap();
        assert!(loss.to_vec::<f32>().unwrap()[0].is_nan(), "{target:?}");
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let (map, indices) = (zeros(&[1, 2, 3, 1], DType::F32), zeros(&[1, 5], DType::I32));
    let embedding = |first: &Tensor, last: &Tensor, indices: &Tensor, params| {
        let losses = corner_embedding_loss([first, last], [indices, indices], &params);
        losses.unwrap_err().to_string()
    };
    let wide = zeros(&[1, 2, 3, 2], DType::F32);
    let negative = CornerEmbeddingLoss {
        pull_weight: -1.0,
        ..UNWEIGHTED
    };
    let cases = [
        (
            embedding(&wide, &map, &indices, UNWEIGHTED),
            "top_left must be [B, H, W, 1], got [1, 2, 3, 2]",
        ),
        (
            embedding(&map, &wide, &indices, UNWEIGHTED),
            "bottom_right must be [1, 2, 3, 1], got [1, 2, 3, 2]",
        ),
        (
            embedding(&map, &map, &zeros(&[2, 5], DType::I32), UNWEIGHTED),
            "top_left_indices must be [1, M] with M <= 1024, got [2, 5]",
        ),
        (
            embedding(&map, &map, &indices, negative),
            "pull_weight must be finite and at least 0, got -1",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("corner_embedding_loss: {expected}"));
    }
    let wanted = zeros(&[1, 4, 2], DType::F32);
    let loss = corner_offset_loss(&wide, &indices, &wanted, &CornerOffsetLoss::default());
    let expected = "corner_offset_loss: targets must be [1, 5, 2], got [1, 4, 2]";
    assert_eq!(loss.unwrap_err().to_string(), expected);
}

/// Raw entries: a graph replays both ops, and no byte of a gradient is written twice but at the boxes.
#[cfg(feature = "cuda")]
#[test]
fn a_graph_replays_the_ops() {
    use ocelli::cuda::Buffer;
    use ocelli::cuda::corner_embedding_loss::{self as embedding, Extents};
    use ocelli::cuda::corner_offset_loss as offset;
    use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let device = device.for_capture();
        let context = &device.context;
        let extents = Extents {
            images: 2,
            cells: 256,
            boxes: 5,
        };
        let floats = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32).sin()).collect() };
        let maps =
            [floats(512), floats(1024)].map(|map| Buffer::from_slice(context, &map).unwrap());
        let indices = [0i32, 3, 255, -1, 3, 9, 9, 9, 256, 1];
        let indices = Buffer::from_slice(context, &indices).unwrap();
        let wanted = Buffer::from_slice(context, &floats(20)).unwrap();
        let nan = |len: usize| Buffer::from_slice(context, &vec![f32::NAN; len]).unwrap();
        let mut out = [nan(2), nan(512), nan(512), nan(1), nan(1024)];
        let stream = context.stream();
        let mut workspace = stream.clone_htod(&vec![0xffu8; 512]).unwrap();
        let mut queue = |[losses, first, last, loss, gradient]: &mut [Buffer; 5]| {
            let plan = embedding::Plan::new(extents, DType::F32).unwrap();
            let mut arguments = embedding::Arguments::<f32> {
                maps: [maps[0].view().unwrap(), maps[0].view().unwrap()],
                indices: [indices.view().unwrap(), indices.view().unwrap()],
                upstream: None,
                losses: losses.view_mut().unwrap(),
                gradients: Some([first.view_mut().unwrap(), last.view_mut().unwrap()]),
                workspace: workspace.slice_mut(..256),
            };
            embedding::launch(context, &plan, &UNWEIGHTED, &mut arguments).unwrap();
            let plan = offset::Plan::new(extents, DType::F32).unwrap();
            let mut arguments = offset::Arguments::<f32> {
                offsets: maps[1].view().unwrap(),
                indices: indices.view().unwrap(),
                targets: wanted.view().unwrap(),
                upstream: None,
                loss: loss.view_mut().unwrap(),
                gradient: Some(gradient.view_mut().unwrap()),
                workspace: workspace.slice_mut(256..),
            };
            offset::launch(context, &plan, &CornerOffsetLoss::default(), &mut arguments).unwrap();
        };
        queue(&mut out);
        let results =
            |out: &[Buffer; 5]| out.each_ref().map(|buffer| buffer.to_vec::<f32>().unwrap());
        let expected = results(&out);
        for launch in device.launches() {
            let written = launch.counters.global_stores.sectors * 32;
            let floor = match launch.kernel.as_str() {
                "corner_embedding_loss_image_f32" => 2 * 512 * 4,
                "corner_offset_loss_image_f32" => 1024 * 4,
                _ => continue,
            };
            // A sector for each box's cell and axis, and the sums.
            assert!(
                written <= floor + 32 * (2 * 10 + 4),
                "{}: {written}",
                launch.kernel
            );
        }
        out = [nan(2), nan(512), nan(512), nan(1), nan(1024)];
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        queue(&mut out);
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(results(&out)[0][0].is_nan(), "captured, not run");
        graph.launch().unwrap();
        assert_eq!(results(&out), expected);
        device.launches();
    }
}
