"""Times PyTorch and torchvision on the cases of `cargo bench`, and prints the ratio to ocelli's times where given.

    cargo bench | tee bench.txt && python benches/peers.py bench.txt

Needs torch 2.11 and torchvision 0.26; runs on CUDA where torch can, and on the CPU. On CUDA, calls are timed by events with a cold
L2, as in the benches; `compiled` is torch.compile of the same function. On the CPU the ratio of processor time is printed, too:
on a busy machine it alone means something, with OMP_NUM_THREADS=1 here and RAYON_NUM_THREADS=1 there, so that no thread spins.
"""

import argparse
import itertools
import re
import statistics
import time

import torch
import torchvision
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _box_loss

ANCHORS, CLASSES = 201_600, 80


class Seconds(float):
    """Seconds of a call on the clock, and on processors."""

    spent = None


def timed(call, device):
    """Median seconds of a call."""
    call()
    if device == "cpu":
        times, spent = [], []
        for _ in range(5):
            start, used = time.perf_counter(), time.process_time()
            call()
            times.append(time.perf_counter() - start)
            spent.append(time.process_time() - used)
        seconds = Seconds(statistics.median(times))
        seconds.spent = statistics.median(spent)
        return seconds
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    times = []
    # Twenty calls, or as many as fit into a second, but five.
    begin = time.perf_counter()
    while len(times) < 5 or len(times) < 20 and time.perf_counter() < begin + 1:
        events = []
        for _ in range(5):
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        times += [start.elapsed_time(end) / 1e3 for start, end in events]
    return statistics.median(times)


def focal(logits, target):
    return torchvision.ops.sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0, reduction="sum")


def sigmoid_focal_loss(device):
    """Yields (case, variant, seconds). torchvision is given its one-hot target for nothing."""
    for images, dtype, name in [(1, torch.float32, "f32"), (1, torch.bfloat16, "bf16"), (8, torch.bfloat16, "bf16")]:
        if device == "cpu" and images > 1:
            continue
        rows = images * ANCHORS
        generator = torch.Generator(device).manual_seed(1)
        logits = 1.5 * torch.randn(rows, CLASSES, generator=generator, device=device) - 4.595
        logits = logits.to(dtype).requires_grad_()
        target = torch.zeros(rows, CLASSES, dtype=dtype, device=device)
        positive = torch.arange(0, rows, 400, device=device)
        target[positive, positive % CLASSES] = 1.0
        functions = {"torchvision eager": focal}
        if device == "cuda":
            functions["torchvision compiled"] = torch.compile(focal)
        case = f"sigmoid_focal_loss [{images} x {ANCHORS}, {CLASSES}] {name}"
        for variant, function in functions.items():

            def gradient():
                logits.grad = None
                function(logits, target).backward()

            def loss():
                with torch.no_grad():
                    function(logits, target)

            yield f"{case} loss", variant, timed(loss, device)
            yield f"{case} gradient", variant, timed(gradient, device)


