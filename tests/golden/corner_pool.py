"""Writes corner_pool.safetensors: two implementations of corner pooling, which differ in where a tie's gradient goes.

    pip install torch==2.11.0 safetensors && python corner_pool.py

`original` follows the recurrence of the authors' C++ code (a strict comparison with the running maximum, from the edge): the first of
equals keeps the gradient. `cummax` is the form of mmcv and others: flip, torch.cummax, flip, differentiated by autograd; there the last
of equals gets it. Maps are [B, C, H, W]; directions are numbered top, bottom, left, right. Gradients are of small integers, so that sums
are exact.
"""

import pathlib

import torch
from safetensors.torch import save_file

SHAPE = (2, 3, 5, 7)
# axis, scanned from the end
DIRECTIONS = [(2, True), (2, False), (3, True), (3, False)]


def original(grid, upstream, axis, from_end):
    """Pooled map and gradient, step by step."""
    order = range(grid.shape[axis])
    order = list(reversed(order)) if from_end else list(order)
    best = grid.select(axis, order[0]).clone()
    winner = torch.full_like(best, order[0], dtype=torch.long)
    pooled, gradient = torch.empty_like(grid), torch.zeros_like(grid)
    for step in order:
        row = grid.select(axis, step)
        rises = row > best
        best = torch.where(rises, row, best)
        winner = torch.where(rises, torch.full_like(winner, step), winner)
        pooled.select(axis, step).copy_(best)
        gradient.scatter_add_(axis, winner.unsqueeze(axis), upstream.select(axis, step).unsqueeze(axis))
    return pooled, gradient


def cummax(grid, upstream, axis, from_end):
    grid = grid.clone().requires_grad_()
    flipped = grid.flip(axis) if from_end else grid
    pooled = flipped.cummax(axis).values
    pooled = pooled.flip(axis) if from_end else pooled
    pooled.backward(upstream)
    return pooled.detach(), grid.grad


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    count = torch.Size(SHAPE).numel()
    maps = {
        "distinct": torch.randperm(count, generator=generator).reshape(SHAPE).float() - count // 2,
        "ties": torch.randint(-1, 2, SHAPE, generator=generator).float(),
    }
    tensors = {}
    for kind, grid in maps.items():
        upstream = torch.randint(-8, 9, SHAPE, generator=generator).float()
        tensors[f"{kind}_map"], tensors[f"{kind}_upstream"] = grid, upstream
        for number, (axis, from_end) in enumerate(DIRECTIONS):
            pooled, gradient = original(grid, upstream, axis, from_end)
            same, other = cummax(grid, upstream, axis, from_end)
            assert torch.equal(pooled, same)
            tensors[f"{kind}_pooled_{number}"] = pooled
            tensors[f"{kind}_original_{number}"] = gradient
            tensors[f"{kind}_cummax_{number}"] = other
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
