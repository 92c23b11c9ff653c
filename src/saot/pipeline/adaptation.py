"""`saot adapt`: a network trained end to end, in a run folder like any other; safe to kill at any moment."""

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saot.adapt.feature_distance import things_of
from saot.adapt.networks import Segmenter
from saot.adapt.pictures import TrainingPictures, check_sizes
from saot.adapt.recipe import AdaptRecipe, recipe_differences
from saot.adapt.sampling import count_pixels
from saot.data import ClassSet, ImageSet, LabelledSet, open_images, open_labelled, parse_spec, write_atomic
from saot.features.encoders import load_encoder, read_encoder, save_encoder
from saot.pipeline.adapted import segmenter_of
from saot.pipeline.inputs import digest
from saot.pipeline.run import RunOutcome, check_device, device_name, versions
from saot.pipeline.settings import RUN_FORMAT
from saot.pipeline.workspace import Workspace, commit_of_code, load_tensors, save_tensors
from saot.recipes import as_dict
from saot.transfer import Checkpoint
from saot.transfer.training import train_steps

KIND = "adaptation"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AdaptSettings:
    """The whole request behind a run folder of `saot adapt`.

    Attributes:
        source: SPEC of the labelled pictures.
        target: SPEC of the pictures to adapt to; their labels are never opened. None for methods that need none.
        eval: SPEC of labelled pictures to score on; None scores nothing.
        source_eval: SPEC of labelled source pictures that are not trained on, to see whether the source is kept.
        weights: File or folder of the encoder's weights; None is the published place, "random" starts from nothing.
        seed: Fixes every draw.
        recipe: All other settings, the method among them.
    """

    source: str
    target: str | None
    eval: str | None = None
    source_eval: str | None = None
    weights: str | None = None
    seed: int = 0
    recipe: AdaptRecipe = field(default_factory=AdaptRecipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for run.json."""
        return {
            "format": RUN_FORMAT,
            "kind": KIND,
            "source": self.source,
            "target": self.target,
            "eval": self.eval,
            "source_eval": self.source_eval,
            "backbone": self.recipe.network.encoder,
            "weights": self.weights,
            "seed": self.seed,
            "preset": self.recipe.name,
            "method": self.recipe.method,
            "recipe": as_dict(self.recipe),
        }

    @property
    def method(self) -> str:
        """The method's name in metrics.json."""
        return self.recipe.method.replace("-", "_")


@dataclass(frozen=True)
class AdaptInputs:
    """Opened sets; the target has no way to its labels."""

    source: LabelledSet
    target: ImageSet | None
    truth: LabelledSet | None
    source_truth: LabelledSet | None

    @property
    def classes(self) -> ClassSet:
        """Those of the source."""
        return self.source.classes

    def notes(self) -> list[str]:
        """What a user should know of the sets."""
        if self.target is None:
            return []
        spec = parse_spec(self.target.spec)
        masks = Path(spec.path).expanduser() / "masks"
        if spec.name == "folder" and masks.is_dir() and any(masks.iterdir()):
            return [f"{self.target.spec} holds masks; they are ignored: the target takes part without labels."]
        return []


def open_adapt_inputs(settings: AdaptSettings) -> AdaptInputs:
    """Open every set. Nothing is written, so a slip in the command costs nothing.

    Raises:
        ValueError: If a set is empty or not as it should be, or a needed one is missing.
    """
    source = open_labelled(settings.source)
    target = None
    if settings.recipe.needs_target:
        if settings.target is None:
            raise ValueError(
                f"expected --target for {settings.recipe.method}, which learns from target pictures; got none"
            )
        target = open_images(settings.target, source.classes)
    truth = None if settings.eval is None else open_labelled(settings.eval, source.classes)
    kept = None if settings.source_eval is None else open_labelled(settings.source_eval, source.classes)
    specs = (settings.source, settings.target, settings.eval, settings.source_eval)
    for spec, pictures in zip(specs, (source, target, truth, kept), strict=True):
        if pictures is not None and len(pictures) == 0:
            raise ValueError(f"expected at least one picture in {spec}; got none")
    return AdaptInputs(source, target, truth, kept)


@dataclass
class Adaptation:
    """A run of `saot adapt` under way: what was asked, what is opened, the network once it is trained."""

    settings: AdaptSettings
    space: Workspace
    inputs: AdaptInputs
    device: str

    @property
    def recipe(self) -> AdaptRecipe:
        """All settings."""
        return self.settings.recipe

    @cached_property
    def network(self) -> Segmenter:
        """The trained student, in evaluation mode."""
        encoder = read_encoder(self.space.path("encoder.safetensors"))
        network = segmenter_of(encoder, len(self.inputs.classes.names), self.recipe.network, self.settings.seed)
        kept = load_tensors(self.space.path("network.safetensors"))
        if kept is None:
            raise ValueError(f"expected {self.space.path('network.safetensors')}; it is missing: train first")
        network.load_state_dict(kept)
        return network.to(self.device).eval()


def new_network(settings: AdaptSettings, inputs: AdaptInputs) -> Segmenter:
    """The network before training.

    Raises:
        ValueError: If the encoder is not known, or its weights are missing or of another network.
    """
    parts = settings.recipe.network
    encoder = load_encoder(parts.encoder, settings.weights, settings.seed)
    return segmenter_of(encoder, len(inputs.classes.names), parts, settings.seed)


def check_fit(settings: AdaptSettings, inputs: AdaptInputs) -> None:
    """Refuse weights of another network, and a crop that the network or a picture cannot take.

    Raises:
        ValueError: If something does not fit.
    """
    from saot.adapt.trainer import check_crop

    sizes = settings.recipe.pictures
    check_crop(new_network(settings, inputs), settings.recipe)
    check_sizes(inputs.source.images, sizes.source_size, sizes.crop)
    if inputs.target is not None:
        check_sizes(inputs.target, sizes.target_size, sizes.crop)


def run_adaptation(
    settings: AdaptSettings, out: Path, *, device: str = "cpu", progress: Progress | None = None
) -> RunOutcome:
    """Train, score, report; the same call again goes on where it stopped and ends with the same weights.

    Under `accelerate launch -m saot.cli adapt ...` several processes share the work: each draws its own pictures,
    gradients are averaged, and the first one writes.

    Args:
        settings: What is asked.
        out: The run folder.
        device: "cpu" or "cuda".
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be, or accelerate is not installed.
    """
    from saot.pipeline.adaptation_scores import adaptation_report, score_adaptation, write_adaptation_metrics

    check_device(device)
    inputs = open_adapt_inputs(settings)
    accelerator = new_accelerator(device, settings.recipe)
    if not accelerator.is_main_process:
        train_beside(settings, inputs, out, accelerator)
        return RunOutcome({}, {}, Path(out), resumed=False)
    if not Path(out).exists():  # a slip in weights or crop is told before a folder holds on to it
        check_fit(settings, inputs)
    space = Workspace(out, settings.to_dict(), progress)
    try:
        job = Adaptation(settings, space, inputs, str(accelerator.device))
        check_data(job)
        finished = finished_adaptation(job)
        if finished is not None:
            accelerator.wait_for_everyone()  # the others wait for it in `train_beside`
            return finished
        began = time.time()
        train(job, accelerator)
        scores = score_adaptation(job)
        metrics = write_adaptation_metrics(job, scores)
        space.write_log()
        with space.stage("report"):
            adaptation_report(job, run_record(job, began), metrics, scores)
        run = run_record(job, began)
        write_atomic(space.path("run.json"), (json.dumps(run, indent=1) + "\n").encode())
        return RunOutcome(metrics, run, Path(out), resumed=False)
    finally:
        space.close()


def new_accelerator(device: str, recipe: AdaptRecipe) -> Any:
    """Accelerate's view of device, precision and processes.

    Raises:
        ValueError: If accelerate or scikit-learn is not installed, or another precision is in use in this process.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ValueError('training end to end needs accelerate: pip install "saot[adapt]"') from error
    if find_spec("sklearn") is None:  # told before the training, not by the report after it
        raise ValueError('the report of an adaptation needs scikit-learn: pip install "saot[adapt]"')
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return Accelerator(cpu=not device.startswith("cuda"), mixed_precision=recipe.optimizer.precision)


class _NothingKept(Checkpoint):
    """Where the processes beside the first one read the state; only the first writes it."""

    def save(self, state: dict[str, Any]) -> None:
        return None


def train_beside(settings: AdaptSettings, inputs: AdaptInputs, out: Path, accelerator: Any) -> None:
    """Take part in the training of the first process, which alone writes."""
    from saot.adapt.trainer import Trainer

    accelerator.wait_for_everyone()  # the first process has read or counted everything and holds the folder
    if trained(out):
        return
    pixels = load_tensors(out / "work" / "pixels.safetensors") or {}
    pictures = TrainingPictures(inputs.source, inputs.target, pixels["pixels"], settings.recipe, settings.seed)
    path = out / "work" / "checkpoints" / "adapt.pt"
    network, things = new_network(settings, inputs), things_of(inputs.classes)
    with closing(Trainer(network, pictures, settings.recipe, accelerator, things)) as trainer:
        train_steps(trainer.step, settings.recipe.optimizer.steps, trainer.state, _NothingKept(path, 10**9))


def train(job: Adaptation, accelerator: Any) -> None:
    """network.safetensors and encoder.safetensors, unless they are there."""
    from saot.adapt.trainer import Trainer

    space, recipe = job.space, job.recipe
    path = space.path("network.safetensors")
    pixels = source_pixels(job)
    accelerator.wait_for_everyone()
    if trained(space.root):
        return
    with space.stage("train"):
        pictures = TrainingPictures(job.inputs.source, job.inputs.target, pixels, recipe, job.settings.seed)
        network, things = new_network(job.settings, job.inputs), things_of(job.inputs.classes)
        trainer = Trainer(network, pictures, recipe, accelerator, things)
        checkpoint = space.checkpoint("adapt")
        with closing(trainer), gpu_memory(space, accelerator.device):
            history = train_steps(
                trainer.step, recipe.optimizer.steps, trainer.state, checkpoint, space.tell(f"train {recipe.method}")
            )
        space.log("adapt", history)
        student = trainer.student.to("cpu").eval()
        save_encoder(space.path("encoder.safetensors"), student.encoder)
        names = job.inputs.classes
        extra = {
            "classes": list(names.names),
            "colors": [list(color) for color in names.colors],
            "settings": job.settings.to_dict(),
        }
        save_tensors(path, student.state_dict(), {"saot": json.dumps(extra)})
        checkpoint.clear()


def trained(root: Path) -> bool:
    """Whether the training of a run folder is done: all processes ask it, so that none trains alone."""
    return load_tensors(root / "network.safetensors") is not None and (root / "encoder.safetensors").exists()


@contextmanager
def gpu_memory(space: Workspace, device: torch.device) -> Iterator[None]:
    """Writes down the peak of the GPU's memory while it is open; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield
    if device.type == "cuda":
        space.set_facts("gpu", {"peak_memory_bytes": torch.cuda.max_memory_allocated(device)})


def source_pixels(job: Adaptation) -> Tensor:
    """Pixels of each class in each source mask, counted once."""
    path = job.space.work("pixels.safetensors")
    kept = load_tensors(path)
    if kept is not None:
        return kept["pixels"]
    source, tell = job.inputs.source, job.space.tell("source masks")

    def masks():
        for number in range(len(source)):
            yield source.mask(number)
            tell(number + 1, len(source))

    pixels = count_pixels(masks(), len(source.classes.names))
    save_tensors(path, {"pixels": pixels})
    return pixels


def finished_adaptation(job: Adaptation) -> RunOutcome | None:
    """The outcome of a run that is complete, or None. run.json is written last."""
    needed = ("run.json", "metrics.json", "report.html", "network.safetensors", "encoder.safetensors", "log.jsonl")
    if not all(job.space.path(name).exists() for name in needed):
        return None
    run = json.loads(job.space.path("run.json").read_text())
    return RunOutcome(json.loads(job.space.path("metrics.json").read_text()), run, job.space.root, resumed=True)


def check_data(job: Adaptation) -> None:
    """Write down what the run is made of; refuse to go on with other pictures or masks.

    Raises:
        ValueError: If a set is not what it was when the run began.
    """
    now, then = data_record(job.inputs), job.space.facts("data")
    changed = [name for name in now if then and now[name] != then.get(name)]
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
        "differences_from_paper": [
            {"field": path, "paper": paper, "used": used, "reason": why}
            for path, paper, used, why in recipe_differences(settings.recipe)
        ],
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
