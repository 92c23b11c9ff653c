"""What a finished run says of one picture, and the forms in which a picture may come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from saot.data import IGNORE_INDEX, ClassSet, read_image, rgb_of
from saot.report import overlay


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """A picture labelled at its own size, h x w pixels, in K classes.

    Attributes:
        image: RGB, 0 to 255.
        mask: Class index of each pixel; 255 where the run abstains.
        confidence: Probability of the most probable class at each pixel, 0 to 1, as the network has it:
            docs/calibration.md says how far to trust it.
        classes: What the indices mean: names and colours.
        make_probabilities: Makes `probabilities`, which would be K numbers a pixel.
    """

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    classes: ClassSet
    make_probabilities: Callable[[], Float32[np.ndarray, "K h w"]] = field(repr=False)

    @cached_property
    def probabilities(self) -> Float32[np.ndarray, "K h w"]:
        """Probability of each class at each pixel (K, h, w); made when first asked for, then kept."""
        return self.make_probabilities()

    def plot(self, alpha: float = 0.55) -> Any:
        """A matplotlib figure: the picture, the mask laid over it, and a legend of the classes that occur.

        Args:
            alpha: Share of the class colour, 0 to 1.

        Raises:
            ValueError: If alpha is outside 0 to 1.
        """
        from matplotlib import pyplot
        from matplotlib.patches import Patch

        height, width = self.mask.shape
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1 + 5.5 * height / width), layout="constrained")
        left.imshow(self.image)
        right.imshow(overlay(self.image, self.mask, self.classes.colors, alpha))
        for axes in (left, right):
            axes.set_axis_off()
        present = [int(index) for index in np.unique(self.mask) if index != IGNORE_INDEX]
        patches = [
            Patch(color=f"#{bytes(self.classes.colors[index]).hex()}", label=self.classes.names[index])
            for index in present
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(max(len(patches), 1), 6), frameon=False)
        pyplot.close(figure)  # a notebook shows what is returned; left open it would be shown twice
        return figure

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"Prediction({height} x {width} pixels, {len(self.classes.names)} classes)"


def picture_of(picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    """A picture in any of its usual forms as RGB, 0 to 255.

    Args:
        picture: A path; a PIL picture; a NumPy array (h, w, 3), uint8; or a tensor (3, h, w) or (h, w, 3), uint8 or
            floating point from 0 to 1.

    Raises:
        ValueError: If it is none of these, or empty.

    Example:
        >>> import torch
        >>> picture_of(torch.ones(3, 2, 4)).shape, int(picture_of(torch.ones(3, 2, 4)).max())
        ((2, 4, 3), 255)
    """
    if isinstance(picture, str | Path):
        return read_image(picture)
    if isinstance(picture, Tensor):
        return _pixels_of(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ValueError(
                f"expected an array (h, w, 3) of uint8; got {picture.dtype} of shape {picture.shape}: convert it to "
                "RGB, 0 to 255"
            )
        return np.ascontiguousarray(picture)
    from PIL import Image

    if isinstance(picture, Image.Image):
        return rgb_of(picture, "the picture")
    raise ValueError(
        f"expected a path, a PIL picture, an array (h, w, 3) or a tensor; got {type(picture).__name__}: pass one of "
        "them"
    )


def _pixels_of(picture: Tensor) -> UInt8[np.ndarray, "h w 3"]:
    shape = tuple(picture.shape)
    if len(shape) != 3 or 3 not in (shape[0], shape[2]) or 0 in shape:
        raise ValueError(
            f"expected a tensor (3, h, w) or (h, w, 3); got shape {shape}: pass one picture, without a batch axis"
        )
    values = picture.detach().cpu()
    values = values.permute(1, 2, 0) if shape[0] == 3 else values
    if values.is_floating_point():
        if not 0 <= float(values.min()) <= float(values.max()) <= 1:
            raise ValueError(
                f"expected floating-point pixels from 0 to 1; got {float(values.min()):g} to {float(values.max()):g}: "
                "undo the normalisation, or divide by 255"
            )
        values = (values.double() * 255).round().byte()
    if str(values.dtype) != "torch.uint8":
        raise ValueError(f"expected pixels of uint8 or floating point; got {values.dtype}: convert them with .byte()")
    return np.ascontiguousarray(values.numpy())
