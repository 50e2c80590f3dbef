"""Golden vectors of nms.safetensors, from torchvision 0.26.0 on PyTorch 2.11.0.

    python tests/golden/nms.py

Cases 0 to 3 have coordinates that torchvision's batched_nms treats rightly. In cases 4 and 5 boxes lie at
negative coordinates, where its trick of moving each class aside by max + 1 lets classes overlap: there
each class is suppressed on its own by torchvision.ops.nms, which is what batched_nms means.
"""

import pathlib

import torch
import torchvision
from safetensors.torch import save_file

torch.manual_seed(0)
tensors = {}


def boxes_around(centres, n, low):
    centre = centres[torch.randint(len(centres), (n,))]
    return torch.cat([centre + low, centre + low + 20 + 40 * torch.rand(n, 2)], 1) + 10 * torch.rand(n, 4)


def by_class(boxes, scores, classes, threshold):
    kept = []
    for c in classes.unique():
        of_class = (classes == c).nonzero()[:, 0]
        kept.append(of_class[torchvision.ops.nms(boxes[of_class], scores[of_class], threshold)])
    kept = torch.cat(kept)
    return kept[scores[kept].sort(descending=True, stable=True).indices]


cases = [(1, 0.5, 0), (300, 0.5, 0), (1000, 0.3, 0), (800, 0.7, 0), (500, 0.5, -400), (600, 0.4, -1000)]
for case, (n, threshold, low) in enumerate(cases):
    boxes = boxes_around(200 * torch.rand(8, 2), n, low).float()
    scores = torch.randperm(n).float() / n
    classes = torch.randint(5, (n,))
    exact = by_class(boxes, scores, classes, threshold)
    if low == 0:
        kept = torchvision.ops.batched_nms(boxes, scores, classes, threshold)
        # Moved boxes round differently, but none of these IoUs is that close to the threshold.
        assert torch.equal(kept, exact)
    tensors[f"boxes_{case}"] = boxes
    tensors[f"scores_{case}"] = scores
    tensors[f"classes_{case}"] = classes.int()
    tensors[f"threshold_{case}"] = torch.tensor([threshold])
    tensors[f"kept_{case}"] = exact.int()

save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))
