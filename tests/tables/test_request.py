"""What may be asked of a table."""

import json

import numpy as np
import pytest
from helpers.runs import make_folder
from PIL import Image

from saot.adapt import LoraSettings
from saot.tables import Request, reproduce
from saot.tables.adaptation import completed as completed_adaptation
from saot.tables.adaptation import settings_of
from saot.tables.label.labelling import completed
from saot.tables.presets import experiment_named


@pytest.mark.parametrize(
    ("data", "seeds", "said"),
    [
        (("a", None, None), "0", "--target is missing"),
        ((None, None, None), "0,x", "0,x"),
        ((None, None, None), "", "whole numbers"),
        ((None, None, None), "1,1", "different"),
    ],
)
def test_requests_that_cannot_be(data, seeds, said):
    with pytest.raises(ValueError, match=said):
        completed(Request.from_words(seeds, **dict(zip(("source", "target", "eval"), data, strict=True))))


@pytest.mark.parametrize("complete", [completed, completed_adaptation])
def test_built_in_scenes_stand_in_for_all_sets_or_none(complete):
    whole = complete(Request())
    assert whole.source == "scenes:game:train" and whole.eval == "scenes:street:val"
    assert complete(Request(source="a", target="b", eval="c")).source_eval == ""
    with pytest.raises(ValueError, match="--eval is missing"):
        complete(Request(source="a", target="b"))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"counts": "half"}, "paper, small, tiny"), ({"held_out": -1}, "--held-out"), ({"size": "x"}, "size")],
)
def test_fields_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        Request(**given)


@pytest.fixture
def binary(tmp_path):
    """Folders whose masks hold 0 and 255, and no list of classes."""
    for seed, name in enumerate(("source", "target", "eval")):
        make_folder(tmp_path / name, seed)
        (tmp_path / name / "classes.txt").unlink()
        for path in (tmp_path / name / "masks").iterdir():
            Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    return {name: f"folder:{tmp_path / name}" for name in ("source", "target", "eval")}


def test_a_table_takes_a_mask_map(binary, tmp_path):
    request = Request(**binary, counts="tiny", size="56x84", points="2", mask_map="0=sky,255=roof")
    result = reproduce("saot-table-1", request, tmp_path / "table", columns=["miou"])
    kept = json.loads((tmp_path / "table" / "table.json").read_text())
    assert kept["request"]["mask_map"] == "0=sky,255=roof"
    values = [cell["mean"] for row in kept["rows"] for cell in row["cells"].values() if cell and cell.get("mean")]
    assert result and values
    with pytest.raises(ValueError, match=r"no class but 0, and 255"):
        reproduce("saot-table-1", Request(**binary, counts="tiny", size="56x84", points="2"), tmp_path / "other")


def test_trained_networks_and_adapters_take_a_mask_map(binary):
    request = completed_adaptation(Request(**binary, weights="random", counts="tiny", mask_map="0=sky,255=roof"))
    experiment = experiment_named("t2s-da-roads")
    found = [settings_of(request, experiment, row, 0) for row in experiment.rows if not row.quoted]
    assert found and {one.mask_map for one in found if one is not None} == {"0=sky,255=roof"}
    adapter = LoraSettings(binary["source"], binary["target"], mask_map="0=sky,255=roof")
    assert adapter.request().mask_map == adapter.to_dict()["mask_map"] == "0=sky,255=roof"
    assert "mask_map" not in LoraSettings(binary["source"], binary["target"]).to_dict()
    with pytest.raises(ValueError, match="expected a mask map with a folder: set"):
        LoraSettings("scenes:game:train", "scenes:street:train", mask_map="binary")
