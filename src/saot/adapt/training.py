"""The training stage of `saot adapt`, in one process or several: the first one writes, the others lend a hand."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saot.adapt.encoder_files import save_encoder
from saot.adapt.feature_distance import things_of
from saot.adapt.inputs import Adaptation, AdaptInputs, AdaptSettings, new_network
from saot.adapt.pictures import TrainingPictures
from saot.adapt.recipe import AdaptRecipe
from saot.adapt.sampling import count_pixels
from saot.runs import (
    Checkpoint,
    History,
    Kept,
    Making,
    Mark,
    Workspace,
    identity_of,
    load_tensors,
    save_tensors,
    train_steps,
)


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
    return Accelerator(cpu=device == "cpu", mixed_precision=recipe.optimizer.precision)


class _NothingKept(Checkpoint):
    """Where the processes beside the first one read the state; only the first writes it."""

    def keep(self, state: Mapping[str, Any], history: History, mark: Mark) -> Mark:
        return mark


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
    source, classes = job.inputs.source, job.inputs.source.classes.names

    def make(making: Making) -> Kept:
        def masks():
            for number in range(len(source)):
                yield source.mask(number)
                job.space.tell("source masks")(number + 1, len(source))

        return Kept({"pixels": count_pixels(masks(), len(classes))})

    identity = identity_of(job.space.facts("data").get("source"), classes)
    return job.space.once("work/pixels", identity, make).tensors["pixels"]
