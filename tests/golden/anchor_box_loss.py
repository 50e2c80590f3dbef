"""Golden vectors of anchor_box_loss.safetensors, from torchvision 0.26.0 on PyTorch 2.11.0, in double precision.

    python tests/golden/anchor_box_loss.py

torchvision's BoxCoder, _box_loss and Matcher on its anchors, as RetinaNetRegressionHead.compute_loss calls them: the loss of an
image divided by its matched anchors, the sum by the number of images. In case 3 every delta is 0 and boxes are anchors, so
that sides coincide.
"""

import pathlib

import torch
from safetensors.torch import save_file
from torchvision.models.detection._utils import BoxCoder, Matcher, _box_loss
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

torch.manual_seed(0)
tensors = {}
image, grids = (100, 150), [(5, 6), (3, 3)]
sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in [32, 64])
generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 2)
maps = [torch.zeros(1, 1, *grid) for grid in grids]
anchors = generator(ImageList(torch.zeros(1, 3, *image), [image]), maps)[0].double()

for case, kind in enumerate(["l1", "smooth_l1", "giou", "giou"]):
    low = 100 * torch.rand(2, 6, 2)
    boxes = torch.cat([low, low + 10 + 60 * torch.rand(2, 6, 2)], 2)
    deltas = 0.4 * torch.randn(2, len(anchors), 4)
    deltas[0, ::7, 2] = 4.5  # above the clamp
    if case == 3:
        boxes, deltas = anchors[100:112].reshape(2, 6, 4).float(), torch.zeros_like(deltas)
    # f32 values, so that both sides have the same input.
    deltas = deltas.float().double().requires_grad_()
    total, matches = 0, []
    for b in range(2):
        matched = Matcher(0.5, 0.4, True)(box_iou(boxes[b].double(), anchors))
        kept = torch.where(matched >= 0)[0]
        coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        loss = _box_loss(kind, coder, anchors[kept], boxes[b].double()[matched[kept]], deltas[b][kept], cnf={"beta": 0.3})
        total = total + loss / max(1, len(kept))
        matches.append(matched.int())
    total = total / 2
    total.backward()
    tensors[f"boxes_{case}"] = boxes.contiguous()
    tensors[f"deltas_{case}"] = deltas.detach().float()
    tensors[f"matched_{case}"] = torch.stack(matches)
    tensors[f"loss_{case}"] = total.detach().reshape(1)
    tensors[f"gradient_{case}"] = deltas.grad

save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))
