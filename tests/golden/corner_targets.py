"""Writes corner_targets.safetensors: targets of corner heatmaps as CornerNet's authors make them, and their focal loss.

    pip install numpy torch==2.11.0 safetensors && python corner_targets.py

`gaussian_radius`, `gaussian` and `draw` follow sample/utils.py and sample/coco.py of princeton-vl/CornerNet at commit 3e71377 (the
corrected radius), written anew; the loss follows models/py_utils/kp_utils.py: a clamped sigmoid, positives where the target is 1. Boxes
whose class is -1 pad. The radii of the older form are kept beside for comparison.
"""

import math
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

BATCH, BOXES, HEIGHT, WIDTH, CLASSES = 2, 12, 24, 20, 3
INPUT_HEIGHT, INPUT_WIDTH, IOU = 96, 80, 0.3


def quadratics(height, width, iou):
    """(a, b, c, sign of the root) of the three cases."""
    return [
        (1, height + width, width * height * (1 - iou) / (1 + iou), -1),
        (4, 2 * (height + width), (1 - iou) * width * height, -1),
        (4 * iou, -2 * iou * (height + width), (iou - 1) * width * height, 1),
    ]


def gaussian_radius(height, width, iou):
    return min((b + sign * math.sqrt(b**2 - 4 * a * c)) / (2 * a) for a, b, c, sign in quadratics(height, width, iou))


def older_radius(height, width, iou):
    return min((b + math.sqrt(b**2 - 4 * a * c)) / 2 for a, b, c, _ in quadratics(height, width, iou))


def draw(heat, x, y, radius):
    """Raises heat [H, W] to a Gaussian around (x, y)."""
    sigma = (2 * radius + 1) / 6
    ys, xs = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    bump = np.exp(-(xs * xs + ys * ys) / (2 * sigma * sigma))
    left, right = min(x, radius), min(heat.shape[1] - x, radius + 1)
    top, bottom = min(y, radius), min(heat.shape[0] - y, radius + 1)
    part = heat[y - top : y + bottom, x - left : x + right]
    np.maximum(part, bump[radius - top : radius + bottom, radius - left : radius + right], out=part)


def targets(boxes, classes):
    heat = np.zeros((2, BATCH, CLASSES, HEIGHT, WIDTH))
    offsets = np.zeros((2, BATCH, BOXES, 2))
    indices = np.full((2, BATCH, BOXES), -1)
    radii = np.full((2, BATCH, BOXES), -1.0)
    ratio_y, ratio_x = HEIGHT / INPUT_HEIGHT, WIDTH / INPUT_WIDTH
    for image in range(BATCH):
        for number in range(BOXES):
            kind = int(classes[image, number])
            if kind < 0:
                continue
            x1, y1, x2, y2 = boxes[image, number].tolist()
            size = math.ceil((y2 - y1) * ratio_y), math.ceil((x2 - x1) * ratio_x)
            radii[:, image, number] = gaussian_radius(*size, IOU), older_radius(*size, IOU)
            radius = max(0, int(radii[0, image, number]))
            for corner, (x, y) in enumerate([(x1 * ratio_x, y1 * ratio_y), (x2 * ratio_x, y2 * ratio_y)]):
                draw(heat[corner, image, kind], int(x), int(y), radius)
                offsets[corner, image, number] = x - int(x), y - int(y)
                indices[corner, image, number] = int(y) * WIDTH + int(x)
    return heat, offsets, indices, radii


def focal_loss(logits, heat):
    """Official loss of logits and targets of one shape."""
    p = torch.clamp(torch.sigmoid(logits), 1e-4, 1 - 1e-4)
    positive = heat == 1
    of_positives = (torch.log(p) * (1 - p) ** 2)[positive].sum()
    of_negatives = (torch.log(1 - p) * p**2 * (1 - heat) ** 4)[~positive].sum()
    return -(of_positives + of_negatives) / positive.sum()


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    random = np.random.default_rng(0)
    low = random.uniform(0, 0.7, (BATCH, BOXES, 2))
    high = low + random.uniform(0.05, 0.29, (BATCH, BOXES, 2))
    boxes = np.concatenate([low, high], -1) * [INPUT_WIDTH, INPUT_HEIGHT, INPUT_WIDTH, INPUT_HEIGHT]
    boxes = boxes.astype(np.float32)
    classes = random.integers(-1, CLASSES, (BATCH, BOXES))
    heat, offsets, indices, radii = targets(boxes, classes)
    last = np.ascontiguousarray(heat.transpose(0, 1, 3, 4, 2)).astype(np.float32)
    logits = torch.from_numpy(random.normal(0, 4, last.shape[1:]).astype(np.float32))
    x = logits.double().requires_grad_()
    loss = focal_loss(x, torch.from_numpy(last[0]).double())
    loss.backward()
    tensors = {
        "boxes": torch.from_numpy(boxes),
        "classes": torch.from_numpy(classes.astype(np.int32)),
        "radii": torch.from_numpy(radii[0]),
        "older_radii": torch.from_numpy(radii[1]),
        "logits": logits,
        "focal_loss": loss.detach().reshape(1),
        "focal_gradient": x.grad,
    }
    for corner in range(2):
        tensors[f"heat_{corner}"] = torch.from_numpy(last[corner])
        tensors[f"offsets_{corner}"] = torch.from_numpy(offsets[corner].astype(np.float32))
        tensors[f"indices_{corner}"] = torch.from_numpy(indices[corner].astype(np.int32))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
