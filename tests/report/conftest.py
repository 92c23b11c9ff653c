"""A made-up run: every part of the report filled from a random generator."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from saot.data.classes import ClassSet, class_set
from saot.evaluate import METHODS, ConfusionMatrix, method_entry
from saot.recipes import RecipeDifference as Difference
from saot.report import MassMap, Panel, PatchStory, ReportData, SourcePatch

SKILL = {
    "oracle": 0.97,
    "grid_ceiling": 0.98,
    "saot_decoder": 0.93,
    "saot": 0.86,
    "saot_multi": 0.88,
    "ot": 0.55,
}


def street(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A crude street: sky, buildings, pavement, road, cars, trees; picture and mask (Cityscapes indices)."""
    mask = np.full((height, width), 10, np.uint8)
    left = 0
    while left < width:
        step = int(rng.integers(width // 10, width // 4))
        mask[int(height * rng.uniform(0.1, 0.45)) :, left : left + step] = rng.choice([2, 8])
        left += step
    mask[int(height * 0.62) :] = 1
    mask[int(height * 0.68) :] = 0
    for _ in range(4):
        y, x = int(height * rng.uniform(0.58, 0.75)), int(width * rng.uniform(0, 0.85))
        mask[y : y + height // 8, x : x + width // 9] = rng.choice([13, 15, 11, 18])
    mask[: height // 30] = 255
    shades = rng.integers(40, 220, (20, 3))
    image = shades[np.minimum(mask, 19)] + rng.normal(0, 12, (height, width, 1))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def guess(rng: np.random.Generator, mask: np.ndarray, skill: float, present: list[int]) -> np.ndarray:
    """The mask with a share of its 8 x 8 blocks replaced by other classes."""
    blocks = rng.uniform(size=(mask.shape[0] // 8 + 1, mask.shape[1] // 8 + 1)) > skill
    wrong = np.kron(blocks, np.ones((8, 8), bool))[: mask.shape[0], : mask.shape[1]]
    other = np.kron(rng.choice(present, blocks.shape), np.ones((8, 8), int))[: mask.shape[0], : mask.shape[1]]
    return np.where(wrong | (mask == 255), other, mask).astype(np.uint8)


def made_up_report(seed: int = 0, *, labels: bool = True, panels: int = 3, size: tuple[int, int] = (256, 512)):
    rng = np.random.default_rng(seed)
    classes: ClassSet = class_set("cityscapes19")
    names = [method.name for method in METHODS]
    present = [0, 1, 2, 5, 8, 10, 11, 13, 15, 18]
    confusions = {name: ConfusionMatrix(19) for name in names}
    shown: list[Panel] = []
    for index in range(panels):
        image, mask = street(rng, *size)
        predictions, scores = {}, {}
        for name in names:
            predictions[name] = guess(rng, mask, SKILL.get(name, 0.7), present)
            confusion = ConfusionMatrix(19)
            confusion.update(torch.from_numpy(predictions[name]), torch.from_numpy(mask))
            confusions[name] += confusion
            scores[name] = confusion.mean_iou() if labels else None
        shown.append(Panel(f"val/{index:04d}.png", image, mask if labels else None, predictions, scores))
    budgets = {"oracle": 1_204_551, "saot": 380, "saot_multi": 380, "saot_decoder": 380}
    entries = {
        name: method_entry(
            confusions[name] if labels else None,
            classes,
            budgets.get(name, 380 if "points" in name or name == "semantic_prior" else 0),
        )
        for name in names
    }
    first = shown[0].image
    grid = rng.uniform(0.1, 0.6, (size[0] // 16, size[1] // 16))
    grid[4:8, 10:14] = 1.0
    covered = (grid < 1.0).astype(np.float64)
    return ReportData(
        title="Labels from a game to a street",
        run={
            "settings": {"source": "scenes:game", "target": "scenes:street:train", "backbone": "filterbank"},
            "eval": "scenes:street:val" if labels else None,
            "preset": "paper-small",
            "seed": 0,
            "points": "20",
            "label_budget": 380,
            "commit": "0123abc",
            "stages": {
                "extract": {"seconds": 14.2, "peak_memory_bytes": 812_000_000},
                "fit cost": {"seconds": 74.0, "peak_memory_bytes": 1_600_000_000},
                "baselines": {"seconds": 41.7, "peak_memory_bytes": 2_300_000_000},
                "distil": {"seconds": 133.0, "peak_memory_bytes": 900_000_000},
                "evaluate": {"seconds": 9.1},
            },
        },
        metrics={
            "classes": list(classes.names),
            "split": "val" if labels else None,
            "images": panels,
            "methods": entries,
        },
        classes=classes,
        differences=(
            Difference("cost.steps", "14000", "600", "two cores instead of a GPU"),
            Difference("decoder.hidden", "1024", "256", "two cores instead of a GPU"),
            Difference(
                "refine.ema_decay",
                "0.9999",
                "0.998",
                "fewer steps: the same share of the first weights stays",
            ),
        ),
        panels=tuple(shown),
        confusions={"saot_decoder": confusions["saot_decoder"].counts} if labels else {},
        curves={
            "cost: loss": [(step, 2.0 * 0.995**step + 0.05 * rng.normal()) for step in range(600)],
            "cost: share unconverged": [(step, max(0.0, 0.1 - step / 3000)) for step in range(0, 600, 10)],
            "decoder: stage 1": [(step, float("nan") if step == 90 else 1 / (1 + step / 99)) for step in range(200)],
            "points: accuracy": [(0, 0.2), (1, 0.4)],
        },
        stories=tuple(
            PatchStory(
                "val/0000.png",
                first,
                (x, 150.0, x + 16.0, 166.0),
                13,
                13 if labels else None,
                0.83,
                tuple(
                    SourcePatch(
                        f"train/00{i:02d}.png",
                        shown[-1].image,
                        (60.0 * i, 160.0, 60.0 * i + 16, 176.0),
                        label,
                        s,
                    )
                    for i, (label, s) in enumerate([(13, 0.42), (13, 0.2), (14, 0.1), (255, 0.04), (2, 0.02)])
                ),
            )
            for x in (0.0, 240.0)
        ),
        maps=tuple(MassMap(panel.key, panel.image, covered, grid) for panel in shown[:2]),
        notes=("Of 600 solves, 3 ran out of iterations; see log.jsonl.",),
    )


@pytest.fixture(scope="session")
def made_up() -> Callable[..., ReportData]:
    return made_up_report
