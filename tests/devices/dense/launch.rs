//! The ops' raw entries.

use super::problems::AnyProblem;
use ocelli::cuda::{
    self, Context,
    cudarc::driver::{CudaView, CudaViewMut},
};
use ocelli::{Float, Result};

/// Launches the op on these buffers.
pub fn launch<T: Float>(
    problem: &AnyProblem,
    context: &Context,
    inputs: &[CudaView<'_, T>],
    mut out: CudaViewMut<'_, T>,
    workspace: CudaViewMut<'_, u8>,
) -> Result<()> {
    let view = |number: usize| inputs[number].slice(..);
    let x = view(0);
    let upload = |values: &[f32]| context.stream().clone_htod(values).unwrap();
    let spatial = |plan: ocelli::Result<cuda::spatial::Plan>, skip, out| {
        let mut arguments = cuda::spatial::Arguments {
            x: view(0),
            skip,
            out,
        };
        cuda::spatial::launch(context, &plan.unwrap(), &mut arguments)
    };
    match problem {
        AnyProblem::LayerNorm {
            rows,
            width,
            epsilon,
        } => {
            let plan = cuda::layer_norm::Plan::new(*rows, *width, T::DTYPE).unwrap();
            let (weight, bias) = (view(1), view(2));
            let mut arguments = cuda::layer_norm::Arguments {
                x,
                weight,
                bias,
                out,
            };
            cuda::layer_norm::launch(context, &plan, *epsilon, &mut arguments)
        }
        AnyProblem::GroupNorm {
            images,
            pixels,
            channels,
            params,
        } => {
            let extents = [*images, *pixels, *channels];
            let plan = cuda::group_norm::Plan::new(extents, params, T::DTYPE).unwrap();
            let (weight, bias) = (view(1), view(2));
            let mut arguments = cuda::group_norm::Arguments {
                x,
                weight,
                bias,
                out,
                workspace,
            };
            cuda::group_norm::launch(context, &plan, &mut arguments)
        }
        AnyProblem::MaxPool2d { input, params } => spatial(
            cuda::spatial::Plan::max_pool2d(*input, params, T::DTYPE),
            None,
            out,
        ),
        AnyProblem::UpsampleNearestAdd { input, output } => {
            let plan = cuda::spatial::Plan::upsample_nearest_add(*input, *output, T::DTYPE);
            spatial(plan, Some(view(1)), out)
        }
        AnyProblem::ResizeBilinear { input, params } => spatial(
            cuda::spatial::Plan::resize_bilinear(*input, params, T::DTYPE),
            None,
            out,
        ),
        AnyProblem::Activation { activation, .. } => {
            cuda::elementwise::activation(context, &x, *activation, &mut out)
        }
        AnyProblem::NormalizeImage {
            mean, deviation, ..
        } => {
            let scale: Vec<f32> = deviation.iter().map(|deviation| 1.0 / deviation).collect();
            let (mean, scale) = (upload(mean), upload(&scale));
            let scalars = [&mean.as_view(), &scale.as_view()];
            cuda::elementwise::normalize_image(context, &x, scalars, &mut out)
        }
        AnyProblem::Embedding { width, indices, .. } => {
            let indices = context.stream().clone_htod(indices).unwrap();
            cuda::elementwise::embedding(context, &x, *width, &indices.as_view(), &mut out)
        }
        AnyProblem::AddPositions { prefix, width, .. } => {
            let of_prefix = (*prefix > 0).then(|| view(1));
            cuda::elementwise::add_positions(context, &x, &of_prefix, &view(2), *width, &mut out)
        }
    }
}
