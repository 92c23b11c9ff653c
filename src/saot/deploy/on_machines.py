"""Extraction, masks and scores by the machines of a Ray cluster, with the files and numbers of one process.

The command that was given finds the pictures, hands out chunks of their names, and joins what comes back. Each worker
opens run or backbone once. It writes features and masks itself, as several processes on one store do.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from saot.data import Entry, Fingerprints, ImageSet, address_of, images_of_files
from saot.deploy.cluster import Cluster
from saot.deploy.spread import Work
from saot.features import FeatureStore, in_form
from saot.label import (
    LabelledPictures,
    MaskWork,
    NewPicture,
    Wings,
    open_abstaining,
    open_evaluation,
    parse_size,
    plan_masks,
    seen_beside,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Extraction:
    """Features of pictures of a set.

    A chunk is the files of pictures by their keys with what is known of them, or, of a set whose pictures are no files,
    keys alone. The answer is how many were made, and what was found out of files.

    Attributes:
        spec: The set.
        out: Where stores and what they share lie.
        place: The store.
        backbone, weights, size, precision, form: As `saot extract` has them.
        wings: What the core does not know.
    """

    spec: str
    out: Path
    place: Path
    backbone: str
    weights: Path | None
    size: str | None
    precision: str
    form: str
    wings: Wings

    @property
    def folder(self) -> Path | None:
        """Where the store lies, unless that is an address."""
        return None if address_of(self.place) else self.place

    def open(self, device: str) -> Work:
        """Makes what is missing of a chunk."""
        options = {"size": parse_size(self.size), "device": device, "precision": self.precision}
        network = in_form(self.wings.backbone(self.backbone, self.weights, **options), self.form, [self.out])
        store = FeatureStore(self.place, network.key)

        def of_files(files: Mapping[str, Path], known: Sequence[Entry]) -> tuple[int, list[Entry]]:
            seen = Fingerprints()
            seen.adopt(known)
            images = images_of_files(self.spec, None, files, seen)
            made = store.ensure(images, network, seen=seen, only=range(len(images)))
            return made, seen.drain()

        def of_keys(keys: Sequence[str]) -> tuple[int, list[Entry]]:
            images, seen, numbers_of = self._listed
            return store.ensure(images, network, seen=seen, only=numbers_of(keys)), seen.drain()

        return lambda chunk: of_files(*chunk) if isinstance(chunk, tuple) else of_keys(chunk)

    @cached_property
    def _listed(self) -> "tuple[ImageSet, Fingerprints, Callable[[Sequence[str]], list[int]]]":
        """The set as this machine lists it."""
        seen = seen_beside(self.out)
        images = replace(self.wings, seen=seen).images(self.spec)
        return images, seen, _finder(self.spec, images.keys)


@dataclass(frozen=True)
class Labelling:
    """Masks of pictures; a chunk is `NewPicture`s, and its answer (sizes, made, failed, left alone).

    Attributes:
        run: The folder of the run.
        out: Where the masks go.
        formats, abstain: As `predict_pictures` has them.
        identity: Of the run and the code, as the command that was given knows them.
        wings: What the core does not know.
    """

    run: Path
    out: Path
    formats: tuple[str, ...]
    abstain: float | None
    identity: str
    wings: Wings

    @property
    def folder(self) -> Path:
        """Where the masks go."""
        return self.out

    def open(self, device: str) -> Work:
        """Labels what has no masks of a chunk."""
        run, identity = open_abstaining(self.run, self.abstain, self.wings, device)
        if identity != self.identity:
            raise ValueError(
                f"expected the same run on all machines; {socket.gethostname()} has another in {self.run}: put it on a "
                "disk that they share"
            )
        joined = {name: self.wings.formats[name] for name in self.formats if name in self.wings.formats}

        def label(pictures: Sequence[NewPicture]) -> tuple[Any, ...]:
            own = MaskWork(run, identity, pictures, self.out, self.formats, self.abstain is not None, joined)
            found = own.label(_unheard)
            return found.sizes, found.made, found.failed, found.left_alone

        return label


@dataclass(frozen=True)
class Scoring:
    """Scores of a run; a chunk is "sizes" or "counts", and keys of pictures.

    The answer is masks that do not fit, by key, with words on each; or confusion counts of all pixels, and near edges.

    Attributes:
        run: The folder of the run.
        spec: The labelled set.
        wings: What the core does not know.
    """

    run: Path
    spec: str
    wings: Wings

    @property
    def folder(self) -> None:
        """Nothing is written."""
        return None

    def open(self, device: str) -> Work:
        """Looks at or scores a chunk."""
        evaluation = open_evaluation(self.run, self.spec, self.wings, device)
        data, numbers_of = evaluation.data, _finder(self.spec, evaluation.data.keys)

        def answer(chunk: tuple[str, Sequence[str]]) -> Any:
            asked, keys = chunk
            if asked == "sizes":
                return {data.keys[number]: words for number, words in data.misfits(numbers_of(keys)).items()}
            return evaluation.count(numbers_of(keys))

        return answer


def extract_on(
    cluster: Cluster, job: Extraction, store: FeatureStore, images: ImageSet, seen: Fingerprints, progress: Progress
) -> int:
    """Make all features that are missing; how many were made.

    Args:
        cluster: Makes them.
        job: How.
        store: As this process has it open.
        images: The pictures, as this process lists them.
        seen: What is known of files, and hears what is found out.
        progress: Called with (done, total).
    """
    made, tell = 0, _Telling(progress, len(images))

    def chunk_of(numbers: Sequence[int]) -> Any:
        keys = [images.keys[number] for number in numbers]
        if images.files is None:
            return keys
        files = {images.keys[number]: images.files[number] for number in numbers}
        return files, seen.some([*files.values(), *map(store.file, keys)])

    with closing(cluster.answers(cluster.order(job), store.begin(images), chunk_of)) as answers:
        for numbers, (own, found) in answers:
            made += own
            seen.add(found)
            tell(len(numbers))
    return made


def predict_on(
    cluster: Cluster,
    folder: Path,
    pictures: Sequence[Path],
    out: Path,
    formats: Sequence[str],
    progress: Progress,
    abstain: float | None,
    wings: Wings,
) -> LabelledPictures:
    """As `saot.label.predict_pictures`; files that hold all masks are written here."""
    plan = plan_masks(folder, pictures, out, formats, abstain, wings)
    job = Labelling(folder, out, tuple(formats), abstain, plan.identity, wings)
    sizes: dict[int, tuple[int, int, float | None]] = {}
    failed: dict[str, str] = {}
    strange: set[Path] = set()
    made, tell = 0, _Telling(progress, len(plan.pictures))
    order = cluster.order(job)
    with closing(cluster.answers(order, plan.order(), lambda some: [plan.pictures[n] for n in some])) as answers:
        for numbers, (own, own_made, own_failed, left_alone) in answers:
            sizes |= {numbers[number]: size for number, size in own.items()}
            made += own_made
            failed |= own_failed
            strange |= set(left_alone)
            tell(len(numbers))
    failed = {one.name: failed[one.name] for one in plan.pictures if one.name in failed}
    alone = [path for one in plan.pictures for path in plan.files(one) if path in strange] if strange else []
    labelled = LabelledPictures(plan.pictures, sizes, made, failed, tuple(alone), plan.outputs)
    plan.join(labelled)
    return labelled


def evaluate_on(cluster: Cluster, folder: Path, spec: str, progress: Progress, wings: Wings) -> dict[str, Any]:
    """As `saot.label.evaluate_run`."""
    evaluation = open_evaluation(folder, spec, wings)
    keys, order = evaluation.data.keys, cluster.order(Scoring(folder, spec, wings))

    def answers(asked: str) -> Any:
        return closing(cluster.answers(order, range(len(keys)), lambda some: (asked, [keys[n] for n in some])))

    wrong: dict[str, str] = {}
    with answers("sizes") as found:
        for _, misfits in found:
            wrong |= misfits
    evaluation.check({number: wrong[key] for number, key in enumerate(keys) if key in wrong})
    whole, near = evaluation.count([])
    tell = _Telling(progress, len(keys))
    with answers("counts") as found:
        for numbers, counts in found:
            whole, near = whole + counts[0], near + counts[1]
            tell(len(numbers))
    return evaluation.metrics(whole, near)


class _Telling:
    """Tells of pictures one by one, as a process that makes them does.

    Args:
        progress: Called with (done, total).
        total: Pictures.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        """So many more are done."""
        for _ in range(more):
            self._done += 1
            self._progress(self._done, self._total)


def _finder(spec: str, keys: Sequence[str]) -> Callable[[Sequence[str]], list[int]]:
    """Numbers of pictures by their keys, in a set as this machine lists it."""
    number_of: Mapping[str, int] = {key: number for number, key in enumerate(keys)}

    def find(wanted: Sequence[str]) -> list[int]:
        lacking = next((key for key in wanted if key not in number_of), None)
        if lacking is not None:
            raise ValueError(
                f"expected the same pictures on all machines; {socket.gethostname()} has no {lacking} in {spec}: put "
                "them on a disk that all share"
            )
        return [number_of[key] for key in wanted]

    return find


def _unheard(done: int, total: int) -> None:
    return None
