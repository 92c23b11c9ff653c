"""Files that the tools' own packages wrote: `benchmarks/formats/check.py --count 8 --golden tests/annotate/golden`."""

from pathlib import Path

import numpy as np
import pytest

from saot.annotate import READERS
from saot.data.classes import folder_class_set

GOLDEN = Path(__file__).parent / "golden"
CLASSES = folder_class_set([*(f"class {number}" for number in range(17)), "a & b", "sky <1>"])
FILES = {
    "cvat.xml": "cvat",
    "datumaro.xml": "cvat",
    "coco.json": "coco",
    "label-studio.json": "label-studio",
    "labelme": "labelme",
    "fiftyone": "fiftyone",
}


@pytest.mark.parametrize("place", FILES)
def test_what_a_tool_wrote_is_read_pixel_for_pixel(place):
    kind = FILES[place]
    found = {Path(one.name).stem: one for one in READERS[kind](GOLDEN / place, CLASSES)}
    with np.load(GOLDEN / "masks.npz") as masks:
        assert len(masks) == 8
        for name, mask in masks.items():
            one = found.get(Path(name).stem)
            if one is None or not one.regions:
                assert (mask == 255).all()
            else:
                assert one.size == mask.shape and np.array_equal(one.mask(CLASSES), mask)


def test_every_file_that_is_kept_is_read():
    assert {path.name for path in GOLDEN.iterdir()} == {*FILES, "masks.npz"}
