"""Writes corner_losses.safetensors: CornerNet's pull, push and offset losses and their gradients, in double precision.

    pip install torch==2.11.0 safetensors && python corner_losses.py

The formulas are those of models/py_utils/kp_utils.py of princeton-vl/CornerNet, written anew and image by image. Boxes whose index is -1
pad; some boxes share a cell.
"""

import pathlib

import torch
from safetensors.torch import save_file

BATCH, BOXES, HEIGHT, WIDTH = 3, 10, 6, 7
EPSILON = 1e-4


def pull_and_push(first, last):
    """Losses of one image; the embeddings of its n boxes."""
    n = len(first)
    mean = (first + last) / 2
    pull = ((first - mean) ** 2 / (n + EPSILON)).sum() + ((last - mean) ** 2 / (n + EPSILON)).sum()
    near = torch.relu(1 - (mean[:, None] - mean[None, :]).abs())
    push = ((near - 1 / (n + EPSILON)) / (n * (n - 1) + EPSILON)).sum()
    return torch.stack([pull, push])


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    tags = [random(BATCH, HEIGHT * WIDTH) for _ in range(2)]
    offsets, targets = random(BATCH, HEIGHT * WIDTH, 2), torch.rand(BATCH, BOXES, 2, generator=generator)
    indices = [torch.randint(0, HEIGHT * WIDTH, (BATCH, BOXES), generator=generator) for _ in range(2)]
    for corner in range(2):
        indices[corner][0, 6:] = -1  # 6 boxes
        indices[corner][1, 1:] = -1  # one
        indices[corner][2, 3] = indices[corner][2, 5]
    leaves = [tag.double().requires_grad_() for tag in tags]
    offset_leaf = offsets.double().requires_grad_()
    losses, gathered, wanted = 0, [], []
    for image in range(BATCH):
        kept = indices[0][image] >= 0
        cells = [indices[corner][image][kept] for corner in range(2)]
        losses = losses + pull_and_push(*[leaves[corner][image][cells[corner]] for corner in range(2)])
        gathered.append(offset_leaf[image][cells[0]])
        wanted.append(targets[image][kept].double())
    gathered, wanted = torch.cat(gathered), torch.cat(wanted)
    offset_loss = torch.nn.functional.smooth_l1_loss(gathered, wanted, reduction="sum") / (len(gathered) + EPSILON)
    (losses.sum() + offset_loss).backward()
    tensors = {
        "pull_and_push": losses.detach(),
        "offsets": offsets,
        "offset_targets": targets,
        "offset_loss": offset_loss.detach().reshape(1),
        "offset_gradient": offset_leaf.grad,
    }
    for corner in range(2):
        tensors[f"tags_{corner}"] = tags[corner]
        tensors[f"indices_{corner}"] = indices[corner].int()
        tensors[f"tag_gradient_{corner}"] = leaves[corner].grad
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
