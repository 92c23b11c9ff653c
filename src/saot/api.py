"""The main job and finished runs from Python, with all that the command line has: `saot.label` and `saot.load`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saot.data import ClassSet
from saot.deploy import is_hub_name, pull_run
from saot.label import Compare, Labeller, Prediction, RunOutcome, RunSettings, open_run, run_job
from saot.recipes import PAPER, Recipe
from saot.recipes import preset as preset_named
from saot.runs import resolve_device
from saot.tables import ALL_WINGS, paper_request, run_rivals

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False, repr=False)
class OpenedRun:
    """A finished run, of `saot run` or of `saot adapt`, ready to label pictures.

    Attributes:
        folder: Where it lies.
        run: Contents of run.json: what was asked, versions, seconds and memory of every stage, notes.
        metrics: Contents of metrics.json: scores by method.
        labeller: The network with what surrounds it.
    """

    folder: Path
    run: dict[str, Any]
    metrics: dict[str, Any]
    labeller: Labeller

    @property
    def classes(self) -> ClassSet:
        """What the indices of a mask mean: names and colours."""
        return self.labeller.classes

    def predict(self, picture: Any) -> Prediction:
        """Mask, confidence and probabilities of one picture, at its own size and on the CPU.

        Args:
            picture: A path; a PIL picture; a NumPy array (h, w, 3), uint8; or a tensor (3, h, w) or (h, w, 3), uint8 or
                floating point from 0 to 1.

        Raises:
            ValueError: If it is none of these or cannot be read.
        """
        return self.labeller.predict(picture)

    def __repr__(self) -> str:
        return f"OpenedRun({str(self.folder)!r}, {self.labeller.method}, {len(self.classes.names)} classes)"


def load(folder: str | Path, device: str = "auto") -> OpenedRun:
    """A finished run of `saot run`, `saot.label` or `saot adapt`, or one that `saot push` has put on a hub.

    Args:
        folder: The `--out` it was made with. Where there is no such folder, OWNER/NAME of a run on the hub.
        device: Where its networks run: auto (cuda, else mps, else cpu), or one that torch knows.

    Raises:
        ValueError: If the folder is missing, unfinished, of another format, or its backbone is not the one it was made
            with; or there is no such run on the hub.

    Example:
        >>> load("runs/of/nobody", device="cpu")
        Traceback (most recent call last):
        ValueError: expected the folder of a run; runs/of/nobody does not exist: give the --out of `saot run`
    """
    folder = pull_run(str(folder)) if not Path(folder).exists() and is_hub_name(str(folder)) else Path(folder)
    labeller = open_run(folder, ALL_WINGS, resolve_device(device))
    scores = folder / "metrics.json"
    metrics = json.loads(scores.read_text()) if scores.exists() else {}
    return OpenedRun(folder, json.loads((folder / "run.json").read_text()), metrics, labeller)


def label(
    source: str,
    target: str,
    *,
    out: str | Path,
    eval: str | None = None,
    points: str | None = None,
    start: str | Path | None = None,
    preset: str | Recipe = "best",
    backbone: str = "dinov2-large",
    weights: str | Path | None = None,
    size: str | None = None,
    precision: str = "float32",
    mask_map: str | None = None,
    source_pictures: int | None = None,
    target_pictures: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    store_form: str = "half",
    device: str = "auto",
    compare: Compare | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> OpenedRun:
    """`saot run` from Python, the finished run opened; the same call again goes on where it stopped.

    Args:
        source: Labelled pictures: NAME:PATH[:SPLIT], such as "folder:shots" or "gta5:/data/gta5".
        target: Pictures to label. Their masks, if any, are read for the declared points, and by the oracle row alone.
        out: The run folder.
        eval: Labelled pictures to score on.
        points: Label budget: "20" a class and picture, "total:20" a class, the same of patches by majority
            ("patches:20", "patches:total:20"), "resample:20" (the paper), a CSV file (image,x,y,class), a folder of
            scribbles, or "0", as it is unless given.
        start: Folder of a finished run whose network this one goes on from, for a second round of clicks.
        preset: "best", "paper-small", a `saot.recipes.Recipe` of your own, or "paper", which also takes the paper's
            pictures, points and size unless they are given, as `saot run` does.
        backbone: "filterbank", "mobile-sam", "dinov2-small" and so on, as `saot.load_backbone` has them.
        weights: File or folder of the backbone's weights, where it needs one.
        size: Input size, "HEIGHTxWIDTH" or the long side in pixels; several with commas are joined, as in `saot run`.
        precision: Of the backbone: "float32", or "bf16", faster where the processor has it.
        mask_map: What values in the masks of a folder: mean, such as "0=background,255=foreground".
        source_pictures: How many source pictures to use, drawn as in the paper; all unless given.
        target_pictures: How many target pictures to use, the first ones; all unless given.
        seed: Fixes every draw.
        store: Folder for features, to share them between runs; the run folder unless given.
        store_form: How tokens are kept: "half", "int8" or "projected:NUMBERS", as in `saot run`.
        device: auto (cuda, else mps, else cpu), or one that torch knows.
        compare: What is trained beside the decoder: "none", "points" (methods that see the same labels) or "all"; all
            where there is an evaluation set, else none.
        strict: Whether a mask that has not the size of its picture ends the run; else such pictures are left out.
        progress: Called with (stage, done, total).

    Returns:
        The run: `.run` (the record), `.metrics`, `.predict(picture)`.

    Raises:
        ValueError: If an input is not as it should be; nothing made so far is lost.
    """
    weights = None if weights is None else str(weights)
    recipe = preset if isinstance(preset, Recipe) else preset_named(preset)
    asked = {"points": points, "size": size, "source_pictures": source_pictures, "target_pictures": target_pictures}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    usual: dict[str, Any] = {"points": "0"}
    if recipe.name == PAPER.name:
        usual = paper_request(source, target, backbone, weights, given)
    settings = RunSettings(
        source=source,
        target=target,
        eval=eval,
        backbone=backbone,
        weights=weights,
        precision=precision,
        mask_map=mask_map,
        start=None if start is None else str(start),
        seed=seed,
        store_form=store_form,
        recipe=recipe,
        **{**usual, **given},
    )
    run_settings(settings, Path(out), None if store is None else Path(store), device, compare, strict, progress)
    return load(out, device)


def run_settings(
    settings: RunSettings,
    out: Path,
    store: Path | None = None,
    device: str = "auto",
    compare: Compare | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> RunOutcome:
    """The main job with every reader, backbone and competitor of this package, as `saot run` and `label` do it.

    Args:
        settings: What is asked.
        out: The run folder.
        store: Where features are kept; the run folder unless given.
        device: auto, or one that torch knows.
        compare: As in `label`.
        strict: As in `label`.
        progress: Called with (stage, done, total).
        say: Called with what the user should know meanwhile, such as the disk that features will take; None is silent.

    Raises:
        ValueError: If an input is not as it should be, or the disk has not room; nothing made so far is lost.
    """
    where, wings = resolve_device(device), ALL_WINGS if say is None else replace(ALL_WINGS, say=say)
    return run_job(
        settings,
        out,
        store=store,
        device=where,
        wings=wings,
        rivals=run_rivals,
        compare=compare,
        strict=strict,
        progress=progress,
    )
