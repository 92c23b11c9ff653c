"""The report's pictures as data URIs: small enough to mail, the same for the same run."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from saot.data import IGNORE_INDEX, ClassSet
from saot.evaluate import method_named
from saot.report import figures
from saot.report.contents import Box, MassMap, Panel, PatchStory
from saot.report.export import palette_png

ERROR_COLOR = (255, 255, 255)  # over a mask: no common class set has white
ERROR_RED = (214, 20, 60)  # over a grey picture


def panel_view(panel: Panel, order: Sequence[str], classes: ClassSet, width: int) -> dict[str, Any]:
    """A picture, its masks and its errors; the photograph once, the masks as palette PNG over it."""
    masks = dict(panel.predictions) if panel.truth is None else {"truth": panel.truth, **panel.predictions}
    for name, mask in masks.items():
        if mask.shape != panel.image.shape[:2]:
            raise ValueError(
                f"mask {name} of {panel.key} is {mask.shape} but the picture is {panel.image.shape[:2]}; "
                "upsample the mask to the picture"
            )
    small = {name: figures.shrink_mask(mask, width) for name, mask in masks.items()}
    truth = small.pop("truth", None)
    shots = []
    for name in order:
        if name not in small:
            continue
        wrong, red, share = "", "", None
        if truth is not None and panel.truth is not None:
            share = _missed(masks[name], panel.truth)
            missed = (small[name] != truth) & (truth != IGNORE_INDEX)
            errors = np.where(missed, 0, IGNORE_INDEX).astype(np.uint8)
            wrong = figures.png_uri(palette_png(errors, [ERROR_COLOR], transparent_ignore=True))
            red = figures.png_uri(palette_png(errors, [ERROR_RED], transparent_ignore=True))
        shots.append(
            {
                "method": method_named(name),
                "miou": panel.miou.get(name),
                "mask": figures.png_uri(palette_png(small[name], classes.colors, transparent_ignore=True)),
                "errors": wrong,
                "error_map": red,
                "missed": share,
            }
        )
    return {
        "key": panel.key,
        "image": figures.jpeg_uri(figures.shrink(panel.image, width)),
        "ratio": f"{panel.image.shape[1]} / {panel.image.shape[0]}",
        "truth": "" if truth is None else figures.png_uri(palette_png(truth, classes.colors, transparent_ignore=True)),
        "shots": shots,
        "legend": _legend([masks[name] for name in ("truth", *order) if name in masks][:2], classes),
    }


def _missed(mask: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"]) -> float | None:
    """Share of the labelled pixels that have another class; None where none is labelled."""
    labelled = truth != IGNORE_INDEX
    return float((mask != truth)[labelled].mean()) if labelled.any() else None


def _legend(masks: Sequence[UInt8[np.ndarray, "h w"]], classes: ClassSet) -> list[tuple[str, str]]:
    """Name and CSS colour of each class that occurs."""
    seen = sorted({int(label) for mask in masks for label in np.unique(mask) if label != IGNORE_INDEX})
    return [(classes.names[label], f"#{bytes(classes.colors[label]).hex()}") for label in seen]


def _crop(
    image: UInt8[np.ndarray, "h w 3"],
    box: Box,
    width: int,
    context: float = 5.0,
) -> dict[str, Any]:
    """The surroundings of a box as a square picture, and the box within it in percent of its sides."""
    height, length = image.shape[:2]
    side = max(16, min(round(context * max(box[2] - box[0], box[3] - box[1])), height, length))
    left = min(max(0, round((box[0] + box[2] - side) / 2)), max(0, length - side))
    top = min(max(0, round((box[1] + box[3] - side) / 2)), max(0, height - side))
    cut = np.ascontiguousarray(image[top : top + side, left : left + side])
    moved = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return {"image": figures.jpeg_uri(figures.shrink(cut, width)), "box": _box(moved, cut)}


def _box(box: Box, image: UInt8[np.ndarray, "h w 3"]) -> str:
    """CSS that lays a rectangle over a picture."""
    height, width = image.shape[:2]
    left, top = 100 * box[0] / width, 100 * box[1] / height
    return (
        f"left:{left:.2f}%;top:{top:.2f}%;width:{100 * box[2] / width - left:.2f}%;"
        f"height:{100 * box[3] / height - top:.2f}%"
    )


def story_view(story: PatchStory, classes: ClassSet, width: int) -> dict[str, Any]:
    """A target patch in its picture, enlarged, and the source patches that sent it mass."""
    return {
        "key": story.target_key,
        "image": figures.jpeg_uri(figures.shrink(story.target_image, width)),
        "box": _box(story.box, story.target_image),
        "crop": _crop(story.target_image, story.box, 160),
        "predicted": story.predicted,
        "truth": story.truth if story.truth is not None and story.truth < len(classes.names) else None,
        "confidence": story.confidence,
        "sources": [
            {
                "key": patch.key,
                "crop": _crop(patch.image, patch.box, 160),
                "label": patch.label if patch.label < len(classes.names) else None,
                "share": patch.share,
            }
            for patch in story.sources
        ],
    }


def map_view(item: MassMap, width: int) -> dict[str, Any]:
    """Where a picture is uncovered, and how much of each token is unmatched."""
    image = figures.shrink(item.image, width)
    finite = item.unmatched[np.isfinite(item.unmatched)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return {
        "key": item.key,
        "covered_share": float(item.covered.mean()),
        "uncovered": figures.jpeg_uri(figures.mass_map(image, 1 - item.covered)),
        "unmatched": figures.jpeg_uri(figures.mass_map(image, item.unmatched, low, high)),
        "low": low,
        "high": high,
        "mean": float(finite.mean()) if finite.size else math.nan,
    }
