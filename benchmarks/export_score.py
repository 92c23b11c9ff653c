"""The files that `saot export` makes of a run, beside the run: size, mIoU on labelled pictures, time a picture.

    python benchmarks/export_score.py runs/mine camvid:DATA:dusk-eval.txt [--pictures 20] [--threads 2] --out runs/files

Each picture is labelled by all of them in turn, mask and confidence; times are medians without reading and resizing.
Run it alone for them. Files that are there already are taken as they are.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from saot.deploy import export_run, exportable, opened
from saot.evaluate import ConfusionMatrix, predict_confidence, predict_mask
from saot.features import extract, resize_image
from saot.label import FinishedRun
from saot.tables import ALL_WINGS

KINDS = (("onnx", "float32"), ("onnx", "int8"), ("torch", "float32"), ("torch", "bf16"))


def of_run(run: FinishedRun, mask_size: tuple[int, int], picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = extract(run.backbone, picture, "")
    grid = replace(features.grid, image_height=mask_size[0], image_width=mask_size[1])
    logits = run.logits_of([features])
    return predict_mask(logits, grid, run.bias).numpy(), predict_confidence(logits, grid, run.bias).numpy()


def main() -> None:
    """One Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("spec", help="labelled pictures of one size")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = exportable(options.run, "torch", ALL_WINGS)
    data = ALL_WINGS.labelled(options.spec, run.classes)
    count = min(options.pictures, len(data))
    mask_size = data.images.size(0)
    sides = run.backbone.input_size(*mask_size)
    options.out.mkdir(parents=True, exist_ok=True)
    labellers, sizes = {"the run itself": partial(of_run, run, mask_size)}, {"the run itself": 0.0}
    for form, precision in KINDS:
        place = options.out / f"{form}-{precision}"
        if not place.exists():
            size = "x".join(map(str, mask_size))
            export_run(options.run, form, place, mask_size=size, wings=ALL_WINGS, precision=precision)
        name = f"{form}, {precision}"
        sizes[name] = place.stat().st_size / 1e6
        labellers[name] = opened(place, form, options.threads, ("mask", "confidence"))
    matrices = {name: ConfusionMatrix(len(run.classes.names)) for name in labellers}
    seconds: dict[str, list[float]] = {name: [] for name in labellers}
    equal = dict.fromkeys(labellers, 0.0)
    for number in range(count):
        picture = resize_image(data.images.image(number), sides, run.backbone.key.resize)
        truth, own = data.mask(number), None
        for name, label in labellers.items():
            began = time.perf_counter()
            mask = label(picture)[0]
            seconds[name].append(time.perf_counter() - began)
            own = mask if own is None else own
            equal[name] += float((mask == own).mean()) / count
            matrices[name].update(torch.from_numpy(mask), torch.as_tensor(truth))
    base = statistics.median(seconds["the run itself"])
    print(f"{count} pictures of {options.spec}, {options.threads} threads")
    print(
        "| file | MB | equal pixels | mIoU | s a picture | the run / it |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in labellers:
        taken = statistics.median(seconds[name])
        cells = [f"{sizes[name]:.1f}", f"{equal[name]:.3%}", f"{100 * matrices[name].mean_iou():.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {taken:.2f} | {base / taken:.2f} |")
    print(json.dumps({name: statistics.median(values) for name, values in seconds.items()}))


if __name__ == "__main__":
    main()
