"""Writes linear.safetensors: torch.nn.functional.linear with residual and activation, in double precision.

    pip install torch==2.11.0 safetensors && python linear.py

Case n has x_n, weight_n, bias_n, residual_n f32 and out_n f64. Its activation is none, ReLU or GELU for n = 0, 1, 2.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

# leading extents, inputs, outputs
CASES = [((2, 5), 48, 33), ((17,), 31, 16), ((3, 7), 64, 24)]
ACTIVATIONS = [lambda y: y, F.relu, F.gelu]


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    tensors = {}
    for n, ((rows, inputs, outputs), activation) in enumerate(zip(CASES, ACTIVATIONS)):
        x, weight, bias = random(*rows, inputs), 0.2 * random(outputs, inputs), random(outputs)
        residual = random(*rows, outputs)
        product = F.linear(x.double(), weight.double(), bias.double())
        out = activation(product + residual.double())
        named = {"x": x, "weight": weight, "bias": bias, "residual": residual, "out": out}
        tensors |= {f"{name}_{n}": tensor.contiguous() for name, tensor in named.items()}
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
