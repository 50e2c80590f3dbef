"""Writes cornernet.safetensors and cornernet_loss.safetensors: a small CornerNet of two stacks in the official structure.

    pip install torch==2.11.0 safetensors && python cornernet.py

The blocks are those of training/cornernet.py. Heads, the whole test procedure of the official code on images of odd sizes
(kp_utils.py, test/coco.py and external/nms.pyx of princeton-vl/CornerNet at e5c39a3, written anew), and the loss with the
gradients of every head.
"""

import math
import pathlib
import sys

import torch
from torch import nn

import golden

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "training"))
import cornernet as training

STEM, DIMS, MODULES, FEATURES, POOLED, HIDDEN, CLASSES = 8, (8, 8, 16), (2, 1, 1), 16, 8, 8, 3
CORNERS, HEADS = ("tl", "br"), ("heat", "embed", "offset")
# Few enough to be peaks: which places follow those, PyTorch leaves open.
CORNERS_KEPT = 20


def normed(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def head(outputs):
    first = training.Convolution(3, FEATURES, HIDDEN, with_bn=False)
    return nn.Sequential(first, nn.Conv2d(HIDDEN, outputs, 1))


class CornerNet(nn.Module):
    def __init__(self):
        super().__init__()
        dim, two = DIMS[0], range(2)
        self.pre = nn.Sequential(training.Convolution(7, 3, STEM, stride=2), training.Residual(STEM, dim, stride=2))
        self.kps = nn.ModuleList([training.Hourglass(DIMS, MODULES) for _ in two])
        self.cnvs = nn.ModuleList([training.Convolution(3, dim, FEATURES) for _ in two])
        self.inters = nn.ModuleList([training.Residual(dim, dim)])
        self.inters_ = nn.ModuleList([normed(dim, dim)])
        self.cnvs_ = nn.ModuleList([normed(FEATURES, dim)])
        for corner in CORNERS:
            modules = [training.CornerModule(FEATURES, corner == "tl", True, POOLED) for _ in two]
            setattr(self, f"{corner}_cnvs", nn.ModuleList(modules))
            for name, outputs in (("heats", CLASSES), ("tags", 1), ("regrs", 2)):
                setattr(self, f"{corner}_{name}", nn.ModuleList([head(outputs) for _ in two]))

    def forward(self, image):
        """Heat logits, tags and offsets of the last stack: of top-left, then of bottom-right corners."""
        inter = self.pre(image)
        features = self.cnvs[0](self.kps[0](inter))
        inter = self.inters[0](torch.relu(self.inters_[0](inter) + self.cnvs_[0](features)))
        features = self.cnvs[1](self.kps[1](inter))
        outputs = []
        for corner in CORNERS:
            x = getattr(self, f"{corner}_cnvs")[1](features)
            outputs.append([getattr(self, f"{corner}_{name}")[1](x) for name in ("heats", "tags", "regrs")])
        return outputs


def randomise(model):
    """Statistics as of a trained network, and heads that find something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    model.eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 31, 47))
        for corner, values in zip(CORNERS, outputs):
            for name, value, spread, middle in zip(("heats", "tags", "regrs"), values, (2.0, 0.5, 0.3), (-2.19, 0.0, 0.5)):
                last = getattr(model, f"{corner}_{name}")[1][1]
                last.weight *= spread / value.std()
                last.bias.fill_(middle)


def named(outputs):
    pairs = [(f"{corner}_{name}", value) for corner, heads in zip(CORNERS, outputs) for name, value in zip(HEADS, heads)]
    return {name: value.permute(0, 2, 3, 1) for name, value in pairs}


def peaks(heat, count):
    """Scores, classes, rows and columns of the best corners of one image."""
    p = torch.sigmoid(heat)
    p = p * (nn.functional.max_pool2d(p[None], 3, stride=1, padding=1)[0] == p)
    height, width = heat.shape[1:]
    scores, places = torch.topk(p.flatten(), min(count, p.numel()))
    return scores, places // (height * width), places % (height * width) // width, places % width


def decode(top_left, bottom_right, topk=CORNERS_KEPT, near=0.5, most=1000):
    """Boxes [N, 4] in cells, scores and classes of one image."""
    corners = []
    for heat, tag, offset in (top_left, bottom_right):
        scores, classes, rows, columns = peaks(heat, topk)
        exact = torch.stack([columns, rows], 1) + offset[:, rows, columns].T
        corners.append((scores, classes, exact, tag[0, rows, columns]))
    (s1, c1, p1, t1), (s2, c2, p2, t2) = corners
    fits = (c1[:, None] == c2[None]) & ((t1[:, None] - t2[None]).abs() <= near) & (p2[None] >= p1[:, None]).all(2)
    scores = torch.where(fits, (s1[:, None] + s2[None]) / 2, torch.tensor(-1.0, dtype=s1.dtype))
    scores, places = torch.topk(scores.flatten(), min(most, scores.numel()))
    first, second = places // len(s2), places % len(s2)
    kept = scores > -1
    boxes = torch.cat([p1[first], p2[second]], 1)
    return boxes[kept], scores[kept], c1[first][kept]


def soft_nms(boxes, scores, sigma=0.5, least=0.001):
    """external/nms.pyx, method 2: (box, score) of what is kept, with the widths of inclusive coordinates."""
    left, kept = [(box, score) for box, score in zip(boxes.tolist(), scores.tolist())], []
    while left:
        best = left.pop(max(range(len(left)), key=lambda i: left[i][1]))
        kept.append(best)
        (x1, y1, x2, y2), rest = best[0], []
        for box, score in left:
            wide, high = min(x2, box[2]) - max(x1, box[0]) + 1, min(y2, box[3]) - max(y1, box[1]) + 1
            if wide > 0 and high > 0:
                both = (x2 - x1 + 1) * (y2 - y1 + 1) + (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                score *= math.exp(-((wide * high / (both - wide * high)) ** 2) / sigma)
                if score < least:
                    continue
            rest.append((box, score))
        left = rest
    return kept


def framed(image, depth):
    """crop_image: [3, H, W] in the middle of zeros, rows above and columns left of it."""
    extents = [extent | (2 ** (depth + 2) - 1) for extent in image.shape[1:]]
    out = torch.zeros(3, *extents, dtype=image.dtype)
    middles = [extent // 2 for extent in image.shape[1:]]
    low = [max(0, middle - extent // 2) for middle, extent in zip(middles, extents)]
    high = [min(middle + extent // 2, size) for middle, extent, size in zip(middles, extents, image.shape[1:])]
    start = [extent // 2 - (middle - l) for extent, middle, l in zip(extents, middles, low)]
    part = image[:, low[0] : high[0], low[1] : high[1]]
    out[:, start[0] : start[0] + part.shape[1], start[1] : start[1] + part.shape[2]] = part
    return out, start


def detect(model, pixels, most=100):
    """kp_detection for one image [H, W, 3] of red, green and blue in 0..1: boxes, scores, classes, best first."""
    out, start = framed(pixels.permute(2, 0, 1).flip(0), len(DIMS) - 1)
    mean, deviation = (torch.tensor(values, dtype=pixels.dtype).view(3, 1, 1) for values in (training.MEAN_BGR, training.STD_BGR))
    out = (out - mean) / deviation
    heads = model(torch.stack([out, out.flip(2)]))
    grid = heads[0][0].shape[2:]
    all_boxes, all_scores, all_classes = [], [], []
    for index in range(2):
        boxes, scores, classes = decode(*[[head[index] for head in corner] for corner in heads])
        if index == 1:
            boxes[:, [0, 2]] = grid[1] - boxes[:, [2, 0]]
        for axis, extent in ((0, pixels.shape[1]), (1, pixels.shape[0])):
            ratio = grid[1 - axis] / out.shape[2 - axis]
            boxes[:, axis::2] = (boxes[:, axis::2] / ratio - start[1 - axis]).clamp(0, extent)
        all_boxes.append(boxes), all_scores.append(scores), all_classes.append(classes)
    boxes, scores, classes = map(torch.cat, (all_boxes, all_scores, all_classes))
    found = []
    for number in range(CLASSES):
        kept = soft_nms(boxes[classes == number], scores[classes == number])
        found += [(score, box, number) for box, score in kept]
    found.sort(key=lambda entry: -entry[0])
    least = found[most - 1][0] if len(found) > most else 0.0
    # The original keeps boxes below its threshold that stand alone.
    found = [entry for entry in found if entry[0] >= least and entry[0] > 0.001]
    gaps = [a[0] - b[0] for a, b in zip(found, found[1:])]
    assert len(found) > 15 and min(gaps) > 4e-6, (len(found), min(gaps))
    scores, boxes, classes = zip(*found)
    return {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "classes": torch.tensor(classes)}


def run(model, inputs):
    model.eval()
    outputs = named(model(inputs["image"].permute(0, 3, 1, 2)))
    corners = [corner for corner in model.modules() if isinstance(corner, training.CornerModule)]
    for corner in corners:
        corner.pooling = False
    outputs |= {f"unpooled_{name}": value for name, value in named(model(inputs["image"].permute(0, 3, 1, 2))).items()}
    for corner in corners:
        corner.pooling = True
    exact = inputs["image"].dtype == torch.double
    for name in ("even", "odd") if exact else ():
        found = detect(model, inputs[name])
        outputs |= {f"{name}_{key}": value.double() for key, value in found.items()}
    return outputs


def write_model():
    torch.manual_seed(9)
    model = CornerNet()
    randomise(model)
    inputs = {
        "image": torch.randn(2, 31, 47, 3),
        # Extents that a frame surrounds, and extents that it takes the last row and column of.
        "even": torch.rand(52, 38, 3),
        "odd": torch.rand(47, 31, 3),
    }
    golden.save(__file__, model, inputs, run)


class Loss(nn.Module):
    """No weights."""


def targets(boxes, classes, shape, input_size):
    """sample/coco.py for corners `shape` [B, K, H, W]: heat maps, cells and offsets of both corners, a list an image."""
    ratio = (shape[2] / input_size[0], shape[3] / input_size[1])
    heats, cells, offsets = [torch.zeros(shape) for _ in CORNERS], [], []
    for index, (image_boxes, image_classes) in enumerate(zip(boxes.tolist(), classes.tolist())):
        cells.append(([], []))
        offsets.append(([], []))
        for box, label in zip(image_boxes, image_classes):
            if label < 0:
                continue
            radius = training.gaussian_radius(math.ceil((box[3] - box[1]) * ratio[0]), math.ceil((box[2] - box[0]) * ratio[1]))
            for corner in range(2):
                x, y = box[2 * corner] * ratio[1], box[2 * corner + 1] * ratio[0]
                training.splat(heats[corner][index, label], int(x), int(y), radius)
                cells[index][corner].append((int(y), int(x)))
                offsets[index][corner].append((x - int(x), y - int(y)))
    return heats, cells, offsets


def official_loss(stacks, heats, cells, offsets):
    """AELoss with pull and push 0.1: parts of the loss, over stacks of [corner][heat, tag, offset]."""
    parts = dict.fromkeys(("heat", "pull", "push", "offset"), 0.0)
    for stack in stacks:
        for corner in range(2):
            heat, tag, offset = stack[corner]
            target = heats[corner].to(heat.dtype)
            p = torch.sigmoid(heat).clamp(1e-4, 1 - 1e-4)
            positive = torch.log(p[target == 1]) * (1 - p[target == 1]) ** 2
            negative = torch.log(1 - p[target < 1]) * p[target < 1] ** 2 * (1 - target[target < 1]) ** 4
            parts["heat"] = parts["heat"] - (positive.sum() + negative.sum()) / max(1, int((target == 1).sum()))
            seen = [offset[b, :, y, x] for b, image in enumerate(cells) for y, x in image[corner]]
            wanted = [torch.tensor(o, dtype=offset.dtype) for image in offsets for o in image[corner]]
            missed = nn.functional.smooth_l1_loss(torch.stack(seen), torch.stack(wanted), reduction="sum")
            parts["offset"] = parts["offset"] + missed / (len(seen) + 1e-4)
        for b, image in enumerate(cells):
            tags = [torch.stack([stack[corner][1][b, 0, y, x] for y, x in image[corner]]) for corner in range(2)]
            pull, push = training.grouping_loss([tags[0], tags[1]], [len(tags[0])])
            parts["pull"], parts["push"] = parts["pull"] + 0.1 * pull, parts["push"] + 0.1 * push
    return {name: part / len(stacks) for name, part in parts.items()}


def run_loss(_, inputs):
    size = tuple(inputs["size"].tolist())
    with torch.enable_grad():
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items() if name[0].isdigit()}
        # Narrow heads are widened first, as with automatic mixed precision: the clamp is nothing in 16 bits.
        wide = torch.double if inputs["boxes"].dtype == torch.double else torch.float
        head = lambda s, corner, name: leaves[f"{s}_{corner}_{name}"].to(wide).permute(0, 3, 1, 2)
        stacks = [[[head(s, corner, name) for name in HEADS] for corner in CORNERS] for s in range(2)]
        heat = stacks[0][0][0]
        marks = targets(inputs["boxes"].float(), inputs["classes"], heat.shape, size)
        parts = official_loss(stacks, *marks)
        sum(parts.values()).backward()
    if heat.dtype == torch.double:
        check_training(stacks, inputs)
    return {name: part.detach().view(1) for name, part in parts.items()} | {f"d_{name}": leaf.grad for name, leaf in leaves.items()}


def check_training(stacks, inputs):
    """training/cornernet.py has the same loss, with cells of four pixels."""
    from types import SimpleNamespace

    heat = stacks[0][0][0]
    scenes = [SimpleNamespace(boxes=b[c >= 0].float(), classes=c[c >= 0]) for b, c in zip(inputs["boxes"], inputs["classes"])]
    with torch.no_grad():
        total, tags = 0.0, []
        for corner, (heat, tag, offset) in enumerate(stacks[0]):
            target, cells, exact = training.targets(scenes, corner, heat.shape)
            batch, y, x = cells.unbind(1)
            tags.append(tag[batch, 0, y, x])
            missed = offset[batch, :, y, x] - exact
            smooth = nn.functional.smooth_l1_loss(missed, torch.zeros_like(missed), reduction="sum")
            total = total + training.heatmap_loss(heat, target) + training.OFFSET * smooth / (len(cells) + 1e-4)
        pull, push = training.grouping_loss(tags, [len(scene.boxes) for scene in scenes])
        total = total + training.PULL * pull + training.PUSH * push
        four = (4 * heat.shape[2], 4 * heat.shape[3])
        parts = official_loss(stacks[:1], *targets(inputs["boxes"].float(), inputs["classes"], heat.shape, four))
    assert torch.allclose(total, sum(parts.values()), rtol=1e-6), (total, parts)


def write_loss():
    torch.manual_seed(4)
    height, width = 12, 16
    inputs = {"size": torch.tensor([4 * height - 1, 4 * width - 1], dtype=torch.int32)}
    for s in range(2):
        for corner in CORNERS:
            for name, channels in zip(HEADS, (CLASSES, 1, 2)):
                inputs[f"{s}_{corner}_{name}"] = 2 * torch.randn(2, height, width, channels)
    # Two corners of one class in one cell, a lone box, padding; probabilities beyond the clamp.
    inputs["boxes"] = torch.tensor([[[3, 5, 40, 30], [20, 8, 60, 44], [21, 9, 50, 20.5]], [[9, 2, 33, 41], [0, 0, 0, 0], [0, 0, 0, 0]]])
    inputs["classes"] = torch.tensor([[0, 2, 2], [1, -1, -1]], dtype=torch.int32)
    inputs["0_tl_heat"][0, 2, 5, 2] = -12.0
    inputs["1_br_heat"][1, 7, 7] = 14.0
    golden.save(pathlib.Path(__file__).with_name("cornernet_loss"), Loss(), inputs, run_loss)


write_model()
write_loss()
