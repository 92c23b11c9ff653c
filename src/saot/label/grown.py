"""Declared points grown to what they lie on: one click labels an object, not a pixel.

Segment Anything answers a point with masks of whole, part and subpart (Kirillov et al., 2023, sec. 3). The smallest
that holds no point of another class is taken: it says least that nobody has said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from saot.data import IGNORE_INDEX, sha256_file
from saot.features import EncodedPicture, Prompt, PromptSegmenter


@dataclass(frozen=True)
class Grower:
    """Grows points with MobileSAM's mask decoder.

    Attributes:
        weights: The published file of the whole of MobileSAM.
        device: Where it runs.
    """

    weights: Path
    device: str = "cpu"

    @cached_property
    def identity(self) -> str:
        """A name for the weights."""
        return sha256_file(self.weights)

    @cached_property
    def segmenter(self) -> PromptSegmenter:
        """The network; its weights are read when it is first asked.

        Raises:
            ValueError: If the file is not the whole of MobileSAM.
        """
        return PromptSegmenter(self.weights, device=self.device)

    def labels(
        self, image: UInt8[Any, "h w 3"], x: Int[Tensor, " p"], y: Int[Tensor, " p"], classes: Int[Tensor, " p"]
    ) -> UInt8[Tensor, "h w"]:
        """Class of every pixel that a point has been grown to, 255 of all others; of several masks the smallest speaks.

        Args:
            image: RGB, 0 to 255.
            x: Columns of the points, pixels.
            y: Rows of them.
            classes: Their classes.
        """
        found = np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
        if len(classes) == 0:
            return torch.from_numpy(found)
        encoded, masks = self.segmenter.encode(image), []
        places = [(int(v), int(u)) for u, v in zip(x.tolist(), y.tolist(), strict=True)]
        kinds = [int(label) for label in classes.tolist()]
        for place, label in zip(places, kinds, strict=True):
            if any(kind == label and mask[place] for kind, mask in masks):
                continue  # what it lies on has been found
            others = [other for other, kind in zip(places, kinds, strict=True) if kind != label]
            mask = self._object(encoded, place, others)
            if mask is not None:
                masks.append((label, mask))
        for label, mask in sorted(masks, key=lambda one: -int(one[1].sum())):
            found[mask] = label
        return torch.from_numpy(found)

    def _object(
        self, encoded: EncodedPicture, place: tuple[int, int], others: Sequence[tuple[int, int]]
    ) -> Bool[Any, "h w"] | None:
        """The smallest mask that holds this place and none of the others; None if there is none."""
        asked = Prompt.at(place[1] + 0.5, place[0] + 0.5)
        answers = self.segmenter.candidates(encoded, [asked]).masks[0].numpy()
        fitting = [mask for mask in answers if mask[place] and not any(mask[other] for other in others)]
        return min(fitting, key=lambda mask: int(mask.sum()), default=None)
