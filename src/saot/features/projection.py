"""Backbones whose tokens have gone through the form in which a store keeps them: eight bits, or fewer numbers.

Fewer numbers are x P, with the leading eigenvectors of the tokens' second moment in the columns of P. They are
orthonormal and nothing is centred, so inner products, of which all costs are made, are kept as far as so many numbers
can keep them. P is fitted once, on pictures without labels, and lies in a file beside what was made with it.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.data import ImageSet, write_atomic
from saot.features.base import Backbone, Keyed
from saot.features.flow import Picture, extract_each
from saot.features.forms import parse_form
from saot.features.grid import FeatureKey

FITTED_ON = 32  # pictures


@dataclass(frozen=True, eq=False)
class Projection:
    """P, and of which tokens.

    Attributes:
        matrix: Orthonormal columns.
        key: Of the tokens that it is for.
    """

    matrix: Float[Tensor, "d k"]
    key: FeatureKey

    @property
    def form(self) -> str:
        """What the key of projected features says: `projected:NUMBERS:NAME`."""
        content = hashlib.blake2b(self.matrix.numpy().astype("<f4").tobytes(), digest_size=8).hexdigest()
        return f"projected:{self.matrix.shape[1]}:{content}"

    @property
    def file(self) -> str:
        """Name of its file."""
        return projection_file(self.key, self.matrix.shape[1])

    def save(self, folder: Path) -> None:
        """Put it into a folder, unless it is there."""
        from safetensors.torch import save

        if not (folder / self.file).is_file():
            write_atomic(folder / self.file, save({"matrix": self.matrix}, metadata={"key": self.key.to_json()}))


class Projected(Keyed):
    """A backbone whose tokens are projected.

    Args:
        backbone: The whole one.
        projection: For its tokens.
    """

    def __init__(self, backbone: Backbone, projection: Projection) -> None:
        self._backbone, self.projection = backbone, projection
        self._key = replace(backbone.key, dim=projection.matrix.shape[1], form=projection.form)
        self.device, self.concurrent = getattr(backbone, "device", "cpu"), getattr(backbone, "concurrent", False)
        together = getattr(backbone, "batch_tokens", None)
        if together is not None:
            self.batch_tokens = lambda images: [tokens @ projection.matrix for tokens in together(images)]

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return self._backbone.input_size(height, width)

    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n k"]:
        return self._backbone.tokens(image) @ self.projection.matrix


def in_form(backbone: Backbone, form: str, folders: Sequence[Path] = (), images: ImageSet | None = None) -> Backbone:
    """The backbone whose features are those that a store of this form gives back.

    Args:
        backbone: The whole one.
        form: As `parse_form` has it, or as a key says it, with the name of the matrix.
        folders: Where a projection may have been kept; the first that has one counts.
        images: Pictures to fit one on where none is kept: the first ones.

    Raises:
        ValueError: If the form does not fit, or the projection is missing, damaged or another one.
    """
    name, numbers = parse_form(":".join(form.split(":")[:2]))
    if name == "half":
        return backbone
    if name == "int8":
        found = copy.copy(backbone)
        assert isinstance(found, Keyed), "every backbone is"
        found._key = replace(backbone.key, form="int8")
        return found
    if numbers >= backbone.dim:
        raise ValueError(
            f"expected a projection to fewer numbers than the {backbone.dim} of a token of {backbone.key.backbone}; "
            f"got {numbers}: give projected:{max(backbone.dim // 4, 1)}, or int8"
        )
    places = [folder / projection_file(backbone.key, numbers) for folder in folders]
    path = next((path for path in places if path.is_file()), None)
    if path is not None:
        projection = read_projection(path, backbone.key, numbers)
    elif images is not None:
        projection = fit_projection(backbone, images, numbers)
    else:
        raise ValueError(f"expected the projection of the features in {places[0]}; it is missing: put the file back")
    if form.count(":") == 2 and projection.form != form:
        raise ValueError(f"expected the projection {form} in {path}; got {projection.form}: put the right file back")
    return Projected(backbone, projection)


def projection_file(key: FeatureKey, numbers: int) -> str:
    """Name of the file in which a projection of such features is kept."""
    return f"projection-{numbers}-{hashlib.blake2b(key.to_json().encode(), digest_size=8).hexdigest()}.safetensors"


def read_projection(path: Path, key: FeatureKey, numbers: int) -> Projection:
    """A projection that was kept.

    Raises:
        ValueError: If it is damaged, or for other features.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            matrix, about = file.get_tensor("matrix"), json.loads(file.metadata()["key"])
        sound = torch.allclose(matrix.double().T @ matrix.double(), torch.eye(numbers).double(), atol=1e-4)
        if not sound or matrix.dtype != torch.float32 or about != json.loads(key.to_json()):
            raise ValueError("another matrix")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged, or of other features; put it back, or remove it and what was made with it"
        ) from error
    return Projection(matrix, key)


def fit_projection(backbone: Backbone, images: ImageSet, numbers: int) -> Projection:
    """The leading eigenvectors of the second moment of the first pictures' tokens.

    Each has its largest entry positive.

    Args:
        backbone: Of whole tokens.
        images: Pictures; labels are not looked at.
        numbers: Columns, fewer than a token has numbers.

    Raises:
        ValueError: If a picture cannot be read.
    """
    moment = torch.zeros(backbone.dim, backbone.dim, dtype=torch.float64)
    first = range(min(FITTED_ON, len(images)))
    pictures = [Picture(images.keys[n], partial(images.image, n), "") for n in first]
    for one in extract_each(backbone, pictures):
        tokens = one.features.tokens.double()
        moment += tokens.T @ tokens
    vectors = torch.linalg.eigh(moment).eigenvectors.flip(-1)[:, :numbers]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return Projection((vectors * largest.sign()).float().contiguous(), backbone.key)
