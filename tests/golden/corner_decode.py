"""Golden vectors of corner_decode.safetensors: the steps of CornerNet's decoding on PyTorch 2.11.0.

    python tests/golden/corner_decode.py

The steps are those of the official `_decode`: sigmoid, max-pool peaks, the best K of each kind, all pairs, the best
boxes; in double precision with stable sorts, where the official code is in single precision and leaves ties open, and
with the score of a rejected pair (-1 there) left out. Case 3 has fewer peaks than corners wanted. A case holds the maps
as `ocelli op corner_decode` takes them, scalars [topk, kernel, ae_threshold, num_dets] and boxes [M, 4], scores [M],
classes [M].
"""

import pathlib

import torch
from safetensors.torch import save_file

CASES = [
    # height, width, classes, topk, kernel, ae_threshold, num_dets
    (16, 21, 4, 30, 3, 0.5, 1000),
    (8, 129, 2, 100, 3, 0.25, 200),
    (17, 13, 8, 20, 5, 0.5, 50),
    (8, 6, 2, 50, 3, 0.5, 1000),
]


def corners(heat, embed, offset, topk, kernel):
    scores = torch.sigmoid(heat.double())
    highest = torch.nn.functional.max_pool2d(scores, kernel, stride=1, padding=kernel // 2)
    scores = torch.where(scores == highest, scores, 0.0)
    classes, height, width = scores.shape
    order = scores.flatten().sort(descending=True, stable=True).indices[:topk]
    cell = order % (height * width)
    x = (cell % width).float() + offset[cell, 0]
    y = (cell // width).float() + offset[cell, 1]
    return scores.flatten()[order].float(), order // (height * width), x, y, embed[cell]


def decode(tl, br, topk, kernel, ae_threshold, num_dets):
    tl_score, tl_class, tl_x, tl_y, tl_embed = (v[:, None] for v in corners(*tl, topk, kernel))
    br_score, br_class, br_x, br_y, br_embed = (v[None, :] for v in corners(*br, topk, kernel))
    good = (tl_class == br_class) & ((tl_embed - br_embed).abs() <= ae_threshold) & (br_x >= tl_x) & (br_y >= tl_y)
    score = torch.where(good, (tl_score + br_score) / 2, -1.0).flatten()
    order = score.sort(descending=True, stable=True).indices[:num_dets]
    order = order[score[order] > -1]
    pick = lambda v: v.expand(good.shape).flatten()[order]
    return torch.stack([pick(tl_x), pick(tl_y), pick(br_x), pick(br_y)], 1), score[order], pick(tl_class)


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number, (height, width, classes, *scalars) in enumerate(CASES):
        case, kinds = {}, []
        for kind in ["tl", "br"]:
            heat = 2 * torch.randn(height, width, classes, generator=generator) - 2
            embed = torch.rand(height, width, 1, generator=generator)
            offset = torch.rand(height, width, 2, generator=generator)
            for name, tensor in zip(["heat", "embed", "offset"], [heat, embed, offset]):
                case[f"{kind}_{name}"] = tensor[None]
            kinds.append((heat.permute(2, 0, 1), embed.flatten(), offset.reshape(-1, 2)))
        boxes, scores, found = decode(*kinds, *scalars)
        case |= {"scalars": torch.tensor(scalars), "boxes": boxes, "scores": scores, "classes": found.int()}
        tensors |= {f"{name}_{number}": tensor.contiguous() for name, tensor in case.items()}
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
