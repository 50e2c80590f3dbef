"""Golden vectors of anchor_decode.safetensors, from torchvision 0.26.0 on PyTorch 2.11.0.

    python tests/golden/anchor_decode.py

Anchors by torchvision's AnchorGenerator with RetinaNet's sizes and ratios; candidates as its RetinaNet finds them before
suppression, with its BoxCoder and clip_boxes_to_image. Case 2 has detectron2's anchors, by the formula of its
DefaultAnchorGenerator. No two scores are equal, since torch.topk leaves the order of ties open.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

torch.manual_seed(0)
tensors = {}


def torchvision_anchors(image, grids):
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in [32 << l for l in range(len(grids))])
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(grids))
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    anchors = generator(ImageList(torch.zeros(1, 3, *image), [image]), maps)[0]
    return anchors.split([9 * h * w for h, w in grids])


def detectron2_anchors(image, grids):
    levels = []
    for level, (height, width) in enumerate(grids):
        cell = []
        for size in [(32 << level) * 2 ** (i / 3) for i in range(3)]:
            for ratio in [0.5, 1.0, 2.0]:
                w = math.sqrt(size**2.0 / ratio)
                cell.append([-w / 2, -ratio * w / 2, w / 2, ratio * w / 2])
        stride = 8 << level
        y, x = torch.meshgrid(*(torch.arange(0, n * stride, stride, dtype=torch.float32) for n in (height, width)), indexing="ij")
        shifts = torch.stack([x.flatten(), y.flatten(), x.flatten(), y.flatten()], 1)
        levels.append((shifts[:, None] + torch.tensor(cell)[None]).reshape(-1, 4))
    return levels


def candidates(logits, deltas, anchors, threshold, topk, image):
    boxes, scores, classes = [], [], []
    for l, d, a in zip(logits, deltas, anchors):
        probability = l.sigmoid().flatten()
        kept = torch.where(probability > threshold)[0]
        assert len(probability[kept].unique()) == len(kept)
        best, order = probability[kept].topk(min(topk, len(kept)))
        place = kept[order]
        anchor = place // l.shape[1]
        box = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(d[anchor], a[anchor])
        boxes.append(clip_boxes_to_image(box, image))
        scores.append(best)
        classes.append(place % l.shape[1])
    return torch.cat(boxes), torch.cat(scores), torch.cat(classes)


cases = [
    (torchvision_anchors, (64, 64), [(8, 8), (4, 4)], 3, 0.05, 50, -3.0),
    (torchvision_anchors, (100, 150), [(7, 10), (4, 5), (2, 3)], 2, 0.05, 1000, 2.0),
    (detectron2_anchors, (64, 96), [(8, 12), (4, 6)], 1, 0.3, 100, -1.0),
]
for case, (make, image, grids, classes, threshold, topk, mean) in enumerate(cases):
    anchors = make(image, grids)
    logits = [mean + 2 * torch.randn(len(a), classes) for a in anchors]
    # Some log scales above the clamp of ln(1000 / 16).
    deltas = [torch.randn(len(a), 4) * torch.tensor([0.5, 0.5, 1.5, 1.5]) for a in anchors]
    boxes, scores, labels = candidates(logits, deltas, anchors, threshold, topk, image)
    for level, (l, d, a) in enumerate(zip(logits, deltas, anchors)):
        tensors[f"logits_{case}_{level}"] = l
        tensors[f"deltas_{case}_{level}"] = d
        tensors[f"anchors_{case}_{level}"] = a.contiguous()
    tensors[f"scalars_{case}"] = torch.tensor([*image, classes, topk, threshold])
    tensors[f"grids_{case}"] = torch.tensor(grids, dtype=torch.int32)
    tensors[f"boxes_{case}"] = boxes
    tensors[f"scores_{case}"] = scores
    tensors[f"classes_{case}"] = labels.int()

# The levels whose strides are not powers of two at 800 x 1344.
levels = torchvision_anchors((800, 1344), [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)])
tensors["retinanet_3"], tensors["retinanet_4"] = levels[3].contiguous(), levels[4].contiguous()
save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))
