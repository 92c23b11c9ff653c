import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saot.annotate import cvat_function
from saot.annotate.regions import Region
from saot.annotate.runs import values_of_runs
from saot.label import open_run
from saot.tables import ALL_WINGS


@dataclass
class Spec:
    labels: list[Any] = field(default_factory=list)


@pytest.fixture
def sdk(monkeypatch):
    """What is used of cvat-sdk."""
    room, part = ModuleType("cvat_sdk"), ModuleType("cvat_sdk.auto_annotation")
    part.DetectionFunctionSpec = Spec
    part.label_spec = lambda name, id, **more: SimpleNamespace(name=name, id=id, **more)
    part.mask = lambda label_id, points: SimpleNamespace(label_id=label_id, points=points)
    room.auto_annotation = part
    monkeypatch.setitem(sys.modules, "cvat_sdk", room)
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", part)


def context(threshold=None, polygons=False):
    return SimpleNamespace(frame_name="a.png", conf_threshold=threshold, conv_mask_to_poly=polygons)


def picture():
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (41, 67, 3), np.uint8))


def test_its_masks_are_those_of_the_run(finished, sdk):
    function, run = cvat_function.create(str(finished), "cpu"), open_run(finished, ALL_WINGS)
    names = run.classes.names
    assert [(one.name, one.id, one.type) for one in function.spec.labels] == [
        (n, i, "mask") for i, n in enumerate(names)
    ]
    mask = np.full((41, 67), 255, np.uint8)
    shapes = function.detect(context(), picture())
    for shape in shapes:
        assert all(isinstance(one, float) for one in shape.points)
        *lengths, left, top, right, bottom = map(int, shape.points)
        size = bottom - top + 1, right - left + 1
        pixels = values_of_runs(lengths, size[0] * size[1], "a mask").reshape(size)
        assert pixels[0].any() and pixels[-1].any() and pixels[:, 0].any() and pixels[:, -1].any()
        region = Region(names[shape.label_id], left, top, pixels)
        mask[top : bottom + 1, left : right + 1][region.mask] = shape.label_id
    assert len(shapes) > 1 and np.array_equal(mask, run.predict(picture()).mask)


def test_classes_that_are_not_sure_enough_are_left_out(finished, sdk):
    function, found = cvat_function.create(str(finished), "cpu"), open_run(finished, ALL_WINGS).predict(picture())
    means = {int(k): found.confidence[found.mask == k].mean() for k in np.unique(found.mask)}
    middle = sorted(means.values())[len(means) // 2] - 1e-3
    labels = [shape.label_id for shape in function.detect(context(middle), picture())]
    assert 0 < len(labels) < len(means) and labels == [k for k, mean in means.items() if mean >= middle]


def test_polygons_are_refused_and_so_is_what_is_no_run(finished, sdk, tmp_path):
    with pytest.raises(ValueError, match=r"a\.png; polygons"):
        cvat_function.create(str(finished), "cpu").detect(context(polygons=True), picture())
    with pytest.raises(ValueError, match="saot run"):
        cvat_function.create(str(tmp_path), "cpu")


def test_without_the_package_it_says_which_one(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "cvat_sdk", None)
    with pytest.raises(ValueError, match="pip install cvat-cli"):
        cvat_function.create(str(finished), "cpu")
