"""Times PyTorch and torchvision on the cases of `cargo bench`, and prints the ratio to ocelli's times where given.

    cargo bench | tee bench.txt && python benches/peers.py bench.txt

Needs torch 2.11 and torchvision 0.26; runs on CUDA where torch can, and on the CPU. On CUDA, calls are timed by events with a cold
L2, as in the benches; `compiled` is torch.compile of the same function.
"""

import itertools
import re
import statistics
import sys
import time

import torch
import torchvision
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

ANCHORS, CLASSES = 201_600, 80


def timed(call, device):
    """Median seconds of a call."""
    call()
    if device == "cpu":
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    events = []
    for _ in range(20):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) / 1e3 for start, end in events)


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
        functions = {"eager": focal}
        if device == "cuda":
            functions["compiled"] = torch.compile(focal)
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


def nms(device):
    """Yields (case, variant, seconds): batched_nms image by image, the best 300 of each."""
    for images, boxes in [(1, 800), (1, 5_000), (8, 5_000), (1, 100_000)]:
        generator = torch.Generator(device).manual_seed(3)
        random = lambda *shape: torch.rand(*shape, generator=generator, device=device)
        centres = random((boxes + 9) // 10, 2) * torch.tensor([1333.0, 800.0], device=device)
        place = torch.arange(boxes, device=device)
        batch = []
        for _ in range(images):
            low = centres[place % len(centres)] + 8 * random(boxes, 2)
            batch.append((torch.cat([low, low + 40 + 20 * random(boxes, 2)], 1), random(boxes), place % 80))

        def keep():
            for corners, scores, classes in batch:
                torchvision.ops.batched_nms(corners, scores, classes, 0.5)[:300]

        yield f"nms [{images} x {boxes}] 80 classes", "batched_nms", timed(keep, device)


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
    (4, 16, 4096, 128, False, False),
    (1, 16, 16384, 128, False, False),
    (1, 16, 16384, 128, True, False),
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

                yield f"{case} forward", variant, timed(forward, device)
                yield f"{case} backward", variant, timed(backward, device)


def ours(path):
    """Seconds by (case, device), from the summary lines of `cargo bench`."""
    line = re.compile(r"^(.*) on (cpu|cuda) \(.*\): ([0-9.]+) ms, ")
    with open(path) as file:
        found = [match for match in map(line.match, file) if match]
    return {(match[1], match[2]): float(match[3]) / 1e3 for match in found}


def peer(case):
    """Whose the variants of a case are."""
    return "PyTorch" if case.startswith("attention") else "torchvision"


def main():
    times = ours(sys.argv[1]) if len(sys.argv) > 1 else {}
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads")
    for device in ["cpu", "cuda"]:
        if device == "cuda" and not torch.cuda.is_available():
            print("not measured: cuda: torch finds no GPU")
            continue
        for case, variant, seconds in itertools.chain(attention(device), nms(device), sigmoid_focal_loss(device)):
            mine = times.get((case, device))
            ratio = f", {seconds / mine:.1f} times ocelli's {1e3 * mine:.3f} ms" if mine else ""
            print(f"{case} on {device}: {peer(case)} {variant} {1e3 * seconds:.3f} ms{ratio}", flush=True)


if __name__ == "__main__":
    main()
