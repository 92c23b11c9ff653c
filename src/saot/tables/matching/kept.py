"""What networks make of pictures besides features, on disk: one atomic file each, so that nothing is made twice."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from saot.runs import load_tensors, save_tensors


class Kept:
    """Tensors by what they are made of; one that is missing or damaged is made anew.

    Args:
        folder: Made with the first file; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def get(self, made_of: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The tensors of `made_of` (plain JSON values: all that they depend on), from their file or made now."""
        if self.folder is None:
            return make()
        identity = json.dumps(made_of)
        path = self.folder / f"{made_of[0]}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
        found = load_tensors(path)
        if found is None:
            found = make()
            save_tensors(path, found, {"made_of": identity})
        return found
