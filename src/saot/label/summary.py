"""What a run says of itself: run.json, and what the report shows: pictures, curves, where label mass came from."""

import json
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saot.data import PatchGrid, patch_labels
from saot.label.data import Source
from saot.label.inputs import Inputs, digest
from saot.label.scoring import Compare, Contest, MethodScores, confusion_of, joined_facts, spread_pictures
from saot.label.settings import RunSettings, run_differences
from saot.recipes import RecipeDifference
from saot.report import MassMap, Panel, PatchStory, ReportData, SourcePatch
from saot.runs import RUN_FORMAT, Workspace, commit_of_code, device_name, generator_for, versions
from saot.transfer import solve_pair, transfer_labels

PACKAGES = ("saot", "torch", "numpy", "safetensors", "pillow", "transformers")
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
    contest: Contest,
    run: dict[str, Any],
    metrics: dict[str, Any],
    scores: dict[str, MethodScores],
    calibration: dict[str, Any] | None = None,
) -> ReportData:
    """Everything `write_report` needs."""
    pictures = spread_pictures(len(contest.evaluation))
    shown = pictures[:STORY_PICTURES] if "saot" in scores else []  # only where a cost was learned
    stories, maps = _transport_pictures(contest, shown)
    return ReportData(
        title=f"Labels carried from {run['source']} to {run['target']}",
        run=run,
        metrics=metrics,
        classes=contest.data.classes,
        differences=tuple(RecipeDifference(**each) for each in run["differences_from_paper"]),
        panels=tuple(_panel(contest, number, scores) for number in pictures),
        confusions={
            name: result.matrix.counts
            for name, result in scores.items()
            if result.matrix is not None and name == "saot_decoder"
        },
        curves=_curves(contest.bench.space),
        stories=stories,
        maps=maps,
        notes=tuple(run["notes"]),
        calibration=calibration,
        folder=str(contest.bench.space.root),
    )


def _panel(contest: Contest, number: int, scores: dict[str, MethodScores]) -> Panel:
    evaluation = contest.evaluation
    truth = None if evaluation.truth is None else evaluation.truth.mask(number)
    masks = {name: scores[name].masks[number].numpy() for name in SHOWN if name in scores}
    means: dict[str, float | None] = {}
    for name in masks:
        counts = scores[name].counts
        value = float("nan") if counts is None else confusion_of(counts[number]).mean_iou()
        means[name] = None if value != value else value
    images = evaluation.domain.images
    return Panel(images.keys[number], images.image(number), truth, masks, means)


