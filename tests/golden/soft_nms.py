"""Golden vectors of soft_nms.safetensors: a model of the official loop in double precision, on PyTorch 2.11.0.

    python tests/golden/soft_nms.py

No library ships soft-NMS with classes, so the model follows the paper and the official conventions: the best box is
taken, the others of its class are lowered, and what is not above the threshold is out. Overlaps alone are rounded to
f32. A case holds boxes [N, 4], scores [N], classes [N] i32, scalars [gaussian, sigma, iou_threshold, score_threshold,
inclusive] and the results kept [M] i32 and kept_scores [M] f64.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file

CASES = [
    # boxes, gaussian, sigma, IoU threshold, score threshold, inclusive
    (1, 0, 0.5, 0.5, 0.0, 0),
    (200, 0, 0.5, 0.3, 0.03125, 0),
    (300, 1, 0.5, 0.5, 0.0009765625, 0),
    (250, 1, 0.5, 0.5, 0.0009765625, 1),
    (150, 0, 0.5, 0.5, 0.125, 1),
    (200, 1, 0.0625, 0.5, 0.0625, 0),
]


def overlaps(box, boxes, extra):
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    inside = (high - low + extra).clamp(min=0).prod(1)
    area = lambda b: (b[..., 2:] - b[..., :2] + extra).prod(-1)
    return inside / (area(box) + area(boxes) - inside)


def soft_nms(boxes, scores, classes, gaussian, sigma, iou_threshold, score_threshold, inclusive):
    scores = scores.double()
    open_ = scores > score_threshold
    kept, kept_scores = [], []
    while open_.any():
        best = torch.where(open_, scores, -math.inf).argmax()
        kept.append(best.item())
        kept_scores.append(scores[best].item())
        open_[best] = False
        overlap = overlaps(boxes[best], boxes, float(inclusive)).double()
        if gaussian:
            weight = torch.exp(-overlap * overlap / sigma)
        else:
            weight = torch.where(overlap > iou_threshold, 1 - overlap, 1.0)
        scores = torch.where(classes == classes[best], scores * weight, scores)
        open_ &= scores > score_threshold
    return torch.tensor(kept, dtype=torch.int32), torch.tensor(kept_scores, dtype=torch.double)


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.rand(*shape, generator=generator)
    tensors = {}
    for number, (n, *scalars) in enumerate(CASES):
        centres = 150 * random(6, 2)
        low = centres[torch.randint(6, (n,), generator=generator)] + 15 * random(n, 2)
        boxes = torch.cat([low, low + 20 + 30 * random(n, 2)], 1)
        scores = (torch.randperm(n, generator=generator) + 1).float() / n
        classes = torch.randint(3, (n,), generator=generator)
        kept, kept_scores = soft_nms(boxes, scores, classes, *scalars)
        case = {"boxes": boxes, "scores": scores, "classes": classes.int(), "scalars": torch.tensor(scalars).float()}
        for name, tensor in (case | {"kept": kept, "kept_scores": kept_scores}).items():
            tensors[f"{name}_{number}"] = tensor.contiguous()
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
