"""What the golden files of models share: PyTorch's results in double precision, and its own errors in narrower types."""

import pathlib

import torch
from safetensors.torch import save_file

TYPES = {"f32": torch.float, "f16": torch.half, "bf16": torch.bfloat16}


def save(script, model, inputs, run, types=TYPES, extra={}, stored=None):
    """Writes `<script>.safetensors` beside the script.

    `run(model, inputs)` gives a dict of tensors. It is called with everything in double precision, then in each
    narrower one of `types`, whose largest error against the first is kept. `extra` tensors are written as they are, and so are the weights
    where they are given as `stored`: in a narrower type that holds them exactly.
    """
    assert torch.__version__.startswith("2.11."), "pinned"
    weights = stored or {f"weights.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = extra | weights | {f"in.{name}": tensor.clone() for name, tensor in inputs.items()}
    with torch.no_grad():
        exact = run(model.double(), _cast(inputs, torch.double))
        tensors |= {f"out.{name}": tensor for name, tensor in exact.items()}
        for dtype in types:
            type = TYPES[dtype]
            for name, tensor in run(model.to(type), _cast(inputs, type)).items():
                tensors[f"error.{dtype}.{name}"] = (tensor.double() - exact[name]).abs().max().view(1)
    path = pathlib.Path(script).with_suffix(".safetensors")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _cast(inputs, type):
    return {name: tensor.to(type) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
