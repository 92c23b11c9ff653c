"""Tables of matching: rows are ways of matching, columns how many key points or pixels came right, and the cost."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from saot.features import Backbone, FeatureStore, PromptSegmenter, part_widths
from saot.label import store_folder
from saot.match import Basis, adapted, as_it_is, lifting_model, pair_basis, read_dims
from saot.match.pairs import OutsidePicture, Pair, PairSet, open_pairs
from saot.recipes import RecipeDifference
from saot.tables.bootstrap import PairedDifference
from saot.tables.experiment import Column, Experiment, Pck, Row
from saot.tables.label_room import Progress
from saot.tables.match import drawing
from saot.tables.match.adapter_training import trained_adapter
from saot.tables.match.counting import bootstrap_hits, cost, counting, flow_value, hits_of, pck_value
from saot.tables.match.pair_results import (
    Look,
    append_result,
    flow_result,
    key_point_result,
    read_results,
)
from saot.tables.match.viewer import (
    FolderLifter,
    Lifter,
    NetworkOutputs,
    Viewer,
    feature_note,
    label_network,
    network_of,
)
from saot.tables.match.way import Way, on_the_set, way_of
from saot.tables.request import Request
from saot.tables.results import TableResult
from saot.tables.table import Places, Planned, Table, Value, digest, same_names

T = TypeVar("T")
RECORDED = {
    "pairs": "source",
    **same_names("backbone weights size layers final_norm"),
    "training": "target",
    **same_names("seeds sam structure masks label_backbone counts held_out pca remove_position limit device"),
}


SETS = {
    "spair": "SPair-71k",
    "pf-pascal": "PF-PASCAL",
    "pf-willow": "PF-WILLOW",
    "tss": "TSS",
    "ap10k": "AP-10K",
    "scenes-pairs": "generated pairs",
    "warps": "warped pictures",
}  # what stands for {set} in a title

ATTRIBUTED = ("spair", "scenes-pairs")  # sets that say how far viewpoints are apart, and the like

DIGITS = {"memory": 0, **dict.fromkeys(("seconds", "feature_seconds", "total_seconds"), 2)}


class Matching(Table):
    """A table of GWOT or Shape-of-You, or one of ours like it. A run is one file of results, pair by pair."""

    words = "matching"
    recorded = RECORDED
    digits = DIGITS
    measure = "PCK"
    counted = "pairs"

    def __init__(self, experiment: Experiment, request: Request, places: Places) -> None:
        spec = request.source or experiment.source
        if not spec:
            raise ValueError(
                f"{experiment.name} needs pairs; pass --source {experiment.data or 'SPEC'}, see docs/matching.md"
            )
        network = network_of(request)
        whole, experiment = experiment, without_exact_depth(experiment, spec)
        self.ways = {
            row.label: on_the_set(way_of(experiment, row, request), _drawn(spec), request.structure)
            for row in experiment.rows
            if not row.quoted
        }
        ways = [way for way in self.ways.values() if way.runs]
        self.spec = spec
        if not any(self._draws(way) for way in ways):
            request = replace(request, seeds=request.seeds[:1])  # nothing is drawn: another seed would be the same
        if request.source and not request.target and any(way.adapter for way in ways):
            raise ValueError(
                f"{experiment.name} trains adapters: pass the pairs to train them on as --target beside --source {spec}"
            )
        opened = {seed: limited(open_pairs(seeded(spec, seed)), request.limit) for seed in request.seeds}
        shown = {category for pairs in opened.values() for category in pairs.categories}
        super().__init__(of_the_set(experiment, spec, shown), request, places)
        self.viewer = _viewer(request, network, places.store, spec)
        self.label_network = label_network(request)
        widths = part_widths(network)
        self.dims = None if request.pca is None else read_dims(request.pca, widths)
        self.pairs: dict[int, list[Pair]] = {}
        left_out = [row.label for row in whole.rows if row not in experiment.rows]
        self.left_out = [f"Not made, since these pairs come without depth: {', '.join(left_out)}."] if left_out else []
        self.training_left_out: list[str] = []
        for seed, pairs in opened.items():
            numbers = _told(range(len(pairs)), f"opening, seed {seed}", places.progress)
            self.pairs[seed], sentence = usable(pairs, numbers, request.strict)
            self.left_out += [sentence] if sentence and sentence not in self.left_out else []
        self.flow = any(column.quantity == "flow" for column in experiment.columns)

    def plan(self, row: Row, column: Column, seed: int) -> Planned | None:
        way = self.ways.get(row.label)
        if way is None or not way.runs:
            return None
        if not self._draws(way):
            seed = self.request.seeds[0]  # another seed would be the same
        kind, key = "flow" if self.flow else "points", self.viewer.network.key.to_json()
        made_of = [kind, self.spec, key, seed, self.viewer.models]
        if way.adapter is not None and self.label_network is not None:
            made_of.append(self.label_network.key.to_json())
        if self.dims is not None and way.adapter is None:
            made_of.append(["pca", self.dims])
        if self.request.device != "cpu" and any(c.quantity not in ("pck", "flow") for c in self.experiment.columns):
            made_of.append(self.request.device)  # another device costs something else
        return Planned(digest([way.identity(), *made_of]), way, str(column.quantity), column.of, row.label, seed)

    def _draws(self, way: Way) -> bool:
        """Whether anything about a way's results is drawn."""
        return _drawn(self.spec) or way.space == "distorted" or way.adapter is not None

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        """Results of each way of matching; what is on disk is not made again."""
        for seed, pairs in self.pairs.items():
            plans = {name: group[0] for name, group in wanted.items() if group[0].seed == seed}
            known = {name: read_results(self._file(name), pairs) for name in plans}
            keys = {pair.key for pair in pairs}
            lacking = {name: plan for name, plan in plans.items() if not keys <= set(known[name])}
            looks = {name: self._look(plan.settings, seed) for name, plan in lacking.items()}
            for pair in _told(pairs, f"pairs, seed {seed}", self.places.progress):
                names = [name for name in lacking if pair.key not in known[name]]
                if not names:
                    continue
                pictures = self.viewer.see(pair.source), self.viewer.see(pair.target)
                for name in names:
                    way, look = plans[name].settings, looks[name]
                    if self.flow:
                        result = flow_result(way.settings, pair, pictures, look, self.viewer.device, self._basis(way))
                    else:
                        result = key_point_result(way, pair, pictures, look, self.viewer, self._basis(way))
                    append_result(self._file(name), pair, result)
                    known[name][pair.key] = result
            for name, results in known.items():
                self.finished[name] = results

    def _basis(self, way: Way) -> Basis:
        """What a pair's features are reduced to; an adapter takes them whole, and its own are not reduced."""
        widths, dims = part_widths(self.viewer.network), self.dims
        if dims is None or way.adapter is not None:
            return as_it_is
        return lambda source, target: pair_basis(source, target, widths, dims).reduced

    def _file(self, name: str) -> Path:
        return self.places.runs / f"{name}.jsonl"

    def _look(self, way: Way, seed: int) -> Look:
        """What a way's matcher sees of a picture."""
        viewer, plan = self.viewer, way.adapter
        if plan is None:
            return lambda seen: viewer.side(seen, way, seed)
        pairs, sentence = _training_pairs(seeded(plan.pairs, seed), plan.count, self.request.strict)
        places, other, labeller = self.places, self.label_network, None
        self.training_left_out += [sentence] if sentence and sentence not in self.training_left_out else []
        own = plan.pairs == self.spec
        training = viewer if own else viewer.beside(_features(viewer.network, places.store, plan.pairs))
        if other is not None:
            labeller = viewer.beside(_features(other, places.store, plan.pairs), other)
        adapter = trained_adapter(plan, pairs, training, places.runs, seed, places.progress, labeller)
        return lambda seen: adapted(adapter, viewer.side(seen, way, seed))

    def value(self, plan: Planned) -> Value:
        results, pairs = self.finished[plan.run], self.pairs[plan.seed]
        match plan.quantity:
            case "parameters":
                return self.viewer.parameters / 1e6
            case "pck":
                share = pck_value(plan.settings, plan.of, pairs, results)
            case "flow":
                share = flow_value(plan.of, pairs, results)
            case _:
                return cost(plan.quantity, results)
        return None if share is None else 100 * share

    def values(self, row: Row, column: Column) -> list[Value]:
        """One a seed, or one where another seed would be the same."""
        found, way = super().values(row, column), self.ways.get(row.label)
        same = column.quantity == "parameters" or (way is not None and not self._draws(way))
        return found[:1] if same else found

    def difference(self, row: Row, column: Column) -> PairedDifference | None:
        """Points against the reference row, key-point-weighted; pairs are drawn with replacement, with all seeds."""
        pck, plans, theirs = column.of, self.plans[row.label, column.key], self.reference_plans(row, column)
        if column.quantity != "pck" or pck.weight != "points" or pck.category or pck.attribute or not theirs:
            return None
        if None in plans or None in theirs or self.ways[row.label].counted != theirs[0].settings.counted:  # type: ignore[union-attr]
            return None
        (mine, totals), (others, _) = self._hits(plans), self._hits(theirs)
        return bootstrap_hits(mine, others, totals)

    def _hits(self, plans: Sequence[Planned | None]) -> tuple[np.ndarray, np.ndarray]:
        """Right key points and key points of each pair: drawn pairs of all seeds, or the sums over seeds of a set's."""
        found = [
            hits_of(plan.settings, plan.of, self.pairs[plan.seed], self.finished[plan.run]) for plan in plans if plan
        ]
        hits, totals = zip(*found, strict=True)
        if _drawn(self.spec):
            return np.concatenate(hits), np.concatenate(totals)
        return np.sum(hits, axis=0), np.sum(totals, axis=0)

    @property
    def images(self) -> int:
        """Pairs that are matched; those of a set are the same for every seed."""
        counts = [len(pairs) for pairs in self.pairs.values()]
        return sum(counts) if _drawn(self.spec) else counts[0]

    def notes(self) -> list[str]:
        """What each row knows, and which features are matched."""
        viewer, labeller = self.viewer, self.label_network
        words = [f"{label}: {way.words(viewer.mask_words)}" for label, way in self.ways.items()]
        trained = any(way.adapter is not None and way.runs for way in self.ways.values())
        other = [f"Pseudo-labels: {feature_note(labeller)}"] if labeller is not None and trained else []
        if self.dims is not None:
            maps = "+".join(",".join(str(k or "-") for k in part) for part in self.dims)
            other.append(
                f"Maps reduced to {maps} numbers (- stays) by one PCA of the tokens of both pictures of a pair; "
                "adapters and their pseudo-labels take them whole."
            )
        positions = {way.position for way in self.ways.values() if way.runs and way.position is not None}
        other += [self._position_note(position) for position in sorted(positions)]
        return [*self.left_out, *self.training_left_out, *words, feature_note(viewer.network), *other]

    def _position_note(self, position: str) -> str:
        found = self.viewer.subspace(position)
        rows = ", ".join(label for label, way in self.ways.items() if way.position == position)
        return (
            f"Position removed ({rows}): the {found.directions.shape[1]} of {found.directions.shape[0]} directions "
            f"that carry {100 * found.share:.1f} % of what place changes in tokens of noise pictures."
        )

    def figures(self, result: TableResult) -> dict[str, bytes]:
        """Of key points and the first seed: curves over the threshold, what a pair costs, answers right or wrong."""
        pooled = [one for one in self.experiment.columns if one.quantity == "pck" and one.of.weight == "points"]
        if self.flow or not pooled:
            return {}
        seed, key, threshold = self.request.seeds[0], pooled[0].key, pooled[0].of.threshold
        plans = {label: self.plans[label, key][0] for label in self.ways}
        rows = [self._answers(label, plan) for label, plan in plans.items() if plan is not None]
        pairs = [pair for pair in self.pairs[seed] if threshold == "image" or pair.target.box is not None]
        if not rows or not pairs:
            return {}
        shown = [pairs[number * len(pairs) // 4] for number in range(min(4, len(pairs)))]
        return {
            "curves.png": drawing.curves(rows, pairs, threshold),
            "costs.png": drawing.costs(rows, pairs, 0.1, threshold),
            "points.png": drawing.key_points(drawing.best(rows, pairs, 0.1, threshold), shown, 0.1, threshold),
        }

    def _answers(self, label: str, plan: Planned) -> drawing.Answers:
        results = self.finished[plan.run]
        counted = {key: counting(plan.settings, Pck(), result) for key, result in results.items()}
        return drawing.Answers(label, results, counted, cost("seconds", results))

    def runs(self) -> dict[str, dict]:
        return {}

    def differences(self) -> list[RecipeDifference]:
        request, key = self.request, self.viewer.network.key
        return [
            RecipeDifference("data", self.experiment.data or "ours", self.spec, "as asked"),
            RecipeDifference("features", "as above", key.to_json(), "as asked"),
            RecipeDifference("pairs", "all", f"{request.limit or 'all'}, seeds {list(request.seeds)}", "as asked"),
        ]


def without_exact_depth(experiment: Experiment, spec: str) -> Experiment:
    """The table without rows whose depth is that of generated pairs distorted, where pairs are photographs."""
    if _drawn(spec):
        return experiment
    rows = tuple(row for row in experiment.rows if row.changes.get("space") != "distorted")
    return replace(experiment, rows=rows)


def of_the_set(experiment: Experiment, spec: str, shown: Collection[str]) -> Experiment:
    """The table for these pairs: its title names them, and columns of what they do not have are left out.

    That is of other categories, and of attributes such as the change of viewpoint where the set has none.
    """
    name = spec.partition(":")[0]

    def there(pck: Pck) -> bool:
        return pck.category in (None, *shown) and (pck.attribute is None or name in ATTRIBUTED)

    columns = tuple(column for column in experiment.columns if not isinstance(column.of, Pck) or there(column.of))
    return replace(experiment, title=experiment.title.replace("{set}", SETS.get(name, name)), columns=columns)


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


def usable(pairs: PairSet, numbers: Iterable[int], strict: bool) -> tuple[list[Pair], str]:
    """The pairs of these numbers whose key points lie in their pictures, and a sentence on the others if there are any.

    Raises:
        OutsidePicture: If one does not and `strict` is asked, or none does.
        ValueError: If an annotation cannot be read.
    """
    found: list[Pair] = []
    left_out: dict[str, str] = {}
    for number in numbers:
        try:
            found.append(pairs[number])
        except OutsidePicture as error:
            if strict:
                raise
            left_out[pairs.keys[number]] = str(error).partition(";")[0]
    if not left_out:
        return found, ""
    told = "; ".join(f"{key}: {why}" for key, why in list(left_out.items())[:3])
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    sentence = f"{len(left_out)} of {len(left_out) + len(found)} pairs of {pairs.spec} left out: {told}{more}."
    if not found:
        raise OutsidePicture(sentence)
    return found, sentence


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


def _viewer(request: Request, network: Backbone, store: Path, spec: str) -> Viewer:
    sam = None if request.sam is None else PromptSegmenter(request.sam, device=request.device)
    own = request.masks == "set" or (request.masks is None and (sam is None or _drawn(spec)))
    lifter = _lifter(request)
    models = [request.structure, None if sam is None else sam.identity, *([] if own else ["masks of sam"])]
    models += [lifter.identity] if isinstance(lifter, FolderLifter) else []
    features, outputs = _features(network, store, spec), NetworkOutputs(store / "masks-and-points")
    return Viewer(network, features, sam, lifter, request.device, models, outputs, own)


def _features(network: Backbone, store: Path, spec: str) -> FeatureStore | None:
    """Where a set's features lie; pictures that are drawn have no name to keep."""
    if _drawn(spec):
        return None
    return FeatureStore(store_folder(store / digest([network.key.to_json()]), spec), network.key)


def _lifter(request: Request) -> Lifter | FolderLifter | None:
    structure = request.structure
    if structure in (None, "grid"):
        return None
    if structure.startswith("files:"):
        return FolderLifter(Path(structure.removeprefix("files:")))
    model = lifting_model(structure, request.device)
    if model is None:
        raise ValueError(
            f"expected --structure as depth:MODEL, metric:MODEL, vggt, files:FOLDER or grid; got {structure!r}"
        )
    return model


def _told(things: Sequence[T], stage: str, progress: Progress | None) -> Iterator[T]:
    """The things one by one, with a word on how far it is."""
    for number, thing in enumerate(things):
        yield thing
        if progress is not None:
            progress(stage, number + 1, len(things))


@lru_cache(maxsize=2)
def _training_pairs(spec: str, count: int | None, strict: bool) -> tuple[tuple[Pair, ...], str]:
    """Made once for all adapters of a table; and a sentence on those that are left out."""
    pairs = open_pairs(spec).spread(count)
    found, sentence = usable(pairs, range(len(pairs)), strict)
    return tuple(found), sentence
