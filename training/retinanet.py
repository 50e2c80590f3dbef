"""A narrow RetinaNet with torchvision's structure and names: ResNet-18 of half the width, 64 pyramid channels, and the
heads of `retinanet_resnet50_fpn_v2`, with group norm.

The plain heads start with weights of 0.01. In 256 channels that keeps a third of a signal a layer, in 64 a sixth, and
1,500 steps hardly move them."""

from functools import partial

import torch
from torch import nn
from torchvision.models.detection import retinanet as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

WIDTH = 32
PYRAMID = 64
ALPHA = 0.25
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class NarrowResNet18(ResNet):
    """ResNet-18 with `width` channels after the stem, doubled at each stage."""

    def __init__(self, width):
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(BasicBlock, width, 2)
        self.layer2 = self._make_layer(BasicBlock, 2 * width, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, 4 * width, 2, stride=2)
        self.layer4 = self._make_layer(BasicBlock, 8 * width, 2, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def anchors():
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)


class RetinaNet(nn.Module):
    def __init__(self, classes=10, gamma=2.0):
        super().__init__()
        levels = {"layer2": "0", "layer3": "1", "layer4": "2"}
        channels = [2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        last = LastLevelP6P7(PYRAMID, PYRAMID)
        self.backbone = BackboneWithFPN(NarrowResNet18(WIDTH), levels, channels, PYRAMID, extra_blocks=last)
        self.head = tv.RetinaNetHead(PYRAMID, 9, classes, norm_layer=partial(nn.GroupNorm, 32))
        self.anchor_generator = anchors()
        self.matcher = tv.det_utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.coder = tv.det_utils.BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.gamma = gamma

    @staticmethod
    def batch(scenes):
        """[B, 3, H, W], normalised as torchvision does."""
        images = torch.stack([scene.image for scene in scenes]).permute(0, 3, 1, 2).float() / 255
        return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    @staticmethod
    def metadata():
        """Images are seen at the scale they have."""
        return {"resize": "none"}

    def forward(self, images):
        return self.head(list(self.backbone(images).values()))

    def loss(self, scenes):
        """torchvision's losses: each normalised by the anchors of an object, a mean over images."""
        images = self.batch(scenes)
        features = list(self.backbone(images.contiguous(memory_format=torch.channels_last)).values())
        outputs = self.head(features)
        listed = ImageList(images, [tuple(images.shape[-2:])] * len(scenes))
        total = 0.0
        all_anchors = self.anchor_generator(listed, features)
        for index, (scene, boxes) in enumerate(zip(scenes, all_anchors)):
            total = total + self.image_loss(scene, boxes, outputs["cls_logits"][index], outputs["bbox_regression"][index])
        return total / len(scenes)

    def image_loss(self, scene, anchors, logits, deltas):
        if len(scene.boxes) == 0:
            matched = torch.full((len(anchors),), -1)
        else:
            matched = self.matcher(tv.box_ops.box_iou(scene.boxes, anchors))
        positive = matched >= 0
        normalizer = max(1, int(positive.sum()))
        target = torch.zeros_like(logits)
        target[positive, scene.classes[matched[positive]]] = 1.0
        seen = matched != self.matcher.BETWEEN_THRESHOLDS
        focal = sigmoid_focal_loss(logits[seen], target[seen], ALPHA, self.gamma, reduction="sum")
        encoded = self.coder.encode_single(scene.boxes[matched[positive]], anchors[positive])
        box = nn.functional.l1_loss(deltas[positive], encoded, reduction="sum")
        return (focal + box) / normalizer
