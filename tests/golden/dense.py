"""Writes dense.safetensors: norms, pooling, resizing and the like from PyTorch, in double precision.

    pip install torch==2.11.0 safetensors && python dense.py

Inputs are f32 (indices i32), with the channels last; each result has the name of its case and is f64.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    last = lambda tensor: tensor.permute(0, 2, 3, 1).contiguous()
    rows, row_weight, row_bias = 3 * random(9, 50) + 5, random(50), random(50)
    images, skip = random(2, 12, 7, 9), random(2, 12, 13, 18)
    weight, bias = random(12), random(12)
    table, indices = random(11, 6), torch.randint(0, 11, (3, 4), generator=generator)
    x = images.double()
    resize = lambda size, antialias: last(F.interpolate(x, size, mode="bilinear", antialias=antialias))
    affine = lambda *parameters: [parameter.double() for parameter in parameters]
    nearest = F.interpolate(x, (13, 18), mode="nearest")
    tensors = {
        "rows": rows,
        "row_weight": row_weight,
        "row_bias": row_bias,
        "images": last(images),
        "skip": last(skip),
        "weight": weight,
        "bias": bias,
        "table": table,
        "indices": indices.int(),
        "layer_norm": F.layer_norm(rows.double(), (50,), *affine(row_weight, row_bias), 1e-5),
        "group_norm": last(F.relu(F.group_norm(x, 4, *affine(weight, bias), 1e-5))),
        "max_pool2d": last(F.max_pool2d(x, 3, 2, 1)),
        "upsample_nearest_add": last(nearest + skip.double()),
        "resize_larger": resize((13, 20), False),
        "resize_smaller": resize((4, 5), False),
        "resize_antialias": resize((4, 5), True),
        "resize_antialias_mixed": resize((3, 21), True),
        "normalize_image": last((x - torch.tensor(0.4).double()) / 0.25),
        "embedding": F.embedding(indices, table.double()),
        "gelu": last(F.gelu(x)),
    }
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
