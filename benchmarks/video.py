"""Labels of a video frame by frame, and joined to those of the frames before: mIoU and flicker on the built-in drives.

    saot demo --out runs/demo
    python benchmarks/video.py tune --run runs/demo                       # drives of scenes:street:train
    python benchmarks/video.py score --run runs/demo --share 0.5 --memory 4   # drives of scenes:street:val

Drives have ten frames a second and exact motion. Flicker: of the pixels that are followed along the true motion, seen
in both frames and with one true label, those whose predicted label changes. What each frame says by itself is made
once a drive and joined with every setting.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from saot.deploy import Own, SteadyRun, SteadySettings, steady_logits
from saot.evaluate import ConfusionMatrix, flicker_counts, predict_mask
from saot.label import open_run
from saot.match import StepSettings
from saot.scenes import render_frame
from saot.tables import ALL_WINGS

SHARES, MEMORIES, LOCALITIES = (0.3, 0.5, 0.7), (1, 4, 8), (0.005, 0.02, 0.08)


def frames_of(run: SteadyRun, split: str, drive: int, count: int) -> Iterator[tuple[Own, np.ndarray, np.ndarray]]:
    """What each frame says by itself, its true labels, and the motion to it."""
    for number in range(count):
        frame = render_frame("street", split, drive, number)
        yield run.own(frame.image, f"{split} {drive} {number}"), frame.labels, frame.motion


class Score:
    """Counts of one setting, over frames and drives."""

    def __init__(self, classes: int) -> None:
        self.matrix = ConfusionMatrix(classes)
        self.flicker = torch.zeros(2, dtype=torch.int64)
        self.before: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, mask: torch.Tensor, truth: torch.Tensor, motion: np.ndarray) -> None:
        self.matrix.update(mask, truth)
        if self.before is not None:
            self.flicker += flicker_counts((self.before[0], mask), (self.before[1], truth), motion)
        self.before = mask, truth

    def said(self) -> str:
        changed, followed = self.flicker.tolist()
        return f"mIoU {100 * self.matrix.mean_iou():.2f}  flicker {100 * changed / followed:.2f} %"


@torch.inference_mode()
def compare(folder: Path, split: str, drives: range, count: int, settings: list[SteadySettings]) -> None:
    opened = open_run(folder, ALL_WINGS)
    run = SteadyRun(**vars(opened))
    scores = {None: Score(len(run.classes.names)), **{one: Score(len(run.classes.names)) for one in settings}}
    for drive in drives:
        for score in scores.values():
            score.before = None
        seen: list[Own] = []
        for own, labels, motion in frames_of(run, split, drive, count):
            seen = [*seen, own][-1 - max(one.memory for one in settings) :]
            truth = torch.from_numpy(labels)
            for one, score in scores.items():
                logits = own.logits if one is None else steady_logits(seen[-1 - one.memory :], one)
                score.add(predict_mask(logits, own.grid, run.bias), truth, motion)
        print(f"{drive + 1} drives of {split}, {count} frames each", flush=True)
        for one, score in scores.items():
            name = "frame by frame" if one is None else (
                f"share {one.share}, memory {one.memory}, locality {one.between.locality}"
            )  # fmt: skip
            print(f"  {name:42}{score.said()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "score"))
    parser.add_argument("--run", type=Path, required=True, help="a finished run, such as that of `saot demo`")
    parser.add_argument("--drives", type=int, default=4)
    parser.add_argument("--frames", type=int, default=31)
    parser.add_argument("--share", type=float, default=SteadySettings().share)
    parser.add_argument("--memory", type=int, default=SteadySettings().memory)
    parser.add_argument("--locality", type=float, default=SteadySettings().between.locality)
    asked = parser.parse_args()
    if asked.what == "score":
        chosen = [SteadySettings(asked.share, asked.memory, StepSettings(locality=asked.locality))]
        compare(asked.run, "val", range(asked.drives), asked.frames, chosen)
        return
    grid = [SteadySettings(share, memory) for share in SHARES for memory in MEMORIES]
    grid += [
        SteadySettings(between=StepSettings(locality=one))
        for one in LOCALITIES
        if one != SteadySettings().between.locality
    ]
    compare(asked.run, "train", range(asked.drives), asked.frames, grid)


if __name__ == "__main__":
    main()
