"""Writes retinanet_v2.safetensors: torchvision's second RetinaNet with a bottleneck ResNet of one block a stage.

    pip install torch==2.11.0 torchvision==0.26.0 safetensors && python retinanet_v2.py
"""

from functools import partial

import torch
from torch import nn
from torchvision.models.detection import retinanet as tv
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import golden
from retinanet_digits import randomise, split

WIDTH, CHANNELS, CLASSES = 4, 32, 2


class NarrowResNet(ResNet):
    def __init__(self):
        super().__init__(Bottleneck, [1, 1, 1, 1])
        self.inplanes = WIDTH
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.layer1 = self._make_layer(Bottleneck, WIDTH, 1)
        self.layer2 = self._make_layer(Bottleneck, 2 * WIDTH, 1, stride=2)
        self.layer3 = self._make_layer(Bottleneck, 4 * WIDTH, 1, stride=2)
        self.layer4 = self._make_layer(Bottleneck, 8 * WIDTH, 1, stride=2)
        self.fc = nn.Identity()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        maps = [8 * WIDTH, 16 * WIDTH, 32 * WIDTH]
        levels = {"layer2": "0", "layer3": "1", "layer4": "2"}
        last = LastLevelP6P7(maps[2], CHANNELS)
        self.backbone = BackboneWithFPN(NarrowResNet(), levels, maps, CHANNELS, extra_blocks=last)
        self.head = tv.RetinaNetHead(CHANNELS, 9, CLASSES, norm_layer=partial(nn.GroupNorm, 32))

    def forward(self, images):
        return self.head(list(self.backbone(images).values()))


def run(model, inputs):
    images = inputs["image"].permute(0, 3, 1, 2)
    return split(model(images), images)


torch.manual_seed(2)
model = Model().eval()
randomise(model)
for norm in (module for module in model.modules() if isinstance(module, nn.GroupNorm)):
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.3)
model.half()
stored = {f"weights.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
golden.save(__file__, model.float(), {"image": torch.randn(2, 128, 64, 3)}, run, stored=stored)
