"""A finished `saot adapt` at work: from its run folder alone, without the weights it started from."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saot.adapt.encoder_files import read_encoder
from saot.adapt.encoders import Encoder
from saot.adapt.networks import Segmenter, build_segmenter
from saot.adapt.predict import picture_logits, predict_mask
from saot.adapt.recipe import NetworkRecipe, PicturesRecipe
from saot.adapt.two_scale import TwoScaleSettings
from saot.data import ClassSet, ahead, as_written
from saot.features import Failed, Picture, Unreadable, readable
from saot.label import Labelled, Labeller, Prediction, classes_of, picture_of
from saot.runs import read_kept

AGAIN = "give the same `saot adapt` command again"


@dataclass(frozen=True)
class AdaptedRun:
    """A network trained end to end, ready to label pictures.

    Attributes:
        classes: What the indices mean.
        network: In evaluation mode.
        pictures: The size pictures are brought to, and the window.
        method: Its name in metrics.json.
        label_budget: No target label is behind it.
    """

    classes: ClassSet
    network: Segmenter
    pictures: PicturesRecipe
    method: str
    label_budget: int = 0

    each = Labeller.each

    def mask(self, image: UInt8[Any, "h w 3"], fingerprint: str) -> UInt8[Tensor, "h w"]:
        """Class index of every pixel, at the picture's own size."""
        return predict_mask(self.network, image, self.pictures)

    def masks(
        self, pictures: Iterable[Picture], failed: Failed | None = None, confident: bool = False
    ) -> Iterator[Labelled]:
        """Each picture with its mask, in their order; see `Labeller.masks`."""
        read = _load if failed is None else readable(_load)
        for picture, image in ahead(lambda one: (one, read(one)), pictures, name=lambda one: one.name):
            if isinstance(image, Unreadable):
                assert failed is not None
                failed(picture, image.reason)
            else:
                confidence = None
                if confident:
                    confidence = picture_logits(self.network, image, self.pictures).softmax(0).amax(0).float().cpu()
                yield Labelled(picture, image, predict_mask(self.network, image, self.pictures), confidence)

    def probabilities(self, pictures: Iterable[Picture]) -> Iterator[Float[Tensor, "K h w"]]:
        """Probability of each class at each pixel of each picture; see `Labeller.probabilities`."""
        for image in ahead(_load, pictures, name=lambda one: one.name):
            yield picture_logits(self.network, image, self.pictures).softmax(0).float().cpu()

    def predict(self, picture: Any) -> Prediction:
        """What the network says of one picture; see `Labeller.predict`."""
        image = picture_of(picture)
        logits = picture_logits(self.network, image, self.pictures)
        mask, probabilities = logits.argmax(0).to("cpu", torch.uint8), logits.softmax(0).cpu()
        confidence = probabilities.amax(0)
        return Prediction(image, mask.numpy(), confidence.numpy(), self.classes, probabilities.numpy)


def _load(picture: Picture) -> UInt8[Any, "h w 3"]:
    return picture.load()


def segmenter_of(encoder: Encoder, num_classes: int, parts: NetworkRecipe, seed: int) -> Segmenter:
    """The network that a recipe describes around an encoder, its other weights drawn from the seed."""
    return build_segmenter(
        encoder,
        num_classes,
        parts.head,
        two_scale=TwoScaleSettings(projector_scale=parts.pull_scale) if parts.two_scale else False,
        projector_kernel=parts.projector_kernel,
        projector_last=parts.projector_last,
        seed=seed,
        channels=parts.channels,
    )


def published_network(folder: Path) -> dict[str, Any]:
    """What network.safetensors says of itself: classes, colours, settings.

    Raises:
        ValueError: If it is missing or damaged.
    """
    path = folder / "network.safetensors"
    try:
        if not path.is_file():
            raise FileNotFoundError
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {})["saot"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"expected {path} of a finished run; it is missing or damaged: {AGAIN}") from error


def open_adapted(folder: Path, device: str = "cpu") -> AdaptedRun:
    """The network of a finished run.

    Args:
        folder: Of the run.
        device: Where it runs, such as "cuda".

    Raises:
        ValueError: If a file is missing or damaged.
    """
    published, path = published_network(folder), folder / "network.safetensors"
    encoder = read_encoder(folder / "encoder.safetensors")
    with as_written(path, AGAIN):
        classes, recipe = classes_of(published), published["settings"]["recipe"]
        sizes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in recipe["pictures"].items()
        }
        network = segmenter_of(encoder, len(classes.names), NetworkRecipe(**recipe["network"]), 0)
        kept = read_kept(path)
        if kept is None:
            raise TypeError("its tensors cannot be read, or are not as they were written")
        with torch.no_grad():
            network.load_state_dict(dict(kept.tensors))
        method = str(published["settings"]["method"]).replace("-", "_")
        return AdaptedRun(classes, network.eval().to(device), PicturesRecipe(**sizes), method)


# what a caller of the core hands in
FINISHED: Mapping[str, Callable[[Path, str], Labeller]] = MappingProxyType({"adaptation": open_adapted})