def clustered(device, images, boxes):
    """Boxes, scores and classes of each image: clusters of about ten boxes, as in benches/ops/nms.rs."""
    generator = torch.Generator(device).manual_seed(3)
    random = lambda *shape: torch.rand(*shape, generator=generator, device=device)
    centres = random((boxes + 9) // 10, 2) * torch.tensor([1333.0, 800.0], device=device)
    place = torch.arange(boxes, device=device)
    batch = []
    for _ in range(images):
        low = centres[place % len(centres)] + 8 * random(boxes, 2)
        batch.append((torch.cat([low, low + 40 + 20 * random(boxes, 2)], 1), random(boxes), place % 80))
    return batch


def nms(device):
    """Yields (case, variant, seconds): batched_nms image by image, the best 300 of each."""
    for images, boxes in [(1, 800), (1, 5_000), (8, 5_000), (1, 100_000)]:
        batch = clustered(device, images, boxes)

        def keep():
            for corners, scores, classes in batch:
                torchvision.ops.batched_nms(corners, scores, classes, 0.5)[:300]

        yield f"nms [{images} x {boxes}] 80 classes", "torchvision batched_nms", timed(keep, device)


def lowered(boxes, scores, sigma: float, kept: int):
    """Gaussian soft-NMS of one class as it is composed of PyTorch ops: the best `kept` scores."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    scores = scores.clone()
    best_scores, best_places = [], []
    for _ in range(min(kept, len(scores))):
        best_score, best = scores.max(0)
        best_scores.append(best_score)
        best_places.append(best)
        low, high = torch.maximum(boxes[:, :2], boxes[best, :2]), torch.minimum(boxes[:, 2:], boxes[best, 2:])
        inside = (high - low).clamp(min=0).prod(1)
        overlap = inside / (area + area[best] - inside)
        scores = scores * torch.exp(-overlap * overlap / sigma)
        scores[best] = 0.0
    return torch.stack(best_scores), torch.stack(best_places)


def soft_nms(device):
    """Yields (case, variant, seconds): class by class, image by image, the best 100."""
    for images, boxes in [(1, 800), (1, 5_000), (8, 5_000)]:
        batch = clustered(device, images, boxes)
        classes = torch.arange(boxes, device=device) % 80
        groups = [(classes == c).nonzero()[:, 0] for c in range(80)]

        def keep():
            for corners, scores, _ in batch:
                of_class = [lowered(corners[group], scores[group], 0.5, 100) for group in groups]
                scores = torch.cat([best_scores for best_scores, _ in of_class])
                scores.topk(100)

        yield f"soft_nms [{images} x {boxes}] 80 classes", "a PyTorch loop", timed(keep, device)


def corners(heat, tag, offset):
    """The best 100 corners of CornerNet's maps, [B, H, W, ..] here: scores, classes, x, y, tags."""
    heat = torch.sigmoid(heat.permute(0, 3, 1, 2).float())
    images, _, height, width = heat.shape
    heat = heat * (torch.nn.functional.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    scores, order = heat.reshape(images, -1).topk(100)
    cell = order % (height * width)
    at = lambda values: values.reshape(images, height * width, -1).gather(1, cell[..., None].expand(-1, -1, values.shape[-1]))
    offset = at(offset)
    x, y = cell % width + offset[..., 0], torch.div(cell, width, rounding_mode="floor") + offset[..., 1]
    return scores, torch.div(order, height * width, rounding_mode="floor"), x, y, at(tag)[..., 0]


def decoded(tl, br):
    """CornerNet's decoding as it is composed of PyTorch ops: the best 1000 boxes, scores and classes."""
    tl_score, tl_class, tl_x, tl_y, tl_tag = (v[:, :, None] for v in corners(*tl))
    br_score, br_class, br_x, br_y, br_tag = (v[:, None, :] for v in corners(*br))
    bad = (tl_class != br_class) | ((tl_tag - br_tag).abs() > 0.5) | (br_x < tl_x) | (br_y < tl_y)
    score, order = torch.where(bad, -1.0, (tl_score + br_score) / 2).flatten(1).topk(1000)
    pick = lambda v: v.expand(bad.shape).flatten(1).gather(1, order)
    return torch.stack([pick(tl_x), pick(tl_y), pick(br_x), pick(br_y)], -1), score, pick(tl_class)


def corner_decode(device):
    """Yields (case, variant, seconds)."""
    for images, dtype, name in [(1, torch.float32, "f32"), (1, torch.float16, "f16"), (8, torch.float16, "f16")]:
        generator = torch.Generator(device).manual_seed(1)
        random = lambda *last: torch.randn(images, 128, 128, *last, generator=generator, device=device)
        maps = [(2 * random(80) - 6, random(1), random(2) / 4) for _ in range(2)]
        tl, br = ([v.to(dtype) for v in kind] for kind in maps)
        functions = {"PyTorch eager": decoded}
        if device == "cuda":
            functions["PyTorch compiled"] = torch.compile(decoded)
        for variant, function in functions.items():
            seconds = timed(lambda: function(tl, br), device)
            yield f"corner_decode [{images} x 128 x 128 x 80] {name}", variant, seconds


def cummax_pool(grid, axis, from_end):
    """mmcv's corner pooling."""
    if not from_end:
        return grid.cummax(axis).values
    return grid.flip(axis).cummax(axis).values.flip(axis)


def corner_pool(device):
    """Yields (case, variant, seconds): the pools by torch.cummax, in the layout of the case."""
    for batch, dtype, name, last, top in [
        (1, torch.float32, "f32", True, True),
        (1, torch.float32, "f32", True, False),
        (1, torch.float32, "f32", False, True),
        (1, torch.float32, "f32", False, False),
        (8, torch.bfloat16, "bf16", True, True),
        (8, torch.bfloat16, "bf16", True, False),
    ]:
        if device == "cpu" and batch > 1:
            continue
        shape = [batch, 128, 128, 128]
        grid = torch.randn(shape, device=device).to(dtype).requires_grad_()
        upstream = torch.randn(shape, device=device).to(dtype)
        axis = (1 if top else 2) + (0 if last else 1)
        layout = "BHWC" if last else "BCHW"
        case = f"corner_pool {layout} {shape} {name} {'Top' if top else 'Left'}"

        def pool():
            with torch.no_grad():
                cummax_pool(grid, axis, True)

        def gradient():
            grid.grad = None
            cummax_pool(grid, axis, True).backward(upstream)

        yield case, "cummax", timed(pool, device)
        yield f"{case} and gradient", "cummax", timed(gradient, device)
    for batch, dtype, name in [(1, torch.float32, "f32"), (8, torch.bfloat16, "bf16")]:
        if device == "cpu" and batch > 1:
            continue
        shape = [batch, 128, 128, 128]
        maps = [torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(2)]
        upstream = torch.randn(shape, device=device).to(dtype)

        def pair():
            with torch.no_grad():
                cummax_pool(maps[0], 1, True) + cummax_pool(maps[1], 2, True)

        def gradients():
            for grid in maps:
                grid.grad = None
            (cummax_pool(maps[0], 1, True) + cummax_pool(maps[1], 2, True)).backward(upstream)

        yield f"corner_pool_pair {shape} {name}", "cummax", timed(pair, device)
        yield f"corner_pool_pair {shape} {name} and gradients", "cummax", timed(gradients, device)


def official_heatmap_loss(logits, target):
    """CornerNet's loss with its clamp, over as many positives as there are."""
    p = torch.clamp(torch.sigmoid(logits), 1e-4, 1 - 1e-4)
    positive, negative = target.eq(1), target.lt(1)
    of_positives = torch.log(p[positive]) * (1 - p[positive]) ** 2
    of_negatives = torch.log(1 - p[negative]) * p[negative] ** 2 * (1 - target[negative]) ** 4
    return -(of_positives.sum() + of_negatives.sum()) / positive.sum()


def heatmap_focal_loss(device):
    """Yields (case, variant, seconds): loss and gradient, the target given for nothing."""
    for batch, dtype, name in [(1, torch.float32, "f32"), (8, torch.float32, "f32"), (8, torch.bfloat16, "bf16")]:
        shape = [batch, 128, 128, CLASSES]
        logits = (1.5 * torch.randn(shape, device=device) - 2.19).to(dtype).requires_grad_()
        target = torch.zeros(shape, device=device)
        target.view(-1)[:: 128 * 128 * CLASSES // 30] = 1.0

        def gradient():
            logits.grad = None
            official_heatmap_loss(logits, target).backward()

        seconds = timed(gradient, device)
        for form in ["map", "boxes"]:
            yield f"heatmap_focal_loss {shape} {name} {form}", "official loss", seconds


def official_embedding_loss(first, last):
    n = first.shape[1]
    mean = (first + last) / 2
    pull = (((first - mean) ** 2 + (last - mean) ** 2) / (n + 1e-4)).sum()
    near = torch.relu(1 - (mean[:, None] - mean[:, :, None]).abs())
    return 0.1 * pull + 0.1 * ((near - 1 / (n + 1e-4)) / (n * (n - 1) + 1e-4)).sum()


def corner_losses(device):
    """Yields (case, variant, seconds): losses and gradients of 30 boxes an image, gathered by index."""
    batch, boxes, cells = 8, 30, 128 * 128
    random = lambda *shape: torch.randn(*shape, device=device)
    indices = [torch.randint(0, cells, (batch, boxes), device=device) for _ in range(2)]
    maps = [random(batch, cells).requires_grad_() for _ in range(2)]
    offsets, targets = random(batch, cells, 2).requires_grad_(), random(batch, boxes, 2)

    def embedding():
        maps[0].grad = maps[1].grad = None
        official_embedding_loss(*[maps[i].gather(1, indices[i]) for i in range(2)]).backward()

    def offset():
        offsets.grad = None
        picked = offsets.gather(1, indices[0][..., None].expand(-1, -1, 2))
        loss = torch.nn.functional.smooth_l1_loss(picked, targets, reduction="sum")
        (loss / (batch * boxes + 1e-4)).backward()

    yield "corner_embedding_loss [8, 128, 128] f32", "official loss", timed(embedding, device)
    yield "corner_offset_loss [8, 128, 128] f32", "official loss", timed(offset, device)


ATTENTION = [
    # batch, heads, tokens, head dimension, causal, and whether a processor is asked, too
    (1, 12, 197, 64, False, True),
    (8, 12, 197, 64, False, True),
    (64, 12, 197, 64, False, False),
    (1, 12, 257, 64, False, True),
    (8, 12, 257, 64, False, True),
    (64, 16, 257, 64, False, False),
    (1, 12, 577, 64, False, True),
    (8, 12, 577, 64, False, True),
    (64, 16, 577, 64, False, False),
    (8, 6, 1370, 64, False, False),
    (16, 32, 1024, 64, False, False),
    (1, 32, 16384, 64, False, False),
    (1, 32, 16384, 64, True, False),
    (4, 16, 4096, 128, False, False),
    (1, 16, 16384, 128, False, False),
    (1, 16, 16384, 128, True, False),
    (1, 8, 16384, 256, False, False),
]


def attention(device):
    """Yields (case, variant, seconds) of each backend of scaled_dot_product_attention that takes the case, on views of a
    packed projection. The backward's time is that of `autograd.grad` alone."""
    backends = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
    if device == "cuda":
        backends |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for (batch, heads, tokens, dim, causal, on_cpu), (dtype, name) in itertools.product(
        ATTENTION, [(torch.float32, "f32"), (torch.bfloat16, "bf16")]
    ):
        if not on_cpu if device == "cpu" else dtype == torch.float32:
            continue
        generator = torch.Generator(device).manual_seed(1)
        random = lambda *shape: torch.randn(*shape, generator=generator, device=device).to(dtype)
        projection = random(batch, tokens, 3, heads, dim).requires_grad_()
        q, k, v = projection.permute(2, 0, 3, 1, 4)
        dout = random(batch, heads, tokens, dim)
        case = f"attention [{batch}, {tokens}, {heads}, {dim}]{' causal' if causal else ''} {name}"
        for variant, backend in backends.items():
            # The math backend stores all scores.
            if variant == "math" and tokens > 2048:
                continue
            with sdpa_kernel(backend):
                try:
                    out = scaled_dot_product_attention(q, k, v, is_causal=causal)
                except RuntimeError as error:
                    print(f"{case}: {variant} does not take it: {str(error).splitlines()[0]}")
                    continue

                def forward():
                    with torch.no_grad():
                        scaled_dot_product_attention(q, k, v, is_causal=causal)

                def backward():
                    torch.autograd.grad(out, projection, dout, retain_graph=True)

                yield f"{case} forward", f"PyTorch {variant}", timed(forward, device)
                yield f"{case} backward", f"PyTorch {variant}", timed(backward, device)


def attention_decode(device):
    """Yields (case, variant, seconds): a query of 32 heads, four of which share each of 8 key heads."""
    if device == "cpu":
        return
    random = lambda tokens, heads: torch.randn(1, heads, tokens, 128, device=device).half()
    q, k, v = random(1, 32), random(8192, 8), random(8192, 8)
    for variant, backend in {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}.items():
        call = lambda: scaled_dot_product_attention(q, k, v, enable_gqa=True)
        with sdpa_kernel(backend), torch.no_grad():
            try:
                call()
            except RuntimeError as error:
                print(f"attention of one query: {variant} does not take it: {str(error).splitlines()[0]}")
                continue
            yield "attention [1, 1 of 8192, 32 of 8, 128] f16 forward", f"PyTorch {variant}", timed(call, device)


def anchors_of_levels(device):
    """Anchors of 800 x 1344 by torchvision's generator, level by level."""
    grids = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in [32, 64, 128, 256, 512])
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    maps = [torch.zeros(1, 1, *grid, device=device) for grid in grids]
    images = ImageList(torch.zeros(1, 3, 800, 1344, device=device), [(800, 1344)])
    return generator(images, maps)[0].split([9 * height * width for height, width in grids])


def anchor_decode(device):
    """Yields (case, variant, seconds): the part of RetinaNet.postprocess_detections before suppression, and all of it.

    torchvision is given its anchors for nothing, and the logits in the order that it permutes the head's output to.
    """
    anchors = anchors_of_levels(device)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    generator = torch.Generator(device).manual_seed(4)
    for images, dtype, name in [(1, torch.float32, "f32"), (1, torch.float16, "f16"), (8, torch.float16, "f16")]:
        if device == "cpu" and images > 1:
            continue
        random = lambda *shape: 0.4 * torch.randn(*shape, generator=generator, device=device)
        logits, deltas = [], []
        for level in anchors:
            logit = random(images, len(level), CLASSES) - 6.0
            logit.view(-1)[torch.randint(logit.numel(), (logit.numel() // 4000,), generator=generator, device=device)] += 4.5
            logits.append(logit.to(dtype))
            deltas.append(random(images, len(level), 4).to(dtype))

        def candidates():
            for image in range(images):
                boxes, scores, classes = [], [], []
                for logit, delta, level in zip(logits, deltas, anchors):
                    score = logit[image].sigmoid().flatten()
                    kept = score > 0.05
                    score = score[kept]
                    place = torch.where(kept)[0]
                    score, order = score.topk(min(1000, len(place)))
                    place = place[order]
                    anchor = torch.div(place, CLASSES, rounding_mode="floor")
                    box = coder.decode_single(delta[image][anchor], level[anchor])
                    boxes.append(torchvision.ops.clip_boxes_to_image(box, (800, 1344)))
                    scores.append(score)
                    classes.append(place % CLASSES)
                yield torch.cat(boxes), torch.cat(scores), torch.cat(classes)

        def suppressed():
            for boxes, scores, classes in candidates():
                torchvision.ops.batched_nms(boxes.float(), scores.float(), classes, 0.5)[:300]

        case = f"anchor_decode [{images} x {ANCHORS}, {CLASSES}] {name}"
        yield case, "torchvision postprocessing", timed(lambda: list(candidates()), device)
        yield f"{case} and nms", "torchvision postprocessing", timed(suppressed, device)


def match_anchors(device):
    """Yields (case, variant, seconds): box_iou and Matcher image by image, the anchors given for nothing."""
    anchors = torch.cat(list(anchors_of_levels(device)))
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for images, count in [(1, 10), (1, 50), (1, 500), (8, 50)]:
        if device == "cpu" and images > 1:
            continue
        generator = torch.Generator(device).manual_seed(6)
        random = lambda *shape: torch.rand(*shape, generator=generator, device=device)
        size = 16 * 25 ** random(images, count, 2)
        low = random(images, count, 2) * (torch.tensor([1344.0, 800.0], device=device) - size)
        boxes = torch.cat([low, low + size], 2)

        def matches():
            for image in boxes:
                matcher(torchvision.ops.box_iou(image, anchors))

        yield f"match_anchors [{images} x {ANCHORS}] {count} boxes", "torchvision box_iou and Matcher", timed(matches, device)


def anchor_box_loss(device):
    """Yields (case, variant, seconds): the matched rows of an image, loss and gradient; torchvision's anchors are given."""
    anchors = torch.cat(list(anchors_of_levels(device)))
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    for kind, name in [("l1", "L1"), ("giou", "GIoU")]:
        generator = torch.Generator(device).manual_seed(7)
        deltas = 0.3 * torch.randn(ANCHORS, 4, generator=generator, device=device)
        deltas.requires_grad_()
        size = 16 * 25 ** torch.rand(50, 2, generator=generator, device=device)
        boxes = torch.cat([0 * size + 200, 200 + size], 1)
        matched = torch.full((ANCHORS,), -1, device=device)
        matched[::400] = torch.arange(len(matched[::400]), device=device) % 50

        def gradient():
            deltas.grad = None
            kept = torch.where(matched >= 0)[0]
            loss = _box_loss(kind, coder, anchors[kept], boxes[matched[kept]], deltas[kept])
            (loss / max(1, len(kept))).backward()

        yield f"anchor_box_loss [1 x {ANCHORS}] f32 {name} gradient", "torchvision compute_loss", timed(gradient, device)


def ours(path):
    """Seconds by (case, device), from the summary lines of `cargo bench`."""
    summary = re.compile(r"^(.*) on (cpu|cuda) \(.*\): ([0-9.]+) ms, .*?(?:([0-9.]+) ms of processor time)?$")
    found = {}
    with open(path) as file:
        for match in filter(None, map(summary.match, file)):
            seconds = found[match[1], match[2]] = Seconds(float(match[3]) / 1e3)
            seconds.spent = float(match[4]) / 1e3 if match[4] else None
    return found


def line(case, device, variant, seconds, mine):
    """What is printed of a case: `mine` is ocelli's time, where there is one."""
    spent, of_mine = getattr(seconds, "spent", None), getattr(mine, "spent", None)
    text = f"{case} on {device}: {variant} {1e3 * seconds:.3f} ms"
    text += f", {1e3 * spent:.3f} ms of processor time" if spent else ""
    text += f", {seconds / mine:.1f} times ocelli's {1e3 * mine:.3f} ms" if mine else ""
    return text + (f", {spent / of_mine:.1f} times its processor time {1e3 * of_mine:.3f} ms" if spent and of_mine else "")


def linear(device):
    """Yields (case, variant, seconds): ViT-B/16's layers."""
    for inputs, outputs, name in [(768, 2304, ""), (768, 768, ""), (768, 3072, " gelu"), (3072, 768, "")]:
        layer = torch.nn.Linear(inputs, outputs, device=device)
        x = torch.randn(197, inputs, device=device)
        call = (lambda: torch.nn.functional.gelu(layer(x))) if name else (lambda: layer(x))
        with torch.inference_mode():
            yield f"linear [197, {inputs}] to {outputs} f32{name}", "torch", timed(call, device)
    if device == "cpu":
        return
    for rows, inputs, outputs, dtype, name in [
        (197, 768, 768, torch.bfloat16, "bf16"),
        (6304, 768, 3072, torch.bfloat16, "bf16 gelu"),
        (6304, 768, 3072, torch.float32, "f32 gelu"),
    ]:
        layer = torch.nn.Linear(inputs, outputs, device=device, dtype=dtype)
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        call = (lambda: torch.nn.functional.gelu(layer(x))) if "gelu" in name else (lambda: layer(x))
        with torch.inference_mode():
            yield f"linear [{rows}, {inputs}] to {outputs} {name}", "torch", timed(call, device)


def conv2d(device):
    """Yields (case, variant, seconds): RetinaNet's layers with ReLU, in either memory format."""
    layers = [
        (480, 640, 3, 64, 7, 2),
        (120, 160, 64, 64, 1, 1),
        (120, 160, 64, 64, 3, 1),
        (120, 160, 64, 256, 1, 1),
        (60, 80, 128, 128, 3, 1),
        (30, 40, 1024, 256, 1, 1),
        (30, 40, 256, 256, 3, 1),
        (15, 20, 512, 512, 3, 1),
        (60, 80, 256, 256, 3, 1),
        (60, 80, 256, 819, 3, 1),
    ]
    for height, width, channels, outputs, kernel, stride in layers:
        case = f"conv2d [{height}, {width}, {channels}] to {outputs}, {kernel} x {kernel} by {stride}"
        for variant, memory in [("torch", torch.contiguous_format), ("torch channels_last", torch.channels_last)]:
            layer = torch.nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, device=device).to(memory_format=memory)
            x = torch.randn(1, channels, height, width, device=device).to(memory_format=memory)
            with torch.inference_mode():
                yield case, variant, timed(lambda: torch.relu_(layer(x)), device)
    if device == "cpu":
        return
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, device=device).bfloat16().to(memory_format=torch.channels_last)
    x = torch.randn(8, 256, 100, 168, device=device).bfloat16().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = timed(lambda: torch.relu_(layer(x)), device)
        yield "conv2d [8, 100, 168, 256] to 256, 3 x 3 by 1 bf16", "torch channels_last", seconds


def dense(device):
    """Yields (case, variant, seconds): norms, pooling, resizing, what stands before the first layer."""
    functional = torch.nn.functional
    random = lambda *shape: torch.randn(*shape, device=device)
    rows, weight, bias = random(1576, 768), random(768), random(768)
    last = lambda tensor: tensor.to(memory_format=torch.channels_last)
    maps, affine, small = last(random(1, 256, 60, 80)), (random(256), random(256)), last(random(1, 256, 30, 40))
    stem, image, hidden = last(random(1, 64, 240, 320)), last(random(1, 3, 480, 640)), random(197, 3072)
    normalize = torchvision.transforms.functional.normalize
    tokens, token, positions = random(8, 196, 768), random(1, 1, 768), random(197, 768)
    table, words = random(30_522, 384), (torch.arange(4096, device=device) * 7919 % 30_522).int()
    resize = lambda antialias: functional.interpolate(image, (224, 224), mode="bilinear", antialias=antialias)
    cases = {
        "layer_norm [1576, 768] f32": lambda: functional.layer_norm(rows, (768,), weight, bias, 1e-6),
        "group_norm [1, 60, 80, 256] f32 relu": lambda: functional.group_norm(maps, 32, *affine).relu_(),
        "max_pool2d [1, 240, 320, 64] f32": lambda: functional.max_pool2d(stem, 3, 2, 1),
        "upsample_nearest_add [1, 60, 80, 256] f32": lambda: functional.interpolate(small, (60, 80)) + maps,
        "resize_bilinear [1, 480, 640, 3] to 224 x 224 f32": lambda: resize(False),
        "resize_bilinear [1, 480, 640, 3] to 224 x 224 f32 antialias": lambda: resize(True),
        "activation [197, 3072] f32 gelu": lambda: functional.gelu(hidden),
        "normalize_image [1, 480, 640, 3] f32": lambda: normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "add_positions [8, 196, 768] f32 behind a token": lambda: torch.cat([token.expand(8, -1, -1), tokens], 1) + positions,
        "embedding [32, 128] of [30522, 384] f32": lambda: functional.embedding(words, table),
    }
    if device == "cuda":
        cases |= batches(device)
    with torch.inference_mode():
        for case, call in cases.items():
            yield case, "torch", timed(call, device)


def batches(device):
    """Calls by case: the same layers of batches in bf16."""
    functional = torch.nn.functional
    random = lambda *shape: torch.randn(*shape, device=device).bfloat16()
    last = lambda tensor: tensor.to(memory_format=torch.channels_last)
    rows, weight, bias, hidden = random(6304, 768), random(768), random(768), random(6304, 3072)
    maps, affine, small = last(random(8, 256, 100, 168)), (random(256), random(256)), last(random(8, 256, 50, 84))
    stem, tokens, token, positions = last(random(8, 64, 400, 672)), random(64, 196, 768), random(1, 1, 768), random(197, 768)
    logits = torch.randn(1 << 25, device=device)
    return {
        "layer_norm [6304, 768] bf16": lambda: functional.layer_norm(rows, (768,), weight, bias, 1e-6),
        "group_norm [8, 100, 168, 256] bf16 relu": lambda: functional.group_norm(maps, 32, *affine).relu_(),
        "max_pool2d [8, 400, 672, 64] bf16": lambda: functional.max_pool2d(stem, 3, 2, 1),
        "upsample_nearest_add [8, 100, 168, 256] bf16": lambda: functional.interpolate(small, (100, 168)) + maps,
        "activation [6304, 3072] bf16 gelu": lambda: functional.gelu(hidden),
        "add_positions [64, 196, 768] bf16 behind a token": lambda: torch.cat([token.expand(64, -1, -1), tokens], 1) + positions,
        "cast [33554432] f32 to bf16": lambda: logits.bfloat16(),
    }


def retinanet(device):
    """Yields (case, variant, seconds): whole models without pre- and post-processing, in either memory format."""
    from torchvision.models import detection

    for name in ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"]:
        for variant, memory in [("torchvision", torch.contiguous_format), ("torchvision channels_last", torch.channels_last)]:
            model = getattr(detection, name)(weights=None, weights_backbone=None).eval().to(device, memory_format=memory)
            image = torch.randn(1, 3, 480, 640, device=device).to(memory_format=memory)
            with torch.inference_mode():
                call = lambda: model.head(list(model.backbone(image).values()))
                yield f"{name} [1, 480, 640, 3] f32", variant, timed(call, device)


def vit(device):
    model = torchvision.models.vit_b_16().eval().to(device)
    cases = {"[1, 224, 224, 3] f32 B/16": (1, torch.float), "[32, 224, 224, 3] bf16 B/16": (32, torch.bfloat16)}
    with torch.inference_mode():
        for case, (images, dtype) in cases.items():
            if device == "cpu" and images > 1:
                continue
            model.to(dtype)
            image = torch.randn(images, 3, 224, 224, device=device, dtype=dtype)
            yield f"vit {case}", "eager", timed(lambda: model(image), device)
            if device == "cuda":
                yield f"vit {case}", "compiled", timed(lambda call=torch.compile(model): call(image), device)


CASES = [
    anchor_box_loss,
    anchor_decode,
    attention,
    attention_decode,
    corner_decode,
    corner_losses,
    conv2d,
    corner_pool,
    dense,
    heatmap_focal_loss,
    linear,
    match_anchors,
    nms,
    retinanet,
    sigmoid_focal_loss,
    soft_nms,
    vit,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="what `cargo bench` printed")
    parser.add_argument("word", nargs="?", default="", help="keeps to the cases whose function's name holds it")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="one device, rather than all there are")
    arguments = parser.parse_args()
    times = ours(arguments.file) if arguments.file else {}
    cases = [case for case in CASES if arguments.word in case.__name__]
    if not cases:
        parser.error(f"no case named {arguments.word}; known: {', '.join(case.__name__ for case in CASES)}")
    stopped = []
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads")
    for device in [arguments.device] if arguments.device else ["cpu", "cuda"]:
        if device == "cuda" and not torch.cuda.is_available():
            print("not measured: cuda: torch finds no GPU")
            continue
        for cases_of in cases:
            try:
                for case, variant, seconds in cases_of(device):
                    print(line(case, device, variant, seconds, times.get((case, device))), flush=True)
            except Exception as error:
                # One that a version of PyTorch or a machine's memory does not take must not cost the rest.
                stopped.append(cases_of.__name__)
                print(f"{cases_of.__name__} on {device} stopped: {error}", flush=True)
    if stopped:
        raise SystemExit(f"stopped: {', '.join(stopped)}")


if __name__ == "__main__":
    main()
