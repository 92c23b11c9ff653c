import json

import pytest
import torch

from saot.data.patches import PatchGrid
from saot.features import FeatureGrid, FeatureKey, Provenance

KEY = FeatureKey(
    backbone="dinov2-large",
    weights_sha256="ab" * 32,
    size="504x1008",
    layers=("11", "23"),
    final_norm=True,
    l2_norm=True,
    pad=False,
    patch_size=14,
    dim=8,
    resize="pillow-bicubic",
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_deviation=(58.395, 57.12, 57.375),
)


def provenance(input_size: tuple[int, int] = (28, 42)) -> Provenance:
    return Provenance(
        **{name: getattr(KEY, name) for name in KEY.__dataclass_fields__},
        image_size=(100, 150),
        input_size=input_size,
        source="cafe",
        versions=(("torch", "2.13"), ("pillow", "13.0")),
    )


def test_provenance_survives_json_and_gives_its_key_back():
    there = provenance()
    back = Provenance.from_json(there.to_json())
    assert back == there
    assert hash(back) == hash(there)  # lists of JSON must have become tuples again
    assert back.key == KEY
    assert FeatureKey.from_json(KEY.to_json()) == KEY


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"backbone": 1}', "null"])
def test_json_of_something_else_is_a_sentence(text):
    with pytest.raises(ValueError, match="extract the features again"):
        Provenance.from_json(text)


def test_unknown_field_is_named():
    values = json.loads(KEY.to_json()) | {"flavour": "sour"}
    with pytest.raises(ValueError, match="flavour"):
        FeatureKey.from_json(json.dumps(values))


def test_differences_name_the_fields():
    values = json.loads(KEY.to_json()) | {"l2_norm": False, "size": "1008x504"}
    other = FeatureKey.from_json(json.dumps(values))
    assert KEY.differences(other) == ("size", "l2_norm")
    assert KEY.differences(KEY) == ()


def test_patch_grid_counts_patches_that_touch_the_picture():
    grid = provenance(input_size=(29, 42)).patch_grid
    assert grid == PatchGrid(100, 150, 29, 42, 14, 3, 3)


def test_tokens_of_another_shape_are_refused():
    there = provenance()
    grid = FeatureGrid(torch.zeros(6, 8), there.patch_grid, there)
    assert (grid.height, grid.width) == (2, 3)
    with pytest.raises(ValueError, match=r"2x3 tokens of 8 numbers need \(6, 8\)"):
        FeatureGrid(torch.zeros(5, 8), there.patch_grid, there)
