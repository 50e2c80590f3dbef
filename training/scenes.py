"""Reads scenes from the generator `training/scenes`."""

import struct
import subprocess
from dataclasses import dataclass

import numpy
import torch


@dataclass
class Scene:
    """Pixels [H, W, 3] of bytes, boxes [M, 4] in pixels, classes [M]."""

    image: torch.Tensor
    boxes: torch.Tensor
    classes: torch.Tensor


def _read(stream, size):
    data = stream.read(size)
    if len(data) != size:
        raise SystemExit("the generator of scenes ended early; its own message is above")
    return data


def stream(program, digits, photos, split, seed, count, size):
    """Yields `count` scenes of `size` x `size` pixels; a seed gives the same ones again."""
    command = [program, "--digits", digits, "--photos", photos, "--split", split, "--seed", seed,
               "--count", count, "--size", size, "--stream"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE) as process:
        for _ in range(count):
            width, height, objects = struct.unpack("<3I", _read(process.stdout, 12))
            pixels = numpy.frombuffer(_read(process.stdout, width * height * 3), numpy.uint8)
            records = numpy.frombuffer(_read(process.stdout, objects * 20), numpy.uint8)
            records = records.reshape(objects, 20).copy()
            yield Scene(
                torch.from_numpy(pixels.reshape(height, width, 3).copy()),
                torch.from_numpy(records[:, :16].copy().view(numpy.float32)),
                torch.from_numpy(records[:, 16:].copy().view(numpy.int32)[:, 0].astype(numpy.int64)),
            )
        process.terminate()
