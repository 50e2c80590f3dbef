"""Writes sigmoid_focal_loss.safetensors: torchvision's loss and gradient, in double precision.

    pip install torch==2.11.0 torchvision==0.26.0 safetensors && python sigmoid_focal_loss.py

Each case n has logits_n [R, K] f32, labels_n [R] i32, scalars_n [alpha, gamma] f32 and the results loss_n [1] and
gradient_n [R, K] f64. Ignored rows (label -2) are left out of torchvision's input, as its users do.
"""

import pathlib

import torch
import torchvision
from safetensors.torch import save_file

CASES = [
    # rows, classes, alpha and gamma (numbers that f32 holds), scale of the logits
    (7, 5, 0.25, 2.0, 3.0),
    (33, 80, 0.25, 2.0, 30.0),
    (12, 91, 0.5, 0.0, 5.0),
    (40, 1, 0.75, 1.5, 4.0),
    (3, 257, 0.125, 3.0, 60.0),
]


def case(rows, classes, alpha, gamma, scale, generator):
    logits = (scale * torch.randn(rows, classes, generator=generator)).float()
    # A confident wrong answer and a confident right one, where log(max(p, tiny)) loses everything.
    logits[0, 0], logits[-1, -1] = 100.0, -100.0
    labels = torch.randint(-2, classes, (rows,), generator=generator)
    x = logits.double().requires_grad_()
    target = torch.zeros(rows, classes, dtype=torch.double)
    positive = labels >= 0
    target[positive, labels[positive]] = 1.0
    counted = labels != -2
    loss = torchvision.ops.sigmoid_focal_loss(x[counted], target[counted], alpha, gamma, reduction="sum")
    loss.backward()
    return {
        "logits": logits,
        "labels": labels.int(),
        "scalars": torch.tensor([alpha, gamma]),
        "loss": loss.detach().reshape(1),
        "gradient": x.grad,
    }


def main():
    assert torch.__version__.startswith("2.11.") and torchvision.__version__.startswith("0.26."), "pinned"
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number, scalars in enumerate(CASES):
        for name, tensor in case(*scalars, generator).items():
            tensors[f"{name}_{number}"] = tensor.contiguous()
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
