"""What a run of `saot adapt` is asked, what it opens, and the network it begins and ends with."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from saot.adapt.encoder_files import load_encoder, read_encoder
from saot.adapt.finished import segmenter_of
from saot.adapt.networks import Segmenter
from saot.adapt.pictures import check_sizes
from saot.adapt.recipe import AdaptRecipe
from saot.data import (
    ClassSet,
    Fingerprints,
    ImageSet,
    LabelledSet,
    fitting,
    mask_map_of,
    open_images,
    open_labelled,
    parse_spec,
    said_of_masks,
)
from saot.recipes import as_dict
from saot.runs import RUN_FORMAT, Workspace, load_tensors
from saot.scenes import READERS

KIND = "adaptation"


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
        mask_map: What values in the masks of a `folder` mean, as `saot.data.parse_mask_map` reads it.
    """

    source: str
    target: str | None
    eval: str | None = None
    source_eval: str | None = None
    weights: str | None = None
    seed: int = 0
    recipe: AdaptRecipe = field(default_factory=AdaptRecipe)
    mask_map: str | None = None

    def __post_init__(self) -> None:
        said = said_of_masks(self.mask_map, self.source, self.target, self.eval, self.source_eval)
        object.__setattr__(self, "mask_map", said)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for run.json."""
        mapped = {} if self.mask_map is None else {"mask_map": self.mask_map}
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
            **mapped,
        }

    @property
    def method(self) -> str:
        """The method's name in metrics.json."""
        return self.recipe.method.replace("-", "_")


@dataclass(frozen=True)
class AdaptInputs:
    """Opened sets; the target has no way to its labels. `left_out` says what has a mask of another size."""

    source: LabelledSet
    target: ImageSet | None
    truth: LabelledSet | None
    source_truth: LabelledSet | None
    left_out: tuple[str, ...] = ()

    @property
    def classes(self) -> ClassSet:
        """Those of the source."""
        return self.source.classes

    def notes(self) -> list[str]:
        """What a user should know of the sets."""
        if self.target is None:
            return list(self.left_out)
        spec = parse_spec(self.target.spec)
        masks = Path(os.path.expanduser(spec.path), "masks")
        if spec.name == "folder" and masks.is_dir() and any(masks.iterdir()):
            ignored = f"{self.target.spec} holds masks; they are ignored: the target takes part without labels."
            return [*self.left_out, ignored]
        return list(self.left_out)


def open_adapt_inputs(settings: AdaptSettings, seen: Fingerprints, strict: bool = False) -> AdaptInputs:
    """Open every set. Nothing is written, so a slip in the command costs nothing.

    Args:
        settings: What is asked.
        seen: Names the content of pictures and masks, and remembers their sizes.
        strict: Whether a mask that has not the size of its picture is an error; else the picture is left out.

    Raises:
        ValueError: If a set is empty or not as it should be, or a needed one is missing.
    """
    left_out: list[str] = []
    meaning = mask_map_of(settings.mask_map)

    def labelled(spec: str | None, classes: ClassSet | None = None) -> LabelledSet | None:
        found = None if spec is None else fitting(open_labelled(spec, classes, READERS, seen, meaning), strict)
        left_out.extend([found.sentence] if found is not None and found.left_out else [])
        return None if found is None else found.data

    source = labelled(settings.source)
    assert source is not None, "a source is always named"
    target = None
    if settings.recipe.needs_target:
        if settings.target is None:
            raise ValueError(
                f"expected --target for {settings.recipe.method}, which learns from target pictures; got none"
            )
        target = open_images(settings.target, source.classes, READERS, seen)
    truth, kept = (labelled(spec, source.classes) for spec in (settings.eval, settings.source_eval))
    specs = (settings.source, settings.target, settings.eval, settings.source_eval)
    for spec, pictures in zip(specs, (source, target, truth, kept), strict=True):
        if pictures is not None and len(pictures) == 0:
            raise ValueError(f"expected at least one picture in {spec}; got none")
    return AdaptInputs(source, target, truth, kept, tuple(left_out))


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
    settings.recipe.check_classes(len(inputs.classes.names))
    check_crop(new_network(settings, inputs), settings.recipe)
    check_sizes(inputs.source.images, sizes.source_size, sizes.crop)
    if inputs.target is not None:
        check_sizes(inputs.target, sizes.target_size, sizes.crop)
