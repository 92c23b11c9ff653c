import json
from contextlib import closing
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
from saot.label.opening import check_masks, open_points
from saot.label.settings import RunSettings
from saot.runs import Workspace
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
    fewer = opened(tiny_settings(target_pictures=1), tmp_path / "run")  # nothing was trained yet
    assert fewer.target.images.keys == whole[:1]


def test_another_size_is_taken_where_nothing_was_trained(tmp_path):
    """Features of the run's own that fit stay; a store that was named is never touched."""
    settings, run = tiny_settings(), tmp_path / "run"
    opened(settings, run)
    kept = sorted(run.rglob("features/**/*.safetensors"))
    times = [path.stat().st_mtime_ns for path in kept]
    opened(replace(settings, seed=1), run)
    assert [path.stat().st_mtime_ns for path in kept] == times and len(kept) == 8
    smaller, told = replace(settings, size="28x56"), []
    with closing(Workspace(run, smaller.to_dict())) as space:
        inputs = label.open_inputs(smaller, "cpu", replace(ALL_WINGS, say=told.append))
        assert label.open_contest(smaller, inputs, space).data.target.store.key.size == "28x56"
    moved = [one for one in told if one.startswith("features of other settings were in")]
    assert len(moved) == len({path.parent for path in kept})
    opened(settings, run)  # the first settings again: their features were not lost
    assert [path.stat().st_mtime_ns for path in kept] == times
    opened(smaller, run)
    wrong = r"has size '56x112', but the features in .* were made with size '28x56'"
    with pytest.raises(ValueError, match=wrong), open_contest(settings, tmp_path / "other", run / "features"):
        pass  # a store that is named
    (tmp_path / "linked" / "work").mkdir(parents=True)
    (tmp_path / "linked" / "features").symlink_to(run / "features")
    with pytest.raises(ValueError, match=wrong):
        opened(settings, tmp_path / "linked")
    assert len(list((run / "features").glob("**/*.safetensors"))) == 8


def test_weights_that_changed_under_a_trained_run_leave_its_features(tmp_path):
    settings, run = tiny_settings(), tmp_path / "run"
    opened(settings, run)
    (place,) = run.glob("features/scenes-game*/store.json")
    place.write_text(place.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    (run / "work" / "checkpoints").mkdir()
    (run / "work" / "checkpoints" / "decoder.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="weights_sha256"):
        opened(settings, run)
    assert len(list(place.parent.glob("*.safetensors"))) == 3


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


@pytest.mark.parametrize("asked", ["5", "total:5", "patches:5", "resample:5"])
def test_points_to_draw_from_a_target_without_masks(tmp_path, asked):
    """Why masks are needed, where they would lie, and what to give instead; no feature is made before."""
    settings = tiny_settings(
        source=make_folder(tmp_path / "old", 0), target=make_folder(tmp_path / "new", 1, False), eval=None, points=asked
    )
    with pytest.raises(ValueError, match=rf"--points {asked} draws points from masks.*no masks.*FILE\.csv.*scribbles"):
        opened(settings, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_what_was_read_of_clicks_is_told(tmp_path):
    (tmp_path / "clicks.csv").write_text("file;x;y;label\n0.png;3;4;SKY\nimages/1.png;5,5;50;roof\n")
    settings = tiny_settings(
        source=make_folder(tmp_path / "old", 0),
        target=make_folder(tmp_path / "new", 1, False),
        eval=None,
        points=str(tmp_path / "clicks.csv"),
    )
    told: list[str] = []
    inputs = label.open_inputs(settings, "cpu", replace(ALL_WINGS, say=told.append))
    space = Workspace(tmp_path / "run", settings.to_dict())
    try:
        points = open_points(settings, inputs, inputs.target_masks, space, fresh=True)
    finally:
        space.close()
    assert points.classes == (0, 1) and points.x == (3, 5)
    assert [one for one in told if "clicks.csv: 2 points in 2 of 2 pictures: sky 1, roof 1 (image from" in one]


def test_a_mask_map_is_kept_by_what_it_says_and_used_for_every_folder(tmp_path):
    for number, name in enumerate(("old", "checked")):
        make_folder(tmp_path / name, number)
        (tmp_path / name / "classes.txt").unlink()
        for path in (tmp_path / name / "masks").iterdir():
            Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    (tmp_path / "map.txt").write_text("0 sky\n255 roof\n")
    settings = tiny_settings(
        source=f"folder:{tmp_path / 'old'}",
        target=make_folder(tmp_path / "new", 1, False),
        eval=f"folder:{tmp_path / 'checked'}",
        points="0",
        mask_map=str(tmp_path / "map.txt"),
    )
    assert settings.mask_map == settings.to_dict()["mask_map"] == "0=sky,255=roof"
    inputs = open_inputs(settings)
    assert inputs.classes.names == ("sky", "roof")
    for labelled in (inputs.source, inputs.truth):
        assert np.unique(labelled.mask(0)).tolist() == [0, 1]
    assert "mask_map" not in replace(settings, mask_map=None).to_dict()  # as in runs of earlier versions
    with pytest.raises(ValueError, match="expected a mask map with a folder: set"):
        tiny_settings(mask_map="binary")


def test_a_source_of_one_class_is_told(tmp_path):
    spec = make_folder(tmp_path / "old", 0)
    for path in (tmp_path / "old" / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    told: list[str] = []
    settings = tiny_settings(source=spec, target=make_folder(tmp_path / "new", 1, False), eval=None, points="0")
    inputs = label.open_inputs(settings, "cpu", replace(ALL_WINGS, say=told.append))
    space = Workspace(tmp_path / "run", settings.to_dict())
    try:
        check_masks(inputs, space)
    finally:
        space.close()
    assert [
        one for one in told if "every labelled pixel of" in one and "is 'sky'" in one and "--mask-map binary" in one
    ]


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
