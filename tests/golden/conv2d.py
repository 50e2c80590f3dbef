"""Writes conv2d.safetensors: torch.nn.functional.conv2d with residual and activation, in double precision.

    pip install torch==2.11.0 safetensors && python conv2d.py

Case n has x_n, residual_n [B, H, W, C], weight_n [N, C, height, width], bias_n [N] f32 and out_n [B, H, W, N] f64.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CASES = [
    # x [B, C, H, W], weight [N, height, width], stride, padding, activation
    ((1, 32, 18, 15), (32, 3, 3), 1, 1, F.relu),
    ((1, 3, 13, 17), (8, 7, 7), 2, 3, lambda y: y),
    ((2, 16, 7, 6), (12, 1, 1), 2, 0, F.gelu),
    ((1, 4, 5, 6), (5, 3, 3), 1, 1, lambda y: y),
]


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    last = lambda tensor: tensor.permute(0, 2, 3, 1)
    tensors = {}
    for n, (shape, (outputs, *kernel), stride, padding, activation) in enumerate(CASES):
        x, weight, bias = random(*shape), 0.1 * random(outputs, shape[1], *kernel), random(outputs)
        product = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
        residual = random(*product.shape)
        out = activation(product + residual.double())
        named = {"x": last(x), "weight": weight, "bias": bias, "residual": last(residual), "out": last(out)}
        tensors |= {f"{name}_{n}": tensor.contiguous() for name, tensor in named.items()}
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
