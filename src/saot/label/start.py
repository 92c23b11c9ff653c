"""A second round of clicks: a run that goes on from the network of a finished one.

The finished network goes on with a part of the steps of stage 1, on the source and all declared points, and then with
a part of those of one round of stage 2, as its own teacher. Stage 2 alone would not do: a teacher that has not seen the
new points holds the network to what it said before.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from saot.data import COLUMNS, ClassSet, Points, read_record, read_table
from saot.decoder import JointDecoder
from saot.features import FeatureKey
from saot.label.best import fitted_tail, joint_stage_2, stage_windows, taught_rounds
from saot.label.data import Bench, TrainingData
from saot.label.finished import AGAIN
from saot.label.fusion import unpacked_decoder
from saot.label.networks import Trained, labelled_terms, network
from saot.label.settings import RunSettings
from saot.label.sizes import SizesDecoder
from saot.recipes import as_dict
from saot.runs import Kept, Workspace, identity_of, read_kept, side_by_side

PARTS = (6, 4)  # it takes one in so many of the steps of stage 1, and of a round of stage 2
ALIKE = ("decoder", "tail")  # parts of the recipe that shape the network


@dataclass(frozen=True)
class Start:
    """A finished run to go on from.

    Attributes:
        folder: Of the run.
        trained: Its network.
        features: The record of what its tokens are.
        points: Its declared points: (picture, y, x, class by name).
    """

    folder: Path
    trained: Trained
    features: Mapping[str, Any]
    points: frozenset[tuple[str, int, int, str]]

    def check_features(self, key: str) -> None:
        """Check that tokens of such a key are those the network was trained on.

        Raises:
            ValueError: Names what differs.
        """
        now, before = FeatureKey.from_json(key), FeatureKey.from_json(json.dumps(dict(self.features)))
        if other := before.differences(now):
            raise ValueError(
                f"expected the backbone and size of {self.folder}, which --start goes on from; {other[0]} is "
                f"{getattr(now, other[0])!r} and was {getattr(before, other[0])!r}: give the same --backbone, "
                "--weights, --size, --precision and --store-form"
            )

    def check_points(self, points: Points, classes: ClassSet) -> None:
        """Check that all points the network was trained on are declared again, so that the label budget counts them.

        Raises:
            ValueError: If some are missing.
        """
        missing = self.points - set(_named(points, classes))
        if missing:
            raise ValueError(
                f"expected all {len(self.points)} points of {self.folder} among the points of this run, since its "
                f"network has learned from them; {len(missing)} are missing, such as {min(missing)}: add the rows of "
                f"{self.folder / 'points.csv'} to the file"
            )

    def unseen(self, points: Points, classes: ClassSet) -> Points:
        """Those that the network has not learned from."""
        new = [number for number, one in enumerate(_named(points, classes)) if one not in self.points]

        def chosen(column: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(column[number] for number in new)

        return Points(*map(chosen, (points.keys, points.x, points.y, points.classes)))


def _named(points: Points, classes: ClassSet) -> list[tuple[str, int, int, str]]:
    rows = zip(points.keys, points.y, points.x, points.classes, strict=True)
    return [(key, y, x, classes.names[label]) for key, y, x, label in rows]


def open_start(settings: RunSettings, classes: ClassSet, space: Workspace) -> Start | None:
    """The run that settings ask to go on from, kept with the new one; None where they ask for none.

    Args:
        settings: Of the new run.
        classes: Of its source.
        space: Its folder.

    Raises:
        ValueError: If it is no finished run, or one of another recipe, of other classes or of several input sizes.
    """
    if settings.start is None:
        return None
    folder = Path(settings.start)
    kept = space.once("work/start", settings.start, lambda making: _checked(folder, settings, classes))
    decoder = unpacked_decoder(kept)
    assert not isinstance(decoder, SizesDecoder), "refused when it was kept"
    trained = Trained(decoder, identity_of(kept.tensors, kept.about))
    return Start(folder, trained, kept.facts["features"], frozenset(map(tuple, kept.facts["points"])))


def _checked(folder: Path, settings: RunSettings, classes: ClassSet) -> Kept:
    """The network of a finished run, what its tokens are and the points it has learned from."""
    record = read_record(folder / "run.json", AGAIN)
    path = folder / "decoder.safetensors"
    kept = read_kept(path) if path.is_file() else None
    if kept is None or "recipe" not in record.get("settings", {}):
        raise ValueError(f"expected --start as the folder of a finished run of `saot run`; got {folder}")
    if kept.about["classes"] != list(classes.names):
        raise ValueError(f"expected the classes of {folder}, which --start goes on from; the source has others")
    if "shapes" in kept.about:
        raise ValueError(f"expected --start with a run of one input size; {folder} has several")
    before, now = record["settings"]["recipe"], as_dict(settings.recipe)
    other = next((name for name in ALIKE if before.get(name) != now.get(name)), None)
    if other is not None:
        raise ValueError(
            f"expected the preset of {folder}, which --start goes on from ({record['preset']}); its settings of "
            f"{other} are others"
        )
    table = read_table(folder / "points.csv", COLUMNS, ("image", "x", "y", "class"))
    points = [(row["image"], int(row["y"]), int(row["x"]), row["class"]) for _, row in table.rows]
    return Kept(kept.tensors, {"features": record["features"], "points": points}, kept.about)


def continued_decoder(start: Start, bench: Bench, data: TrainingData) -> Trained:
    """The network of a finished run, trained further on these points, the source and its own answers.

    Args:
        start: The finished run.
        bench: Where and how.
        data: Source, target and points.
    """
    tau, (part, taught) = bench.recipe.taught.tau, PARTS
    recipe = replace(bench.recipe.decoder, steps=max(1, bench.recipe.decoder.steps // part))
    terms, name = labelled_terms(bench, data, recipe), start.trained.identity
    decoder = start.trained.decoder.to(bench.device)
    again = partial(network, bench, data, terms, None, name="again", decoder=recipe)
    if not isinstance(decoder, JointDecoder):
        return taught_rounds(bench, data, [again(start=Trained(decoder, name))], terms, tau, rounds=1, part=taught)
    windows = stage_windows(bench, data)
    fine, other = (Trained(one, identity_of(name, place)) for place, one in enumerate((decoder.fine, decoder.trained)))
    steps = max(1, bench.recipe.tail.steps // part)
    tail = partial(fitted_tail, bench, data, "again-tail", windows, steps=steps, start=other)
    first = side_by_side([partial(again, start=fine), tail], bench.device)
    return joint_stage_2(bench, data, first, terms, windows, tau, part=taught)
