"""What the report shows of a run: pictures, curves, where label mass came from."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saot.data import PatchGrid, patch_labels
from saot.label.job import Job
from saot.label.paper import learned_cost, similarities
from saot.label.scoring import MethodScores, confusion_of, panel_pictures
from saot.recipes import differences
from saot.report import Difference, MassMap, Panel, PatchStory, ReportData, SourcePatch
from saot.runs import generator_for
from saot.transfer import solve_pair, transfer_labels

SHOWN = (
    "nearest_neighbor",
    "uot",
    "saot",
    "saot_multi",
    "saot_decoder",
    "best_no_transport",
    "mlp_points_ema",
    "mlp",
    "oracle",
    "grid_ceiling",
)
STORIES_PER_PICTURE = 2
STORY_PICTURES = 3
SOURCES_PER_STORY = 4


def report_data(
    job: Job,
    run: dict[str, Any],
    metrics: dict[str, Any],
    scores: dict[str, MethodScores],
    calibration: dict[str, Any] | None = None,
) -> ReportData:
    """Everything `write_report` needs."""
    pictures = panel_pictures(job)
    stories, maps = _transport_pictures(job, pictures[:STORY_PICTURES])
    return ReportData(
        title=f"Labels carried from {job.settings.source} to {job.settings.target}",
        run=run,
        metrics=metrics,
        classes=job.classes,
        differences=tuple(Difference(d.field, d.paper, d.used, d.reason) for d in differences(job.recipe)),
        panels=tuple(_panel(job, number, scores) for number in pictures),
        confusions={
            name: result.counts
            for name, result in scores.items()
            if result.counts is not None and name == "saot_decoder"
        },
        curves=_curves(job),
        stories=stories,
        maps=maps,
        notes=tuple(run["notes"]),
        calibration=calibration,
    )


def _panel(job: Job, number: int, scores: dict[str, MethodScores]) -> Panel:
    truth = None if job.truth is None else job.truth.mask(number)
    masks = {name: scores[name].masks[number].numpy() for name in SHOWN if name in scores}
    means: dict[str, float | None] = {}
    for name in masks:
        counts = scores[name].shown.get(number)
        value = float("nan") if counts is None else confusion_of(counts).mean_iou()
        means[name] = None if value != value else value
    return Panel(job.test.images.keys[number], job.test.images.image(number), truth, masks, means)


def _curves(job: Job) -> dict[str, list[tuple[float, float]]]:
    """Training curves, thinned to at most 300 means each."""
    curves: dict[str, list[tuple[float, float]]] = {}
    wanted = {"cost": ("points", "entropy", "reached")}
    wanted |= {path.stem: ("loss",) for path in sorted(job.space.work("log").glob("saot_decoder*.jsonl"))}
    for stage, names in wanted.items():
        path = job.space.work("log", f"{stage}.jsonl")
        if not path.exists():
            continue
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for name in names:
            values = [(r["step"], r[name]) for r in records if name in r]
            if values:
                curves[f"{stage}: {name}"] = thinned(values)
    return curves


def thinned(values: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    width = max(1, -(-len(values) // most))
    chunks = [values[k : k + width] for k in range(0, len(values), width)]
    return [(chunk[len(chunk) // 2][0], sum(v for _, v in chunk) / len(chunk)) for chunk in chunks]


def token_box(grid: PatchGrid, token: int) -> tuple[float, float, float, float]:
    """The pixels of the picture under a token, (x0, y0, x1, y1)."""
    row, column = divmod(token, grid.width)
    x, y = grid.image_width / grid.input_width, grid.image_height / grid.input_height
    size = grid.patch_size
    return (
        column * size * x,
        row * size * y,
        min((column + 1) * size * x, float(grid.image_width)),
        min((row + 1) * size * y, float(grid.image_height)),
    )


def _transport_pictures(job: Job, pictures: list[int]) -> tuple[tuple[PatchStory, ...], tuple[MassMap, ...]]:
    """For a few pictures: some patches with the sources of their label, and what was not matched."""
    cost, similar = learned_cost(job), similarities(job, "test")
    stories: list[PatchStory] = []
    maps: list[MassMap] = []
    for number in pictures:
        chosen = int(similar[number].argmax())
        labels = job.source_labels[chosen]
        kept = (labels != 255).nonzero().squeeze(-1)
        source, classes = job.labelled_source(chosen)
        target, grid = job.test.tokens(number), job.test.grid(number)
        with torch.no_grad():
            result = solve_pair(source, classes, target, cost, job.recipe.transport)
            transfer = transfer_labels(result, classes, job.num_classes)
        weight = 1.0 / len(target)
        unmatched = (1.0 - result.marginals[1] / weight).clamp(0.0, 1.0)
        key, image = job.test.images.keys[number], job.test.images.image(number)
        shape = (grid.height, grid.width)
        maps.append(
            MassMap(
                key,
                image,
                result.covered.float().cpu().view(shape).numpy().astype(np.float32),
                unmatched.float().cpu().view(shape).numpy().astype(np.float32),
            )
        )
        truth = None
        if job.truth is not None:
            truth = patch_labels(job.truth.mask(number), grid, num_classes=job.num_classes)
        for token in _story_tokens(job, number, transfer.probs, transfer.covered):
            sources = _sources(job, result, chosen, kept, labels, token)
            actual = None if truth is None or int(truth[token]) == 255 else int(truth[token])
            probs = transfer.probs[token]
            stories.append(
                PatchStory(key, image, token_box(grid, token), int(probs.argmax()), actual, float(probs.max()), sources)
            )
    return tuple(stories), tuple(maps)


def _story_tokens(job: Job, number: int, probs: Tensor, covered: Tensor) -> list[int]:
    """Covered tokens of different predicted classes, drawn by the seed."""
    generator = generator_for(job.settings.seed, "stories", number)
    order = torch.randperm(len(probs), generator=generator).tolist()
    chosen, seen = [], set()
    for token in order:
        label = int(probs[token].argmax())
        if bool(covered[token]) and label not in seen:
            chosen.append(token)
            seen.add(label)
        if len(chosen) == STORIES_PER_PICTURE:
            break
    return chosen


def _sources(job: Job, result, chosen: int, kept: Tensor, labels: Tensor, token: int) -> tuple[SourcePatch, ...]:
    """The source patches that sent this token most of its mass."""
    support = result.support
    entries = (support.col == token).nonzero().squeeze(-1)
    mass = result.plan_values[entries]
    total = float(mass.sum())
    if total <= 0:
        return ()
    image, grid = job.source.images.image(chosen), job.source.grid(chosen)
    patches = []
    for place in mass.argsort(descending=True)[:SOURCES_PER_STORY].tolist():
        source = int(kept[int(support.row[entries[place]])])
        patches.append(
            SourcePatch(
                job.source.images.keys[chosen],
                image,
                token_box(grid, source),
                int(labels[source]),
                float(mass[place]) / total,
            )
        )
    return tuple(patches)
