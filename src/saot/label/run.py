"""`saot run`: from two sets of pictures to masks, a network and a report."""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from saot.data import write_atomic
from saot.label.calibrate import calibrate
from saot.label.decoders import saot_decoder
from saot.label.inputs import check_manifest, digest, kept_manifest, manifest, open_inputs
from saot.label.job import Job, open_job
from saot.label.networks import load_decoder, save_decoder
from saot.label.paper import learned_cost
from saot.label.rivals import unsolved_warning
from saot.label.scoring import score_methods, write_metrics
from saot.label.settings import RunSettings
from saot.label.summary import report_data
from saot.label.wings import NO_WINGS, Wings
from saot.recipes import differences
from saot.report import write_report
from saot.runs import RUN_FORMAT, Workspace, commit_of_code, load_tensors

PACKAGES = ("saot", "torch", "numpy", "safetensors", "pillow", "transformers")


@dataclass(frozen=True)
class RunOutcome:
    """What a run ends with.

    Attributes:
        metrics: Contents of metrics.json.
        run: Contents of run.json.
        folder: Where everything lies.
        resumed: True if nothing was left to do.
    """

    metrics: dict[str, Any]
    run: dict[str, Any]
    folder: Path
    resumed: bool


def run_job(
    settings: RunSettings,
    out: Path,
    *,
    store: Path | None = None,
    device: str = "cpu",
    wings: Wings = NO_WINGS,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunOutcome:
    """The main job, from features to report; the same call again goes on where it stopped.

    Args:
        settings: What is asked.
        out: The run folder.
        store: Where features are kept; the run folder unless given.
        device: Where networks and transport run, such as "cuda". A run on the CPU ends with the same bytes however
            often it is interrupted; an accelerator promises no such thing.
        wings: What the core does not know: readers, backbones, the pull loss.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be; nothing made so far is lost.
    """
    check_device(device)
    inputs = open_inputs(settings, device, wings)
    space = Workspace(out, settings.to_dict(), progress)
    try:
        finished = finished_run(space)
        if finished is not None:
            check_manifest(manifest(inputs, settings), kept_manifest(space) or {})
            return finished
        began = time.time()
        job = open_job(settings, space, inputs, store, device)
        learned_cost(job)
        publish_decoder(job)
        scores = score_methods(job)
        metrics = write_metrics(job, scores)
        calibration = calibrate(job)
        space.write_log()
        with space.stage("report"):
            run = run_record(job, began)
            write_report(space.path("report.html"), report_data(job, run, metrics, scores, calibration))
        run = run_record(job, began)
        write_atomic(space.path("run.json"), (json.dumps(run, indent=1) + "\n").encode())
        return RunOutcome(metrics, run, Path(out), resumed=False)
    finally:
        space.close()


def finished_run(space: Workspace) -> RunOutcome | None:
    """The outcome of a run that is already complete, or None. run.json is written last."""
    needed = (
        "run.json",
        "metrics.json",
        "calibration.json",
        "report.html",
        "decoder.safetensors",
        "cost.safetensors",
        "log.jsonl",
    )
    if not all(space.path(name).exists() for name in needed):
        return None
    run = json.loads(space.path("run.json").read_text())
    metrics = json.loads(space.path("metrics.json").read_text())
    return RunOutcome(metrics, run, space.root, resumed=True)


def publish_decoder(job: Job) -> None:
    """decoder.safetensors, the small network with all that `predict` needs to know."""
    path = job.space.path("decoder.safetensors")
    decoder = saot_decoder(job)
    if load_decoder(path) is None:
        extra = {"classes": list(job.classes.names), "colors": [list(c) for c in job.classes.colors]}
        save_decoder(path, decoder, extra)


def published_settings(path: Path) -> dict[str, Any]:
    """What decoder.safetensors says of itself."""
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {})["saot"])


def decoder_bias(job: Job) -> list[float] | None:
    """The logit adjustment chosen for the decoder, class by class, if any."""
    kept = load_tensors(job.space.work("scores", "saot_decoder.safetensors")) or {}
    return kept["bias"].tolist() if "bias" in kept else None


def run_record(job: Job, began: float) -> dict[str, Any]:
    """run.json: everything but the scores."""
    space, recipe = job.space, job.recipe
    warning = unsolved_warning(job)
    missing = space.facts("points").get("classes_without_source", [])
    notes = [warning] if warning else []
    oracle = space.facts("oracle").get("left_out")
    if oracle:
        notes.append(f"The oracle is left out: {oracle}.")
    if not job.may_choose:
        notes.append(
            "Evaluation pictures are target pictures too, so their points were declared: scores are optimistic, and "
            "no logit adjustment was chosen."
        )
    if missing:
        notes.append(f"Points name classes the source never shows ({', '.join(missing)}); transport cannot carry them.")
    return {
        "format": RUN_FORMAT,
        "settings": job.settings.to_dict(),
        "source": job.settings.source,
        "target": job.settings.target,
        "eval": job.settings.eval,
        "backbone": job.settings.backbone,
        "preset": recipe.name,
        "points": job.settings.points,
        "seed": job.settings.seed,
        "label_budget": job.label_budget,
        "differences_from_paper": [vars(d) for d in differences(recipe)],
        "features": json.loads(job.inputs.backbone.key.to_json()),
        "data": {
            name: {"images": len(job.found[name]), "sha256": digest(job.found[name])}
            for name in ("source", "target", "eval")
        },
        "stages": space.facts("stages"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "trials": space.facts("trials"),
        "adjustment": space.facts("adjustment"),
        "decoder_bias": decoder_bias(job),
        "transport": {name: space.facts(name) for name in ("cost", "saot", "saot_multi", "ot")},
        "taught": space.facts("taught"),
        "notes": notes,
        "versions": versions(PACKAGES),
        "commit": commit_of_code(),
        "device": device_name(job.source.device),
        "python": platform.python_version(),
    }


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: If torch cannot put a tensor on it.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"expected a device torch can use, such as cpu or cuda; {name!r} is none here: {reason}"
        ) from error


def device_name(device: torch.device) -> str:
    """What the numbers were made on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {platform.system()}"


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """The installed version of each distribution; None where it is missing."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
