"""A narrow CornerNet with the official structure and names: one hourglass of depth 3."""

import math

import torch
from torch import nn

DIMS = (48, 48, 64, 96)
MODULES = (1, 1, 1, 2)
STEM = 24
CORNER = 32
STRIDE = 4
MEAN_BGR = (0.40789654, 0.44719302, 0.47026115)
STD_BGR = (0.28863828, 0.27408164, 0.27809835)
CLAMP = 1e-4
PULL, PUSH, OFFSET = 0.1, 0.1, 1.0
GAUSSIAN_IOU = 0.3


class Convolution(nn.Module):
    def __init__(self, kernel, inputs, outputs, stride=1, with_bn=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=not with_bn)
        self.bn = nn.BatchNorm2d(outputs) if with_bn else nn.Identity()

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.skip(x))


def layer(inputs, outputs, count, stride=1):
    rest = [Residual(outputs, outputs) for _ in range(count - 1)]
    return nn.Sequential(Residual(inputs, outputs, stride), *rest)


def layer_reversed(inputs, outputs, count):
    return nn.Sequential(*[Residual(inputs, inputs) for _ in range(count - 1)], Residual(inputs, outputs))


class Hourglass(nn.Module):
    def __init__(self, dims, modules):
        super().__init__()
        outer, inner = dims[0], dims[1]
        self.up1 = layer(outer, outer, modules[0])
        self.low1 = layer(outer, inner, modules[0], stride=2)
        deeper = len(dims) > 2
        self.low2 = Hourglass(dims[1:], modules[1:]) if deeper else layer(inner, inner, modules[1])
        self.low3 = layer_reversed(inner, outer, modules[0])

    def forward(self, x):
        low = self.low3(self.low2(self.low1(x)))
        return self.up1(x) + nn.functional.interpolate(low, scale_factor=2)


def scan_max(x, axis, reverse):
    """Running maximum; `reverse` starts at the far end."""
    if reverse:
        return x.flip(axis).cummax(axis)[0].flip(axis)
    return x.cummax(axis)[0]


class CornerModule(nn.Module):
    """Top-left pools towards smaller coordinates, bottom-right towards larger ones."""

    def __init__(self, dim, top_left, pooling, corner=CORNER):
        super().__init__()
        self.p1_conv1 = Convolution(3, dim, corner)
        self.p2_conv1 = Convolution(3, dim, corner)
        self.p_conv1 = nn.Conv2d(corner, dim, 3, padding=1, bias=False)
        self.p_bn1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = Convolution(3, dim, dim)
        self.top_left = top_left
        self.pooling = pooling

    def forward(self, x):
        vertical, horizontal = self.p1_conv1(x), self.p2_conv1(x)
        if self.pooling:
            vertical = scan_max(vertical, 2, self.top_left)
            horizontal = scan_max(horizontal, 3, self.top_left)
        pooled = self.p_bn1(self.p_conv1(vertical + horizontal))
        return self.conv2(torch.relu(pooled + self.bn1(self.conv1(x))))


def head(dim, outputs, bias=0.0):
    last = nn.Conv2d(dim, outputs, 1)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(Convolution(3, dim, dim, with_bn=False), last)


