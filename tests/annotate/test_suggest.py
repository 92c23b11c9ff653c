import csv
import json

import pytest
import torch
from helpers.runs import run_job, tiny_settings

from saot.annotate import RULES, Suggestion, import_annotations, suggest, write_clicks, write_explorer
from saot.annotate.suggest import REGION, Lattice, entropy, impurity, spread, worth_of
from saot.data.classes import folder_class_set
from saot.label import reopened
from saot.tables import ALL_WINGS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("suggest") / "run"
    run_job(tiny_settings(), out, compare="none")
    return out


def contents(run):
    """Its files, without what opening it cost."""
    files = (path for path in run.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name not in ("fingerprints.jsonl", "stages.json")}


def clicks_of(run, count, **words):
    with reopened(run, ALL_WINGS) as (finished, contest):
        return suggest(finished, contest, count, **words)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_so_many_pixels_one_a_region_and_none_twice(run, rule):
    before = contents(run)
    told = []
    found = clicks_of(run, 12, rule=rule, progress=lambda *done: told.append(done))
    assert len(found) == 12 and told[-1][0] == told[-1][1] == 3
    assert len({(one.image, one.x, one.y) for one in found}) == 12
    with reopened(run, ALL_WINGS) as (finished, contest):
        declared = contest.data.points.pixels
        for one in found:
            radius = Lattice.of(*one.size).radius
            x, y, _ = declared.of(one.image)
            near = ((x - one.x).abs() <= radius) & ((y - one.y).abs() <= radius)
            assert not bool(near.any()) and radius == min(one.size) // REGION
            assert bool(finished.mask(contest.data.target.images.image(0), "")[0, 0] >= 0)
    if rule != "random":
        for one in found:
            others = [other for other in found if other != one and other.image == one.image]
            assert all(abs(other.x - one.x) > radius or abs(other.y - one.y) > radius for other in others)
    assert clicks_of(run, 12, rule=rule) == found
    after = contents(run)
    assert after == before, "asking changes nothing of a run"


def test_random_clicks_differ_by_seed_and_are_nested(run):
    first, more, other = (
        clicks_of(run, *words[:1], rule="random", seed=words[1]) for words in ((5, 0), (9, 0), (5, 1))
    )
    assert more[:5] == first and other != first


def test_what_is_wrong_is_said(run, tmp_path):
    with pytest.raises(ValueError, match="expected a count of 1 or more; got 0"):
        clicks_of(run, 0)
    with pytest.raises(ValueError, match="expected a rule among transport, impure"):
        clicks_of(run, 1, rule="best")
    with pytest.raises(ValueError, match=r"ends with .csv, .xml"):
        write_clicks(tmp_path / "a.txt", [], folder_class_set(["a", "b"]))
    assert not list(tmp_path.iterdir())


def test_uncertainty_and_impurity_are_those_of_their_equations():
    posterior = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    log = float(torch.log(torch.tensor(2.0)) / torch.log(torch.tensor(3.0)))
    assert entropy(posterior).tolist()[0] == pytest.approx([log, 0.0])
    assert worth_of(posterior, "margin", 1).tolist()[0] == pytest.approx([1.0, 0.0])
    predicted = torch.tensor([[0, 0, 0, 0, 1]])
    found, third = impurity(predicted, 2, 1)[0], torch.tensor([1 / 3, 2 / 3])
    assert found[:3].tolist() == [0.0, 0.0, 0.0]
    assert float(found[3]) == pytest.approx(float(-(third * third.log2()).sum()))
    assert float(found[4]) == pytest.approx(1.0)
    both = torch.tensor([[[0.6, 0.4], [0.4, 0.6]]])
    assert torch.allclose(worth_of(both, "impure", 1), entropy(both))
    assert worth_of(both[:, :1].repeat(1, 2, 1), "impure", 1).max() == 0.0


def test_choices_are_spread_over_classes_then_pictures():
    def one(image, predicted, score):
        return Suggestion(image, (9, 9), round(100 * score), 0, predicted, score)

    found = [one("a", 0, 0.9), one("a", 0, 0.8), one("b", 0, 0.3), one("a", 1, 0.2)]
    assert [(each.image, each.score) for each in spread(found, 3)] == [("a", 0.9), ("a", 0.2), ("b", 0.3)]
    assert len(spread(found, 9)) == 4


def test_a_lattice_covers_a_large_picture_evenly():
    lattice = Lattice.of(1024, 2048)
    assert lattice.shape[0] * lattice.shape[1] <= 40_000 and lattice.step == 8
    assert int(lattice.rows.max()) < 1024 and int(lattice.columns.max()) < 2048 and int(lattice.rows.min()) == 4
    assert len(lattice.rows) == len(lattice.columns) == lattice.shape[0] * lattice.shape[1]
    tiny = Lattice.of(1, 3)
    assert tiny.rows.tolist() == [0, 0, 0] and tiny.columns.tolist() == [0, 1, 2] and tiny.radius == 1


CLASSES = folder_class_set(["road", "a & b"])
FOUND = [Suggestion("sub/a.png", (10, 20), 3, 4, 1, 0.5), Suggestion("sub/a.png", (10, 20), 19, 9, 0, 0.25)]


def test_a_table_leaves_the_class_to_a_person(tmp_path):
    write_clicks(tmp_path / "clicks.csv", FOUND, CLASSES)
    rows = [*csv.DictReader((tmp_path / "clicks.csv").open())]
    assert rows[0] == {"image": "sub/a.png", "x": "3", "y": "4", "class": "", "predicted": "a & b", "score": "0.5"}
    assert len(rows) == 2


@pytest.mark.parametrize(("ending", "kind"), [("xml", "cvat"), ("json", "label-studio")])
def test_what_a_person_corrects_in_a_tool_comes_back_as_clicks(tmp_path, ending, kind):
    from helpers.masks import items_with_pictures

    [*items_with_pictures(tmp_path / "new", [("sub/a.png", torch.zeros(10, 20, dtype=torch.uint8).numpy())])]
    path = tmp_path / f"clicks.{ending}"
    write_clicks(path, FOUND, CLASSES)
    if kind == "cvat":
        text = path.read_text()
        path.write_text(text.replace('source="file"', 'source="manual"', 1))
    else:
        tasks = json.loads(path.read_text())
        result = tasks[0].pop("predictions")[0]["result"]
        result[0]["origin"], result[1]["origin"] = "prediction-changed", "prediction"
        tasks[0]["annotations"] = [{"result": result}]
        path.write_text(json.dumps(tasks))
    made = import_annotations(path, kind, tmp_path / "new", tmp_path / "out", classes=CLASSES)
    assert (tmp_path / "out" / "points.csv").read_text() == "image,x,y,class\nsub/a.png,3,4,a & b\n"
    assert made.points == {"a & b": 1}
    made = import_annotations(path, kind, tmp_path / "new", tmp_path / "out", classes=CLASSES, accept=True)
    assert made.points == {"a & b": 1, "road": 1}


def test_runs_of_several_input_sizes_are_asked_and_explored_too(tmp_path):
    run_job(tiny_settings(size="56x112,84x168"), tmp_path / "run", compare="none")
    for rule in ("transport", "disagreement", "coreset"):
        assert len(clicks_of(tmp_path / "run", 4, rule=rule)) == 4
    with reopened(tmp_path / "run", ALL_WINGS) as made:
        finished, contest = made
        assert contest.members and finished.further
        write_explorer(finished, contest, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("picture(") >= 3
