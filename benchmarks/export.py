"""What `saot export` writes beside the run it was made from: differences, equal pixels, time a picture.

    python benchmarks/export.py --camvid DATA --weights mobile_sam.pt [--pictures 20] [--threads 2] [--out TABLE.json]

DATA is CamVid with lists day.txt and dusk-train.txt, as in docs/results.md. Each row makes a short run (a few steps on
four pictures of each list: what is compared is arithmetic, not quality), exports it in both forms and labels the first
pictures of dusk-train.txt with run and file. MobileSAM has its published weights and 1024 pixels, the ViTs are tiny and
random. Times are medians over the pictures, mask and confidence, without reading and resizing; run it alone for them.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.runs import TINY, run_job
from helpers.vit import save_families

from saot.data import write_atomic
from saot.deploy import compare, export_run, exportable, opened
from saot.evaluate import predict_confidence, predict_mask
from saot.features import extract, fitted
from saot.label import FinishedRun, RunSettings
from saot.recipes import TailRecipe, TaughtRecipe
from saot.tables import ALL_WINGS

FINE = replace(TINY.decoder, architecture="fine", subdivision=4, rounds=1, context=3, smooth=1)
TAIL = TailRecipe(steps=3, taught_steps=2, warm_up=1)
BEST = replace(TINY, decoder=FINE, taught=TaughtRecipe(teachers=1, steps=2, rounds=1), tail=TAIL)
CELLS = replace(BEST, tail=TailRecipe())
ROWS = {  # what it is called: backbone, input size, recipe
    "MobileSAM, preset best's kind": ("mobile-sam", "1024", BEST),
    "MobileSAM, decoder of tokens": ("mobile-sam", "1024", TINY),
    "tiny DINOv2, decoder of cells": ("dinov2-small", "672", CELLS),
    "tiny DINOv3, decoder of cells": ("dinov3-small", "672", CELLS),
    "tiny ViT, decoder of cells": ("vit-base", "672", CELLS),
}


def seconds(label: Callable[[int], object], pictures: int) -> float:
    """Median of a picture; the first one counts twice and only the second time."""
    label(0)
    taken = []
    for number in range(pictures):
        began = time.perf_counter()
        label(number)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def of_run(run: FinishedRun, picture: object) -> None:
    features = extract(run.backbone, picture, "")
    logits = run.logits_of([features])
    predict_mask(logits, features.grid, run.bias)
    predict_confidence(logits, features.grid, run.bias)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Both files of a run beside it."""
    images = ALL_WINGS.images(f"camvid:{options.camvid}:dusk-train.txt")
    reads = [partial(images.image, number) for number in range(min(options.pictures, len(images)))]
    found: dict[str, object] = {"pictures": len(reads)}
    run = exportable(folder, "onnx", ALL_WINGS)
    inputs = [fitted(run.backbone, read()) for read in reads]
    found["torch_seconds"] = base = seconds(lambda number: of_run(run, inputs[number]), len(inputs))
    for form in ("onnx", "torch"):
        file = folder / f"exported.{form}"
        made = export_run(folder, form, file, wings=ALL_WINGS)
        size = tuple(made.metadata["input"]["size"])
        label = opened(file, form, options.threads, ("mask", "confidence"))
        taken = seconds(lambda number, label=label: label(inputs[number]), len(inputs))
        whole = asdict(compare(run, opened(file, form, options.threads), reads, size, size))
        found[form] = {**whole, "bytes": made.nbytes, "seconds": taken, "ratio": base / taken}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the published mobile_sam.pt")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = {}
    print("| run | file | MB | largest difference of scores | equal pixels | torch s | file s | ratio |", flush=True)
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as place:
        weights = {"mobile-sam": options.weights, **save_families(Path(place) / "vits")}
        for number, (name, (backbone, size, recipe)) in enumerate(ROWS.items()):
            settings = RunSettings(
                source=f"camvid:{options.camvid}:day.txt",
                target=f"camvid:{options.camvid}:dusk-train.txt",
                points="20",
                backbone=backbone,
                weights=str(weights[backbone]),
                size=size,
                source_pictures=4,
                target_pictures=4,
                recipe=recipe,
            )
            folder = Path(place) / str(number)
            run_job(settings, folder, compare="none")
            table[name] = found = measure(folder, options)
            for form in ("onnx", "torch"):
                one = found[form]
                print(
                    f"| {name} | {form} | {one['bytes'] / 1e6:.1f} | {one['largest_difference']:.1e} | "
                    f"{100 * one['equal_pixels']:.4f} % | {found['torch_seconds']:.3f} | {one['seconds']:.3f} | "
                    f"{one['ratio']:.2f} |",
                    flush=True,
                )
    if options.out is not None:
        write_atomic(options.out, json.dumps(table, indent=1).encode())


if __name__ == "__main__":
    main()
