"""The training stage of `saot adapt`, in one process or several: the first one writes, the others lend a hand."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saot.adapt.encoder_files import save_encoder
from saot.adapt.feature_distance import things_of
from saot.adapt.inputs import Adaptation, AdaptInputs, AdaptSettings, new_network
from saot.adapt.meeting import alone, local_processes
from saot.adapt.pictures import TrainingPictures
from saot.adapt.recipe import AdaptRecipe
from saot.adapt.sampling import count_pixels
from saot.data import ahead, how_to_install
from saot.runs import (
    Checkpoint,
    History,
    Kept,
    Making,
    Mark,
    Workspace,
    identity_of,
    load_tensors,
    read_kept,
    train_steps,
    write_kept,
)


def new_accelerator(device: str, recipe: AdaptRecipe, together: bool = False) -> Any:
    """Accelerate's view of device, precision and processes.

    Args:
        device: What torch calls a device.
        recipe: Its precision is used.
        together: Whether this is one of several processes, which have met; else it works alone, whatever the
            environment says.

    Raises:
        ValueError: If accelerate or scikit-learn is not installed, another precision is in use in this process, or
            Accelerate takes another device.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ValueError(f"training end to end needs accelerate; {how_to_install('adapt')}") from error
    if find_spec("sklearn") is None:  # told before the training, not by the report after it
        raise ValueError(f"the report of an adaptation needs scikit-learn; {how_to_install('adapt')}")
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    with nullcontext() if together else alone():
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=recipe.optimizer.precision)
    if accelerator.device.type != device.partition(":")[0]:
        raise ValueError(
            f"expected the device {device}; accelerate takes {accelerator.device}: see that ACCELERATE_TORCH_DEVICE "
            "and ACCELERATE_USE_CPU are not set, or give --device what they say"
        )
    return accelerator


COUNTED = 256  # masks between two files of their counts
COUNTERS = min(8, os.cpu_count() or 1)  # threads; PNG files are decoded side by side


class _NothingKept(Checkpoint):
    """Where the processes beside the first one read the state; only the first writes it."""

    def keep(self, state: Mapping[str, Any], history: History, mark: Mark) -> Mark:
        return mark


@dataclass(frozen=True)
class Pace:
    """What a training is given besides its settings; it changes the time, and nothing that is learned.

    Attributes:
        workers: Threads of a process that draw batches ahead.
        checkpoint_every: Steps between two checkpoints.
    """

    workers: int = 1
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if self.workers < 1 or self.checkpoint_every < 1:
            raise ValueError(
                f"expected workers and checkpoint_every of at least 1; got {self.workers} and {self.checkpoint_every}"
            )

    @classmethod
    def of_this_machine(cls) -> "Pace":
        """A worker for each core that a process has beside its own; four at most. Launchers say how many there are."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(workers=min(4, max(1, cores // local_processes() - 1)))


def train_beside(settings: AdaptSettings, inputs: AdaptInputs, out: Path, accelerator: Any, pace: Pace) -> None:
    """Take part in the training of the first process, which alone writes, and has read and counted everything."""
    from saot.adapt.trainer import Trainer

    if trained(out):
        return
    pixels = load_tensors(out / "work" / "pixels.safetensors") or {}
    pictures = TrainingPictures(inputs.source, inputs.target, pixels["pixels"], settings.recipe, settings.seed)
    path = out / "work" / "checkpoints" / "adapt.pt"
    network, things = new_network(settings, inputs), things_of(inputs.classes)
    with closing(Trainer(network, pictures, settings.recipe, accelerator, things, pace.workers)) as trainer:
        train_steps(trainer.step, settings.recipe.optimizer.steps, trainer.state, _NothingKept(path, 10**9))


def train(job: Adaptation, accelerator: Any, pixels: Tensor, pace: Pace) -> None:
    """network.safetensors and encoder.safetensors, unless they are there; `pixels` are `source_pixels`."""
    from saot.adapt.trainer import Trainer

    space, recipe = job.space, job.recipe
    path = space.path("network.safetensors")
    if trained(space.root):
        return
    with space.stage("train"):
        pictures = TrainingPictures(job.inputs.source, job.inputs.target, pixels, recipe, job.settings.seed)
        network, things = new_network(job.settings, job.inputs), things_of(job.inputs.classes)
        trainer = Trainer(network, pictures, recipe, accelerator, things, pace.workers)
        checkpoint = replace(space.checkpoint("adapt", log="adapt"), every=pace.checkpoint_every)
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
        write_kept(path, Kept(student.state_dict(), about=extra))
        checkpoint.clear()


def trained(root: Path) -> bool:
    """Whether the training of a run folder is done: all processes ask it, so that none trains alone."""
    return read_kept(root / "network.safetensors") is not None and (root / "encoder.safetensors").exists()


@contextmanager
def gpu_memory(space: Workspace, device: torch.device) -> Iterator[None]:
    """Writes down the peak of the GPU's memory while it is open; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield
    if device.type == "cuda":
        space.set_facts("gpu", {"peak_memory_bytes": torch.cuda.max_memory_allocated(device)})


def source_pixels(job: Adaptation) -> Tensor:
    """Pixels of each class in each source mask, counted once by several threads; what is counted is kept."""
    source, classes = job.inputs.source, job.inputs.source.classes.names
    identity = identity_of(job.space.facts("data").get("source"), classes)
    tell = job.space.tell("source masks")

    def row(number: int) -> Tensor:
        return count_pixels([source.mask(number)], len(classes))

    def part(numbers: range) -> Tensor:
        def count(making: Making) -> Kept:
            rows = ahead(row, numbers, depth=2 * COUNTERS, workers=COUNTERS, name=lambda number: source.keys[number])
            found = []
            for done, one in enumerate(rows, start=numbers.start + 1):
                found.append(one)
                tell(done, len(source))
            return Kept({"pixels": torch.cat(found)})

        name = f"work/pixels/{numbers.start:06d}"
        return job.space.once(name, identity_of(identity, COUNTED, numbers.start), count).tensors["pixels"]

    def make(making: Making) -> Kept:
        parts = [part(range(n, min(n + COUNTED, len(source)))) for n in range(0, len(source), COUNTED)]
        return Kept({"pixels": torch.cat(parts)})

    pixels = job.space.once("work/pixels", identity, make).tensors["pixels"]
    job.space.forget("work/pixels")
    return pixels
