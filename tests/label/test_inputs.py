import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.runs import SIZE, make_folder, tiny_settings
from helpers.runs import opened as open_contest
from PIL import Image

from saot import label
from saot.data import read_points_csv
from saot.label import TrainingData
from saot.label.inputs import Inputs, source_choice, target_choice
from saot.label.settings import RunSettings
from saot.tables import ALL_WINGS


def opened(settings: RunSettings, out) -> TrainingData:
    with open_contest(settings, out) as contest:
        return contest.data


def open_inputs(settings: RunSettings) -> Inputs:
    return label.open_inputs(settings, "cpu", ALL_WINGS)


def test_source_pictures_are_the_papers_choice():
    settings = tiny_settings(source=f"scenes:game:train,count=12,{SIZE}", source_pictures=5, seed=7)
    expected = sorted(np.random.default_rng(0).choice(12, 5, replace=False).tolist())
    assert source_choice(12, settings) == expected != list(range(5))
    inputs, whole = open_inputs(settings), open_inputs(tiny_settings(source=settings.source))
    assert inputs.source.keys == tuple(whole.source.keys[number] for number in expected)
    for place, number in enumerate(expected[:2]):
        assert np.array_equal(inputs.source.image(place), whole.source.image(number))
        assert np.array_equal(inputs.source.mask(place), whole.source.mask(number))
        assert inputs.source.images.size(place) == whole.source.images.size(number)
    assert list(inputs.found["source"]) == list(inputs.source.keys)


def test_all_pictures_are_the_same_as_no_choice():
    settings = tiny_settings(source_pictures=3, target_pictures=3)
    assert source_choice(3, settings) == target_choice(3, settings) == [0, 1, 2]


def test_target_pictures_are_the_first_and_points_are_drawn_on_them_alone(tmp_path):
    data = opened(tiny_settings(target_pictures=2), tmp_path / "run")
    whole = open_inputs(tiny_settings()).target.keys
    assert data.target.images.keys == whole[:2] and len(data.target) == 2
    points = read_points_csv(tmp_path / "run" / "points.csv", open_inputs(tiny_settings()).target, data.classes)
    assert set(points.keys) == set(whole[:2]) and len(points) == data.points.budget
    assert open_inputs(tiny_settings(target_pictures=2)).target_masks().keys == whole[:2]
    kept = json.loads((tmp_path / "run" / "work" / "settings.json").read_text())
    assert kept["target_pictures"] == 2 and kept["source_pictures"] is None
    with pytest.raises(ValueError, match="target_pictures is 1 now but was 2"):
        opened(tiny_settings(target_pictures=1), tmp_path / "run")


def test_masks_of_pictures_out_of_use_stay_closed(tmp_path):
    specs = [make_folder(tmp_path / name, seed) for seed, name in enumerate(("source", "target", "eval"))]
    (tmp_path / "target" / "masks" / "1.png").write_bytes(b"no picture at all")
    (tmp_path / "target" / "images" / "1.png").write_bytes(b"nor this")
    settings = tiny_settings(source=specs[0], target=specs[1], eval=specs[2], target_pictures=1)
    for points in ("total:2", "resample:2"):
        data = opened(RunSettings(**{**vars(settings), "points": points}), tmp_path / points)
        assert data.points.budget > 0 and len(data.target) == 1
    assert len(data.points.tokens.dense) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source_pictures": 4}, r"source_pictures from 1 to 3, the number of pictures in scenes:game.*got 4"),
        ({"target_pictures": 0}, r"target_pictures from 1 to 3, the number of pictures in scenes:street.*got 0"),
    ],
)
def test_more_pictures_than_there_are_is_an_error(changes, said):
    with pytest.raises(ValueError, match=said):
        open_inputs(tiny_settings(**changes))


def test_a_missing_target_mask_is_named_where_all_are_needed(tmp_path):
    for part, names in {"images": ("a", "b"), "labels": ("b",)}.items():
        (tmp_path / "gta" / part).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((28, 56), np.uint8)).convert("L" if part == "labels" else "RGB").save(
                tmp_path / "gta" / part / f"{name}.png"
            )
    settings = tiny_settings(target=f"gta5:{tmp_path / 'gta'}", points="0")
    inputs = open_inputs(settings)
    assert inputs.target_masks().keys == ("b.png",)
    with pytest.raises(ValueError, match=r"a\.png has none"):
        inputs.target_masks(all_of_them=True)
    assert torch.equal(torch.tensor(inputs.target.image(0).shape), torch.tensor([28, 56, 3]))


def test_the_precision_of_the_backbone_is_asked_of_it_and_kept(tmp_path, monkeypatch):
    spec = make_folder(tmp_path / "one", 0)
    settings = tiny_settings(source=spec, target=spec, eval=None, points="0")
    assert "precision" not in settings.to_dict()  # as in runs of earlier versions
    quick, asked = replace(settings, precision="bf16"), []
    assert quick.to_dict()["precision"] == "bf16"
    with pytest.raises(ValueError, match="filterbank computes in float32 alone, not in bf16"):
        label.open_inputs(quick, "cpu", ALL_WINGS)
    real = type(ALL_WINGS).backbone

    def opens(wings, name, weights=None, *, precision, **options):
        asked.append(precision)
        return real(wings, name, weights, **options)

    monkeypatch.setattr(type(ALL_WINGS), "backbone", opens)
    label.open_inputs(quick, "cpu", ALL_WINGS)
    assert asked == ["bf16"]
    with pytest.raises(ValueError, match="expected the precision as one of float32, bf16; got 'half'"):
        replace(settings, precision="half")