def _curves(space: Workspace) -> dict[str, list[tuple[float, float]]]:
    """Training curves, thinned to at most 300 means each."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for stage, path in space.logs().items():
        kind = path.stem
        names = ("points", "entropy", "reached") if kind == "cost" else ("loss",)
        if kind != "cost" and not kind.startswith("saot_decoder"):
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


def _transport_pictures(contest: Contest, pictures: list[int]) -> tuple[tuple[PatchStory, ...], tuple[MassMap, ...]]:
    """For a few pictures: some patches with the sources of their label, and what was not matched."""
    if not pictures:
        return (), ()
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    cost, similar = contest.cost().cost, contest.similar("test")
    stories: list[PatchStory] = []
    maps: list[MassMap] = []
    for number in pictures:
        chosen = int(similar[number].argmax())
        labels = data.source.labels[chosen]
        kept = (labels != 255).nonzero().squeeze(-1)
        source, classes = data.source.labelled(chosen)
        target, grid = domain.tokens(number), domain.grid(number)
        with torch.no_grad():
            places = data.source.places(chosen), domain.places(number)
            result = solve_pair(source, classes, target, cost, bench.recipe.transport, places=places)
            transfer = transfer_labels(result, classes, data.num_classes)
        weight = 1.0 / len(target)
        unmatched = (1.0 - result.marginals[1] / weight).clamp(0.0, 1.0)
        key, image = domain.images.keys[number], domain.images.image(number)
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
        if contest.evaluation.truth is not None:
            truth = patch_labels(contest.evaluation.truth.mask(number), grid, num_classes=data.num_classes)
        for token in _story_tokens(bench.seed, number, transfer.probs, transfer.covered):
            sources = _sources(data.source, result, chosen, kept, token)
            actual = None if truth is None or int(truth[token]) == 255 else int(truth[token])
            probs = transfer.probs[token]
            stories.append(
                PatchStory(key, image, token_box(grid, token), int(probs.argmax()), actual, float(probs.max()), sources)
            )
    return tuple(stories), tuple(maps)


def _story_tokens(seed: int, number: int, probs: Tensor, covered: Tensor) -> list[int]:
    """Covered tokens of different predicted classes, drawn by the seed."""
    generator = generator_for(seed, "stories", number)
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


def _sources(source: Source, result, chosen: int, kept: Tensor, token: int) -> tuple[SourcePatch, ...]:
    """The source patches that sent this token most of its mass."""
    support = result.support
    entries = (support.col == token).nonzero().squeeze(-1)
    mass = result.plan_values[entries]
    total = float(mass.sum())
    if total <= 0:
        return ()
    images, grid = source.domain.images, source.domain.grid(chosen)
    image = images.image(chosen)
    patches = []
    for place in mass.argsort(descending=True)[:SOURCES_PER_STORY].tolist():
        patch = int(kept[int(support.row[entries[place]])])
        patches.append(
            SourcePatch(
                images.keys[chosen],
                image,
                token_box(grid, patch),
                int(source.labels[chosen][patch]),
                float(mass[place]) / total,
            )
        )
    return tuple(patches)


def run_record(
    settings: RunSettings,
    inputs: Inputs,
    contest: Contest,
    scores: Mapping[str, MethodScores],
    left_out: Mapping[str, str],
    compare: Compare,
    estimate: Mapping[str, Any],
    began: float,
) -> dict[str, Any]:
    """run.json: everything but the scores."""
    space, data, recipe = contest.bench.space, contest.data, contest.bench.recipe
    counts = {name: len(inputs.found[name]) for name in ("source", "target")}
    early = inputs.early(next(iter(inputs.sizes)))
    seen = inputs.backbone.input_size(*inputs.target.size(0))
    found, sizes, bias = inputs.found, contest.decoder().facts.get("sizes", {}), scores["saot_decoder"].bias
    made_of = {"source": dict(inputs.source.images.about), "target": dict(inputs.target.about)}
    return {
        "format": RUN_FORMAT,
        "estimate": dict(estimate),
        "settings": settings.to_dict(),
        "source": settings.source,
        "target": settings.target,
        "eval": settings.eval,
        "compare": compare,
        "backbone": settings.backbone,
        "preset": recipe.name,
        "points": settings.points,
        "seed": settings.seed,
        "label_budget": data.points.budget,
        "differences_from_paper": [vars(each) for each in run_differences(settings, counts, seen)],
        "divided": inputs.divided,
        "features": json.loads(inputs.backbone.key.to_json()) if early is None else json.loads(early.key.to_json()),
        "sizes": [
            {"size": size, "features": json.loads((inputs.early(size) or one).key.to_json()), **sizes[str(size)]}
            for size, one in inputs.sizes.items()
            if str(size) in sizes  # of several
        ],
        "data": {
            name: {"images": len(found[name]), "sha256": digest(found[name])} for name in ("source", "target", "eval")
        },
        "pictures": {name: about for name, about in made_of.items() if about},
        "stages": space.all_stages(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "trials": joined_facts(scores, "trials"),
        "adjustment": joined_facts(scores, "adjustment"),
        "decoder_bias": None if bias is None else bias.tolist(),
        "transport": _transports(contest, scores),
        "taught": contest.decoder().facts.get("taught", {}),
        "notes": [*inputs.left_out, *_notes(contest, scores, left_out)],
        "versions": versions(PACKAGES),
        "commit": commit_of_code(),
        "device": device_name(contest.bench.device),
        "python": platform.python_version(),
    }


def _transports(contest: Contest, scores: Mapping[str, MethodScores]) -> dict[str, dict[str, Any]]:
    """What the transports of a run have to say of themselves."""
    decoder, cost = contest.decoder().facts, {}
    if "saot" in scores or "pseudo_uncovered_share" in decoder:
        cost["converged_share"] = contest.cost().converged_share
    if "pseudo_uncovered_share" in decoder:
        cost["pseudo_uncovered_share"] = decoder["pseudo_uncovered_share"]
    said = {name: scores[name].facts if name in scores else {} for name in ("saot", "saot_multi", "ot")}
    return {
        "cost": cost,
        **{
            name: {key: value for key, value in facts.items() if key in ("uncovered_share", "statuses")}
            for name, facts in said.items()
        },
    }


def _notes(contest: Contest, scores: Mapping[str, MethodScores], left_out: Mapping[str, str]) -> list[str]:
    """What a reader of the scores should know."""
    notes = [note for one in scores.values() for note in one.facts.get("notes", ())]
    if "oracle" in left_out:
        notes.append(f"The oracle is left out: {left_out['oracle']}.")
    if contest.evaluation.declared:
        notes.append(
            "Evaluation pictures are target pictures too, so their points were declared: scores are optimistic, and "
            "no logit adjustment was chosen."
        )
    if contest.members and bool(contest.data.points.tokens.held_out.any()):
        notes.append(
            "The weights of the input sizes were learned on the held-out points, so the expected mIoU and the "
            "thresholds of --abstain, which are judged on the same points, are somewhat too good."
        )
    unknown = contest.data.points.unknown
    if unknown:
        notes.append(f"Points name classes the source never shows ({', '.join(unknown)}); transport cannot carry them.")
    return notes
