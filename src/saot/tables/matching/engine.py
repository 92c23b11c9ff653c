"""Tables of matching: each row's answers pair by pair, kept as they come, then counted."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from saot.features import Backbone, FeatureStore, PromptSegmenter
from saot.label import store_folder
from saot.match import lifting_model
from saot.match.pairs import Pair, PairSet, open_pairs
from saot.tables.matching.adapters import adapted, trained_adapter
from saot.tables.matching.answers import Answer, Look, append_answer, flow_answer, key_point_answer, read_answers
from saot.tables.matching.counting import Counted
from saot.tables.matching.kept import Kept
from saot.tables.matching.model import MatchExperiment, MatchRow, MatchTableRequest
from saot.tables.matching.sequence import SequenceExperiment, sequence_table
from saot.tables.matching.sides import Lifter, Viewer, feature_note, network_of
from saot.tables.output import check_folder, write_table
from saot.tables.pieces import Progress
from saot.tables.results import ResultRow, SettingDifference, TableResult

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Job:
    """What all rows of a table share.

    Attributes:
        experiment, request: As asked.
        spec: Of the pairs.
        rows: Those that can be run, with what the request says of their adapters.
        viewer: Opens the pictures.
        folder: Of answers and adapters.
        store: Of features, masks and points.
        progress: As everywhere.
    """

    experiment: MatchExperiment
    request: MatchTableRequest
    spec: str
    rows: list[MatchRow]
    viewer: Viewer
    folder: Path
    store: Path
    progress: Progress | None


def match_table(
    experiment: MatchExperiment | SequenceExperiment,
    request: MatchTableRequest,
    out: Path,
    *,
    runs: Path | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> TableResult:
    """The table on the pairs at hand; the same call again goes on where it stopped.

    Raises:
        ValueError: If pairs are needed and none are given, or an input is not as it should be.
    """
    if isinstance(experiment, SequenceExperiment):
        return sequence_table(experiment, request, out, runs=runs, store=store, progress=progress)
    spec = request.pairs or experiment.pairs
    if not spec:
        raise ValueError(
            f"{experiment.name} needs pairs; pass --source {experiment.data or 'SPEC'}, see docs/matching.md"
        )
    check_folder(out, experiment.name)
    network = network_of(request)
    rows = [row for row in (row.asked(request) for row in experiment.rows) if row.runs]
    if not _drawn(spec) and not any(row.space == "distorted" or row.adapter for row in rows):
        request = replace(request, seeds=request.seeds[:1])  # nothing is drawn: another seed would be the same answers
    folder = runs or out / "runs"
    if request.pairs and request.training is None and any(row.adapter for row in rows):
        raise ValueError(
            f"{experiment.name} trains adapters: pass the pairs to train them on as --target beside --source "
            f"{request.pairs}"
        )
    place = store or folder / "features"
    viewer = _viewer(request, network, place, spec)
    job = _Job(experiment, request, spec, rows, viewer, folder, place, progress)
    opened = {seed: limited(open_pairs(seeded(spec, seed)), request.limit) for seed in request.seeds}
    sets = {
        seed: [pairs[number] for number in _told(range(len(pairs)), f"opening, seed {seed}", progress)]
        for seed, pairs in opened.items()
    }
    answers = {seed: _answers(job, pairs, seed) for seed, pairs in sets.items()}
    return _finish(experiment, request, spec, sets, answers, viewer, out)


def seeded(spec: str, seed: int) -> str:
    """The SPEC with this seed, where pairs are drawn; sets of their own stay as they are.

    Example:
        >>> seeded("scenes-pairs:game:val", 2), seeded("spair:/data/SPair-71k:test", 2)
        ('scenes-pairs:game:val,seed=2', 'spair:/data/SPair-71k:test')
    """
    if not _drawn(spec):
        return spec
    if "seed=" in spec:
        raise ValueError(f"expected pairs without a seed of their own, since --seeds gives it; got {spec}")
    return f"{spec}{',' if spec.count(':') > 1 else ':tps,' if spec.startswith('warps') else ':train,'}seed={seed}"


def annotated(pairs: Sequence[Pair]) -> str:
    """Stands for what is known of the pairs: places, boxes and sizes. Other annotations are other answers."""
    found = hashlib.sha256()
    for pair in pairs:
        for side in (pair.source, pair.target):
            found.update(f"{pair.key} {side.name} {side.size} {side.box}".encode())
            found.update(side.points.tobytes() + side.visible.tobytes())
    return found.hexdigest()


def _drawn(spec: str) -> bool:
    return spec.partition(":")[0] in ("scenes-pairs", "warps")


def limited(pairs: PairSet, limit: int | None) -> PairSet:
    """At most so many pairs, spread evenly over the set.

    Raises:
        ValueError: If the set is empty or the limit not positive.
    """
    if len(pairs) == 0 or (limit is not None and limit < 1):
        raise ValueError(f"expected pairs to match; {pairs.spec} has {len(pairs)} and the limit is {limit}")
    return pairs.spread(limit)


def _viewer(request: MatchTableRequest, network: Backbone, store: Path, spec: str) -> Viewer:
    sam = None if request.sam is None else PromptSegmenter(request.sam, device=request.device)
    models = [request.structure, None if sam is None else sam.identity]
    kept = _features(network, store, spec)
    return Viewer(network, kept, sam, _lifter(request), request.device, models, Kept(store / "masks-and-points"))


def _features(network: Backbone, store: Path, spec: str) -> FeatureStore | None:
    """Where a set's features lie; pictures that are drawn have no name to keep."""
    if _drawn(spec):
        return None
    return FeatureStore(store_folder(store / _digest([network.key.to_json()]), spec), network.key)


