"""Writes retinanet_digits.safetensors: the detector of training/retinanet.py, narrower still, through torchvision's whole path.

    pip install torch==2.11.0 torchvision==0.26.0 safetensors && python retinanet_digits.py

Its weights have the names of torchvision's older files: no `.0` in the pyramid, and heads numbered with their activations.
"""

import pathlib
import re
import sys

import torch
from torch import nn
from torchvision.models.detection import retinanet as tv

import golden

sys.path.append(str(pathlib.Path(__file__).parents[3] / "training"))
import retinanet as training

CLASSES, SHORTEST, LONGEST = 3, 64, 100
# Not multiples of 32, smaller than the network's stride, and of extreme aspect.
SIZES = [(61, 47), (5, 7), (12, 150)]


def randomise(model):
    """Norms that do something, and heads that find something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    for part in (model.backbone.fpn, model.head):
        for parameter in part.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter)
    nn.init.kaiming_normal_(model.head.classification_head.cls_logits.weight, a=0.5)
    nn.init.constant_(model.head.classification_head.cls_logits.bias, -5.0)
    nn.init.kaiming_normal_(model.head.regression_head.bbox_reg.weight, a=3.0)


def split(outputs, images):
    """Head outputs of each level, in the order [B, H, W, A * channels]."""
    height, width = images.shape[2:]
    named = {}
    for name, tensor in [("logits", outputs["cls_logits"]), ("deltas", outputs["bbox_regression"])]:
        row = 0
        for level in range(5):
            h, w = -(-height // (8 << level)), -(-width // (8 << level))
            count = h * w * 9
            part = tensor[:, row : row + count]
            named[f"{name}_{level}"] = part.reshape(len(images), h, w, 9 * tensor.shape[2])
            row += count
    return named


def run(model, inputs):
    images = inputs["image"].permute(0, 3, 1, 2)
    outputs = split(model(images), images)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.eps = 0.1
    without = split(model(images), images)
    for norm in norms:
        norm.eps = 1e-5
    return outputs | {f"large_eps_{name}": without[name] for name in ("logits_0", "deltas_4")}


def detections(model):
    """torchvision's own path, from pixels to boxes: each image alone, and all in one batch."""
    whole = tv.RetinaNet(model.backbone, CLASSES, min_size=SHORTEST, max_size=LONGEST, head=model.head,
                         anchor_generator=training.anchors())
    images = [torch.randint(0, 256, (3, *size)).float() / 255 for size in SIZES]
    tensors = {}
    whole.eval()
    with torch.no_grad():
        alone = [whole([image])[0] for image in images]
        for kind, results in [("alone", alone), ("batch", whole(images))]:
            for case, found in enumerate(results):
                print(kind, SIZES[case], len(found["scores"]))
                tensors[f"{kind}.boxes.{case}"] = found["boxes"]
                tensors[f"{kind}.scores.{case}"] = found["scores"]
                tensors[f"{kind}.labels.{case}"] = found["labels"].int()
    for case, image in enumerate(images):
        tensors[f"detect.image.{case}"] = image.permute(1, 2, 0).contiguous()
    return tensors


def older(name):
    name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name)
    return re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}.", name)


class Older(nn.Module):
    """The model under its older names."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def state_dict(self):
        return {older(name): tensor for name, tensor in self.model.state_dict().items() if ".fc." not in name}

    def forward(self, images):
        return self.model(images)


if __name__ == "__main__":
    torch.manual_seed(1)
    training.WIDTH, training.PYRAMID = 4, 16
    model = training.RetinaNet(CLASSES).eval()
    randomise(model)
    # Exact in every type, and half as large on disk.
    model.half()
    stored = {f"weights.{name}": tensor.clone() for name, tensor in Older(model).state_dict().items()}
    model.float()
    extra = detections(model)
    golden.save(__file__, Older(model), {"image": torch.randn(2, 64, 96, 3)}, run, extra=extra, stored=stored)