class CornerNet(nn.Module):
    def __init__(self, classes=10, pooling=True):
        super().__init__()
        self.pooling = pooling
        dim = DIMS[0]
        self.pre = nn.Sequential(Convolution(7, 3, STEM, stride=2), Residual(STEM, dim, stride=2))
        self.kps = nn.ModuleList([Hourglass(DIMS, MODULES)])
        self.cnvs = nn.ModuleList([Convolution(3, dim, dim)])
        self.tl_cnvs = nn.ModuleList([CornerModule(dim, True, pooling)])
        self.br_cnvs = nn.ModuleList([CornerModule(dim, False, pooling)])
        for corner in ("tl", "br"):
            setattr(self, f"{corner}_heats", nn.ModuleList([head(dim, classes, -2.19)]))
            setattr(self, f"{corner}_tags", nn.ModuleList([head(dim, 1)]))
            setattr(self, f"{corner}_regrs", nn.ModuleList([head(dim, 2)]))

    @staticmethod
    def batch(scenes):
        """[B, 3, H, W], blue first, normalised as the official code does."""
        images = torch.stack([scene.image for scene in scenes]).flip(-1).permute(0, 3, 1, 2).float() / 255
        return (images - torch.tensor(MEAN_BGR).view(3, 1, 1)) / torch.tensor(STD_BGR).view(3, 1, 1)

    def metadata(self):
        """A cell is STRIDE pixels, not the quotient of rounded extents that the official network is trained with; and a
        mirrored digit is none."""
        return {"pooling": str(self.pooling).lower(), "cell": str(STRIDE), "flip": "false"}

    def forward(self, images):
        """Heat logits, tags and offsets of the top-left, then of the bottom-right corners."""
        x = self.cnvs[0](self.kps[0](self.pre(images)))
        outputs = []
        for corner in ("tl", "br"):
            y = getattr(self, f"{corner}_cnvs")[0](x)
            outputs.append([getattr(self, f"{corner}_{name}")[0](y) for name in ("heats", "tags", "regrs")])
        return outputs

    def loss(self, scenes):
        images = self.batch(scenes).contiguous(memory_format=torch.channels_last)
        outputs = self(images)
        total = 0.0
        tags = []
        for corner, (heat, tag, offset) in enumerate(outputs):
            target, cells, exact = targets(scenes, corner, heat.shape)
            total = total + heatmap_loss(heat, target)
            batch, y, x = cells.unbind(1)
            tags.append(tag[batch, 0, y, x])
            missed = offset[batch, :, y, x] - exact
            smooth = nn.functional.smooth_l1_loss(missed, torch.zeros_like(missed), reduction="sum")
            total = total + OFFSET * smooth / (len(cells) + 1e-4)
        pull, push = grouping_loss(tags, [len(scene.boxes) for scene in scenes])
        return total + PULL * pull + PUSH * push


def gaussian_radius(height, width):
    """So far may a corner be off for an overlap of GAUSSIAN_IOU; as in the official code today."""
    iou = GAUSSIAN_IOU
    total, area = height + width, height * width
    first = (total - math.sqrt(total**2 - 4 * area * (1 - iou) / (1 + iou))) / 2
    second = (2 * total - math.sqrt(4 * total**2 - 16 * (1 - iou) * area)) / 8
    third = (-2 * iou * total + math.sqrt(4 * iou**2 * total**2 - 16 * iou * (iou - 1) * area)) / (8 * iou)
    return max(0, int(min(first, second, third)))


def targets(scenes, corner, shape):
    """Heat map, cells [M, 3] of (image, y, x) and offsets [M, 2] of (x, y)."""
    heat = torch.zeros(shape)
    height, width = shape[2:]
    cells, offsets = [], []
    for index, scene in enumerate(scenes):
        for box, label in zip(scene.boxes.tolist(), scene.classes.tolist()):
            scaled = [value / STRIDE for value in box]
            x, y = scaled[2 * corner], scaled[2 * corner + 1]
            column, row = min(int(x), width - 1), min(int(y), height - 1)
            box_height, box_width = math.ceil(scaled[3] - scaled[1]), math.ceil(scaled[2] - scaled[0])
            splat(heat[index, label], column, row, gaussian_radius(box_height, box_width))
            cells.append((index, row, column))
            offsets.append((x - column, y - row))
    return heat, torch.tensor(cells).view(-1, 3), torch.tensor(offsets).view(-1, 2)


def splat(heat, column, row, radius):
    """Raises `heat` to a Gaussian of 1 at its centre."""
    sigma = (2 * radius + 1) / 6
    height, width = heat.shape
    ys = torch.arange(max(0, row - radius), min(height, row + radius + 1))
    xs = torch.arange(max(0, column - radius), min(width, column + radius + 1))
    squares = (ys[:, None] - row) ** 2 + (xs[None, :] - column) ** 2
    part = heat[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    torch.maximum(part, torch.exp(-squares / (2 * sigma**2)), out=part)


def heatmap_loss(logits, target):
    p = torch.sigmoid(logits).clamp(CLAMP, 1 - CLAMP)
    positive = target == 1
    loss = -torch.where(positive, torch.log(p) * (1 - p) ** 2, torch.log(1 - p) * p**2 * (1 - target) ** 4)
    return loss.sum() / max(1, int(positive.sum()))


def grouping_loss(tags, counts):
    """Pull the two tags of an object together, push the means of two objects apart."""
    pull = push = 0.0
    for first, second in zip(tags[0].split(counts), tags[1].split(counts)):
        count = len(first)
        mean = (first + second) / 2
        pull = pull + (((first - mean) ** 2 + (second - mean) ** 2) / (count + 1e-4)).sum()
        pairs = torch.relu(1 - (mean[:, None] - mean[None, :]).abs()) - 1 / (count + 1e-4)
        push = push + pairs.sum() / ((count - 1) * count + 1e-4)
    return pull, push
