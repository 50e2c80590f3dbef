"""Writes retinanet_losses.safetensors: torchvision's losses of both RetinaNets, and those of training/retinanet.py.

    pip install torch==2.11.0 torchvision==0.26.0 safetensors && python retinanet_losses.py

Head outputs are drawn at random, for two images of which the second has one object; in the last case it has none.
"""

import pathlib
import sys

import torch
from torch import nn
from torchvision.models.detection import retinanet as tv
from torchvision.models.detection.image_list import ImageList

import golden
from retinanet_digits import split

sys.path.append(str(pathlib.Path(__file__).parents[3] / "training"))
import retinanet as training
import scenes

IMAGE, CLASSES = (32, 64), 3
GRIDS = [(-(-IMAGE[0] // s), -(-IMAGE[1] // s)) for s in (8, 16, 32, 64, 128)]
ROWS = sum(9 * h * w for h, w in GRIDS)
BOXES = [[[3.0, 5, 40, 30], [30, 2, 62, 30], [0, 0, 64, 32]], [[10.0, 3, 45, 27]]]
LABELS = [[0, 2, 1], [2]]


class Backbone(nn.Module):
    out_channels = 8


class Losses(nn.Module):
    """torchvision's, of its first (L1) and second (GIoU) version."""

    def __init__(self):
        super().__init__()
        self.head = tv.RetinaNetHead(8, 9, CLASSES)
        self.model = tv.RetinaNet(Backbone(), CLASSES, head=self.head)

    def state_dict(self):
        return {}


def targets(dtype, objects):
    return [{"boxes": torch.tensor(boxes, dtype=dtype).reshape(-1, 4)[:count], "labels": torch.tensor(labels)[:count]}
            for boxes, labels, count in zip(BOXES, LABELS, objects)]


def torchvision(model, outputs, anchors, kind, objects):
    model.head.regression_head._loss_type = kind
    losses = model.model.compute_loss(targets(anchors[0].dtype, objects), outputs, anchors)
    return losses["classification"], losses["bbox_regression"]


def of_training(model, outputs, anchors, gamma, objects):
    """The whole loss in one number, which stands for the classes'; there is none besides."""
    model = training.RetinaNet(CLASSES, gamma)
    total = 0.0
    for index, target in enumerate(targets(anchors[0].dtype, objects)):
        scene = scenes.Scene(None, target["boxes"], target["labels"])
        parts = [outputs[name][index] for name in ("cls_logits", "bbox_regression")]
        total = total + model.image_loss(scene, anchors[index], *parts)
    return total / len(anchors), torch.zeros(())


CASES = {
    "l1": (torchvision, "l1", (3, 1)),
    "giou": (torchvision, "giou", (3, 1)),
    "gamma0": (of_training, 0.0, (3, 1)),
    "empty": (torchvision, "l1", (2, 0)),
}


def run(model, inputs):
    leaves = [inputs[name].detach().clone().requires_grad_() for name in ("logits", "deltas")]
    outputs = {"cls_logits": leaves[0], "bbox_regression": leaves[1]}
    dtype = leaves[0].dtype
    maps = [torch.zeros(2, 1, *grid, dtype=dtype) for grid in GRIDS]
    images = torch.zeros(2, 3, *IMAGE, dtype=dtype)
    anchors = training.anchors()(ImageList(images, [IMAGE] * 2), maps)
    results = {}
    for name, (losses, argument, objects) in CASES.items():
        with torch.enable_grad():
            classes, boxes = losses(model, outputs, anchors, argument, objects)
            gradients = torch.autograd.grad(classes + boxes, leaves)
        parts = {"cls_logits": gradients[0], "bbox_regression": gradients[1]}
        results |= {f"{name}.{key}": value for key, value in split(parts, images).items()}
        results[f"{name}.losses"] = torch.stack([classes, boxes]).detach()
    return results


if __name__ == "__main__":
    torch.manual_seed(3)
    inputs = {"logits": torch.randn(2, ROWS, CLASSES) * 2 - 2, "deltas": torch.randn(2, ROWS, 4) * 0.5}
    outputs = {"cls_logits": inputs["logits"], "bbox_regression": inputs["deltas"]}
    levels = {f"in.{name}": tensor for name, tensor in split(outputs, torch.zeros(2, 3, *IMAGE)).items()}
    golden.save(__file__, Losses(), inputs, run, types=["f32"], extra=levels)
