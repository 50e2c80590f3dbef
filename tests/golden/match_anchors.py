"""Golden vectors of match_anchors.safetensors, from torchvision 0.26.0 on PyTorch 2.11.0.

    python tests/golden/match_anchors.py

torchvision's box_iou and Matcher on its AnchorGenerator's anchors, on the CPU, where torch.max gives the first of equal values.
"""

import pathlib

import torch
from safetensors.torch import save_file
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

torch.manual_seed(0)
tensors = {}


def anchors_of(image, grids):
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in [32 << l for l in range(len(grids))])
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(grids))
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    return generator(ImageList(torch.zeros(1, 3, *image), [image]), maps)[0]


image, grids = (100, 150), [(13, 19), (7, 10), (4, 5)]
anchors = anchors_of(image, grids)
random = lambda n: torch.cat([low := 120 * torch.rand(n, 2) - 10, low + 4 + 80 * torch.rand(n, 2)], 1)
whole = lambda n: random(n).round()
cases = [
    # Whole coordinates and duplicates tie; the last box of case 2 meets no anchor.
    (random(20), 0.5, 0.4, True),
    (torch.cat([whole(12), whole(6)] + [anchors[100:104]] * 2), 0.5, 0.4, True),
    (torch.cat([random(5), torch.tensor([[9000.0, 9000, 9010, 9010]])]), 0.5, 0.4, True),
    (random(500), 0.7, 0.3, False),
]
for case, (boxes, high, low, low_quality) in enumerate(cases):
    matches = Matcher(high, low, low_quality)(box_iou(boxes, anchors))
    tensors[f"boxes_{case}"] = boxes.contiguous()
    tensors[f"scalars_{case}"] = torch.tensor([high, low, float(low_quality)])
    tensors[f"matches_{case}"] = matches.int()
save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))
