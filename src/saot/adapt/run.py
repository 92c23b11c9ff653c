"""`saot adapt`: a network trained end to end, in a run folder like any other; safe to kill at any moment."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saot.adapt.inputs import KIND, Adaptation, AdaptInputs, AdaptSettings, check_fit, open_adapt_inputs
from saot.adapt.meeting import Meeting, meet_launch
from saot.adapt.recipe import recipe_differences
from saot.adapt.training import Pace, new_accelerator, source_pixels, train, train_beside
from saot.data import Fingerprints, ImageSet, whole_record, write_atomic
from saot.label import RunOutcome, digest
from saot.runs import RUN_FORMAT, Workspace, check_device, commit_of_code, device_name, versions

ADDED_LATER = ("eval", "source_eval")  # settings that a run may be given when it has begun

Progress = Callable[[str, int, int], None]


def run_adaptation(
    settings: AdaptSettings,
    out: Path,
    *,
    device: str = "cpu",
    strict: bool = False,
    pace: Pace | None = None,
    progress: Progress | None = None,
) -> RunOutcome:
    """Train, score, report; the same call again goes on where it stopped and ends with the same weights.

    Under `accelerate launch -m saot.cli adapt ...` several processes share the work: each draws its own pictures,
    gradients are averaged, and the first one writes. Where RANK and WORLD_SIZE speak of several processes, all of them
    must come within two minutes.

    Args:
        settings: What is asked.
        out: The run folder.
        device: "cpu" or "cuda".
        strict: Whether a mask that has not the size of its picture ends the run; else the picture is left out.
        pace: Workers and checkpoints; those that suit this machine unless given.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be, accelerate is not installed, or other processes that the
            environment speaks of do not come.
    """
    from saot.adapt.scores import adaptation_report, score_adaptation, write_adaptation_metrics

    check_device(device)
    together = meet_launch()
    seen = Fingerprints(Path(out) / "work" / "fingerprints.jsonl")
    inputs = open_adapt_inputs(settings, seen, strict)
    accelerator = new_accelerator(device, settings.recipe, together)
    pace = pace or Pace.of_this_machine()
    meeting = Meeting(Path(out), accelerator)
    if not accelerator.is_main_process:
        meeting.wait()
        train_beside(settings, inputs, out, accelerator, pace)
        return RunOutcome({}, {}, Path(out), resumed=False)
    space = None
    try:
        with meeting.preparing():
            if not Path(out).exists():  # a slip in weights or crop is told before a folder holds on to it
                check_fit(settings, inputs)
            space = Workspace(out, settings.to_dict(), progress, later=ADDED_LATER)
            job = Adaptation(settings, space, inputs, str(accelerator.device))
            check_data(job)
            seen.save()
            began, finished = time.time(), finished_adaptation(job)
            pixels = source_pixels(job) if finished is None else torch.zeros(0)
        if finished is not None:
            return finished
        train(job, accelerator, pixels, pace)
        scores = score_adaptation(job)
        metrics = write_adaptation_metrics(job, scores)
        space.write_log()
        with space.stage("report"):
            adaptation_report(job, run_record(job, began), metrics, scores)
        run = run_record(job, began)
        write_atomic(space.path("run.json"), (json.dumps(run, indent=1) + "\n").encode())
        return RunOutcome(metrics, run, Path(out), resumed=False)
    finally:
        if space is not None:
            space.close()


def finished_adaptation(job: Adaptation) -> RunOutcome | None:
    """The outcome of a run that is complete, or None. run.json is written last."""
    needed = ("run.json", "metrics.json", "report.html", "network.safetensors", "encoder.safetensors", "log.jsonl")
    if not all(job.space.path(name).is_file() for name in needed):
        return None
    run, metrics = (whole_record(job.space.path(name)) for name in ("run.json", "metrics.json"))
    settings = None if run is None else run.get("settings")
    if run is None or metrics is None or not isinstance(settings, dict):
        return None  # damaged: both are written again from what the stages kept
    if any(settings.get(name) != job.space.settings[name] for name in ADDED_LATER):
        return None  # an evaluation set was added
    return RunOutcome(metrics, run, job.space.root, resumed=True)


def check_data(job: Adaptation) -> None:
    """Write down what the run is made of; refuse to go on with other pictures or masks.

    Raises:
        ValueError: If a set is not what it was when the run began.
    """
    now, then = data_record(job.inputs), job.space.facts("data")
    changed = [name for name in now if then and now[name] != then.get(name, now[name] if name in ADDED_LATER else None)]
    if changed:
        raise ValueError(
            f"pictures or masks of {' and '.join(changed)} have changed since {job.space.root} was begun: choose "
            "another --out"
        )
    job.space.set_facts("data", now)


def data_record(inputs: AdaptInputs) -> dict[str, Any]:
    """Number of the pictures of every set, a digest of them and, where they are read, one of their masks."""
    labelled = {"source": inputs.source, "eval": inputs.truth, "source_eval": inputs.source_truth}
    found: dict[str, Any] = {}
    for name, data in labelled.items():
        if data is not None:
            masks = {key: data.mask_fingerprint(number) for number, key in enumerate(data.keys)}
            found[name] = {**_pictures(data.images), "masks_sha256": digest(masks)}
    return found if inputs.target is None else {**found, "target": _pictures(inputs.target)}


def _pictures(images: ImageSet) -> dict[str, Any]:
    prints = {key: images.fingerprint(number) for number, key in enumerate(images.keys)}
    return {"images": len(images), "sha256": digest(prints)}


def run_record(job: Adaptation, began: float) -> dict[str, Any]:
    """run.json: everything but the scores."""
    settings, space = job.settings, job.space
    return {
        "format": RUN_FORMAT,
        "kind": KIND,
        "settings": settings.to_dict(),
        "source": settings.source,
        "target": settings.target,
        "eval": settings.eval,
        "backbone": settings.recipe.network.encoder,
        "preset": settings.recipe.name,
        "method": settings.recipe.method,
        "points": "0",
        "seed": settings.seed,
        "label_budget": 0,
        "differences_from_paper": [vars(each) for each in recipe_differences(settings.recipe, source=settings.source)],
        "data": space.facts("data"),
        "stages": space.facts("stages"),
        "gpu": space.facts("gpu"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "notes": job.inputs.notes(),
        "versions": versions((*("saot", "torch", "numpy", "safetensors", "pillow", "transformers"), "accelerate")),
        "commit": commit_of_code(),
        "device": device_name(torch.device(job.device)),
        "python": platform.python_version(),
    }
