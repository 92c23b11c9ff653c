"""What the core does not know, handed in by its caller: the command line has all of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from saot.data import ClassSet, Fingerprints, ImageSet, LabelledSet, MaskMap, OpenSet, open_images, open_labelled
from saot.decoder import ExtraLoss, TokenPool
from saot.features import Backbone, Failed, OpenBackbone, Picture, load_backbone
from saot.label.prediction import Prediction
from saot.recipes import BridgeRecipe
from saot.report import JoinedFormat

T = TypeVar("T")


@dataclass(frozen=True)
class Labelled:
    """A picture with its mask, on the CPU.

    Attributes:
        picture: Which.
        image: RGB, 0 to 255.
        mask: Class index of every pixel, 255 for none.
        confidence: Probability of the most probable class, 0 to 1; None where it was not asked for.
    """

    picture: Picture
    image: UInt8[Any, "h w 3"]
    mask: UInt8[Tensor, "h w"]
    confidence: Float[Tensor, "h w"] | None = None


@runtime_checkable
class Labeller(Protocol):
    """A finished network that labels pictures of any size."""

    @property
    def classes(self) -> ClassSet:
        """What the indices mean."""
        ...

    @property
    def method(self) -> str:
        """Its name in metrics.json."""
        ...

    @property
    def label_budget(self) -> int:
        """Target labels behind it."""
        ...

    def mask(self, image: UInt8[Any, "h w 3"], fingerprint: str) -> UInt8[Tensor, "h w"]:
        """Class index of every pixel, on the CPU."""
        ...

    def masks(
        self, pictures: Iterable[Picture], failed: Failed | None = None, confident: bool = False
    ) -> Iterator[Labelled]:
        """Each picture with its mask, in their order; pictures are read ahead of the network.

        Args:
            pictures: Any number of them.
            failed: Hears of a picture that cannot be read, and why; the others go on. Unless given it ends there.
            confident: Whether confidences are wanted too.
        """
        ...

    def each(
        self,
        pictures: Iterable[Picture],
        make: Callable[[Labelled], T],
        failed: Failed | None = None,
        confident: bool = False,
    ) -> Iterator[T]:
        """What `make` gives for each picture with its mask, in their order; it may be called in several threads.

        Unless a network says otherwise, one after another.

        Args:
            pictures: As in `masks`.
            make: Called for several pictures at once where the network works on several at once.
            failed: As in `masks`.
            confident: As in `masks`.
        """
        return map(make, self.masks(pictures, failed, confident))

    def probabilities(self, pictures: Iterable[Picture]) -> Iterator[Float[Tensor, "K h w"]]:
        """Probability of each class at each pixel of each picture, in their order, on the CPU.

        Raises:
            ValueError: If a picture cannot be read or is empty; names it.
        """
        ...

    def predict(self, picture: Any) -> Prediction:
        """Mask, confidence and probabilities of one picture, at its own size and on the CPU.

        Args:
            picture: A path; a PIL picture; a NumPy array (h, w, 3), uint8; or a tensor (3, h, w) or (h, w, 3), uint8 or
                floating point from 0 to 1.

        Raises:
            ValueError: If it is none of these or cannot be read.
        """
        ...


@runtime_checkable
class PullWing(Protocol):
    """T2S-DA's pull loss on frozen features."""

    def translate(self, source: ImageSet, target: ImageSet, bridge: BridgeRecipe, seed: int) -> ImageSet:
        """The source's pictures in the target's colours, number by number."""
        ...

    def loss(self, source: TokenPool, target: TokenPool, bridge: BridgeRecipe) -> ExtraLoss:
        """The loss that draws from both; features of `source` are each token's and its translation's."""
        ...


def _in_silence(sentence: str) -> None:
    return None


@dataclass(frozen=True)
class Wings:
    """What a caller hands in.

    Attributes:
        readers: Readers of data sets, by the NAME of a SPEC.
        backbones: Makers of backbones, by name.
        finished: Openers of finished runs, by the `kind` of their run.json; called with folder and device.
        pull: The pull loss, or None.
        say: Hears a sentence that the user should know while a job is under way.
        seen: What is known of the files of pictures and masks; a job that remembers it puts its own here.
        mask_map: What values in the masks of a `folder` mean, where they are no class indices.
        formats: Files in which masks of many pictures are written, by name.
    """

    readers: Mapping[str, OpenSet] = field(default_factory=dict)
    backbones: Mapping[str, OpenBackbone] = field(default_factory=dict)
    finished: Mapping[str, Callable[[Path, str], Labeller]] = field(default_factory=dict)
    pull: PullWing | None = None
    say: Callable[[str], None] = _in_silence
    seen: Fingerprints | None = None
    mask_map: MaskMap | None = None
    formats: Mapping[str, JoinedFormat] = field(default_factory=dict)

    def images(self, spec: str, classes: ClassSet | None = None) -> ImageSet:
        """`saot.data.open_images` with these readers."""
        return open_images(spec, classes, self.readers, self.seen)

    def labelled(self, spec: str, classes: ClassSet | None = None) -> LabelledSet:
        """`saot.data.open_labelled` with these readers."""
        return open_labelled(spec, classes, self.readers, self.seen, self.mask_map)

    def backbone(self, name: str, weights: str | Path | None = None, **options: Any) -> Backbone:
        """`saot.features.load_backbone` with these backbones."""
        return load_backbone(name, weights, **options, others=self.backbones)


NO_WINGS = Wings()