def _lifter(request: MatchTableRequest) -> Lifter | None:
    if request.structure is None:
        return None
    model = lifting_model(request.structure, request.device)
    if model is None:
        raise ValueError(f"expected --structure as depth:MODEL, metric:MODEL or vggt; got {request.structure!r}")
    return model


def _answers(job: _Job, pairs: Sequence[Pair], seed: int) -> dict[str, dict[str, Answer]]:
    """Answers of each row, by label and key of the pair; what is on disk is not made again."""
    experiment, viewer = job.experiment, job.viewer
    made_of = [experiment.kind, job.spec, viewer.network.key.to_json(), seed, viewer.models, annotated(pairs)]
    if job.request.device != "cpu" and any(column.quantity != "pck" for column in experiment.columns):
        made_of.append(job.request.device)  # another device costs something else
    files = {row.label: job.folder / f"{_digest([row.identity(experiment.base), *made_of])}.jsonl" for row in job.rows}
    known = {path: read_answers(path) for path in files.values()}  # rows of the same identity share one
    keys = {pair.key for pair in pairs}
    wanted = [row for row in job.rows if not keys <= set(known[files[row.label]])]
    looks = {row.label: _look(job, row, seed) for row in wanted}
    for pair in _told(pairs, f"pairs, seed {seed}", job.progress):
        if all(pair.key in known[files[row.label]] for row in wanted):
            continue
        pictures = viewer.see(pair.source), viewer.see(pair.target)
        for row in wanted:
            path, look = files[row.label], looks[row.label]
            if pair.key in known[path]:
                continue
            settings = row.settings(experiment.base)
            if experiment.kind == "flow":
                answer = flow_answer(settings, pair, pictures, look, viewer.device)
            else:
                answer = key_point_answer(row, settings, pair, pictures, look, viewer)
            append_answer(path, pair.key, answer)
            known[path][pair.key] = answer
    return {label: {key: answer for key, answer in known[path].items() if key in keys} for label, path in files.items()}


def _told(things: Sequence[T], stage: str, progress: Progress | None) -> Iterator[T]:
    """The things one by one, with a word on how far it is."""
    for number, thing in enumerate(things):
        yield thing
        if progress is not None:
            progress(stage, number + 1, len(things))


def _look(job: _Job, row: MatchRow, seed: int) -> Look:
    """What the row's matcher sees of a picture."""
    viewer, plan = job.viewer, row.adapter
    if plan is None:
        return lambda seen: viewer.side(seen, row, seed)
    pairs = _training_pairs(seeded(plan.pairs, seed), plan.count)
    training = viewer if plan.pairs == job.spec else viewer.beside(_features(viewer.network, job.store, plan.pairs))
    adapter = trained_adapter(plan, pairs, training, job.folder, seed, job.progress)
    return lambda seen: adapted(adapter, viewer.side(seen, row, seed))


@lru_cache(maxsize=2)
def _training_pairs(spec: str, count: int | None) -> tuple[Pair, ...]:
    """Made once for all adapters of a table."""
    pairs = open_pairs(spec).spread(count)
    return tuple(pairs[number] for number in range(len(pairs)))


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _finish(
    experiment: MatchExperiment,
    request: MatchTableRequest,
    spec: str,
    sets: dict[int, list[Pair]],
    answers: dict[int, dict[str, dict[str, Answer]]],
    viewer: Viewer,
    out: Path,
) -> TableResult:
    counted = Counted(experiment, sets, answers, viewer.parameters)
    rows = tuple(
        ResultRow(
            row.label,
            {column.key: counted.cell(row, column) for column in experiment.columns},
            row.quoted,
            row.section,
        )
        for row in experiment.rows
    )
    notes = [_note(row.asked(request)) for row in experiment.rows if not row.quoted]
    result = TableResult(
        name=experiment.name,
        title=experiment.title,
        location=experiment.location,
        columns=tuple((column.key, column.title) for column in experiment.columns),
        rows=rows,
        reference=experiment.reference,
        images=sum(len(pairs) for pairs in sets.values()),
        notes=(*experiment.notes, *notes, feature_note(viewer.network)),
        differences=(
            SettingDifference("data", experiment.data or "ours", spec, "as asked"),
            SettingDifference("features", "as above", viewer.network.key.to_json(), "as asked"),
            SettingDifference("pairs", "all", f"{request.limit or 'all'}, seeds {list(request.seeds)}", "as asked"),
        ),
        request=request.to_dict(),
        measure="PCK",
        counted="pairs",
    )
    write_table(out, result)
    return result


def _note(row: MatchRow) -> str:
    if not row.runs:
        return f"{row.label}: not trained; pass training pairs as --target, such as spair:PATH:trn."
    text = f"{row.label}: annotation used beyond the pictures: {row.annotation()}."
    return text if row.adapter is None else f"{text} {row.adapter.words()}"
