"""What every program of a tool shares: the masks to compare with, and how an answer is given. Needs numpy alone."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np


class Folder:
    """The folder that `check.py` has filled: `ours/`, `pictures/`, `truth/`; `theirs/` is to be filled."""

    def __init__(self) -> None:
        self.root = Path(sys.argv[1]).resolve()
        about = json.loads((self.root / "truth" / "truth.json").read_text())
        self.classes = about["classes"]
        self.masks = {
            name: np.load(self.root / "truth" / f"{number}.npy") for number, name in enumerate(about["names"])
        }
        self.ours, self.pictures = self.root / "ours" / "annotations", self.root / "pictures"

    def theirs(self, name: str) -> Path:
        """Where the tool writes a format; the parent folder is made."""
        place = self.root / "theirs" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def parts(self, name: str):
        """Class name and pixels of each class of a picture."""
        mask = self.masks[name]
        for label in np.unique(mask).tolist():
            if label != 255:
                yield label, mask == label

    def empty(self, name: str) -> np.ndarray:
        """A mask without any class."""
        return np.full(self.masks[name].shape, 255, np.uint8)

    def equal(self, found: dict) -> int:
        """How many pictures were read pixel for pixel; one that the tool did not give must be empty."""
        count = 0
        for name, mask in self.masks.items():
            mine = found.get(name)
            if mine is None:
                count += bool((mask == 255).all())
            else:
                count += mine.shape == mask.shape and bool(np.array_equal(mine, mask))
        return count

    def by_stem(self) -> dict:
        """Names by their names without ending."""
        return {str(Path(name).with_suffix("")): name for name in self.masks}


def answer(folder: Folder, reads: dict, **packages: str) -> None:
    """Prints what was found: by format, how many masks the tool read as we wrote them."""
    found = {
        kind: {"equal": folder.equal(masks), "of": len(folder.masks), "how": how}
        for kind, (masks, how) in reads.items()
    }
    versions = {package: version(package) for package in packages.values()}
    print("ANSWER " + json.dumps({"versions": versions, "reads": found}))
