"""Average precision of a detector, by COCO's rules, from what `ocelli detect` finds.

    python training/evaluate.py cornernet assets/cornernet_digits.safetensors SCENES [KEY=VALUE ...]

SCENES is a folder with pictures and annotations.json, as the program `scenes` writes: held-out ones with
`scenes --split test --seed 7 --count 500 --out SCENES`. Pairs of KEY=VALUE go to `ocelli detect --set`.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("retinanet", "cornernet"))
    parser.add_argument("weights", help="a safetensors file")
    parser.add_argument("scenes", type=pathlib.Path)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE for `ocelli detect --set`")
    parser.add_argument("--program", default="target/release/ocelli")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return parser.parse_args()


def detect(options, files):
    """Results in COCO's form; image_id counts `files`."""
    settings = [word for setting in options.settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder) / "results.json"
        command = [options.program, "detect", "--model", options.model, "--weights", options.weights,
                   "--device", options.device, "--json", results, *settings, *files]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return json.loads(results.read_text())


def main():
    options = arguments()
    truth = COCO(options.scenes / "annotations.json")
    images = truth.loadImgs(sorted(truth.getImgIds()))
    results = detect(options, [options.scenes / image["file_name"] for image in images])
    if not results:
        raise SystemExit("nothing was found")
    for result in results:
        result["image_id"] = images[result["image_id"]]["id"]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()


main()
