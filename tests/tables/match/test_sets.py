"""A table of matching for the set it runs on: its title, its columns, its masks and its structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.pair_tables import NEAREST, PAIRS, REQUEST, opened, rows_of

from saot.features import PromptSegmenter
from saot.match.pairs import OutsidePicture, Pair, PairSet, PairSide
from saot.match.pairs.readers import open_pairs
from saot.report import figure_png
from saot.tables import EXPERIMENTS, Request, Row, reproduce
from saot.tables.match import adapter_training, drawing, matching
from saot.tables.match.adapter_training import trained_adapter
from saot.tables.match.matching import of_the_set, seeded, usable, without_exact_depth
from saot.tables.match.viewer import FolderLifter, Seen, Viewer, network_of
from saot.tables.match.way import AdapterPlan, Way, on_the_set


def side(name: str, x: float = 3.0) -> PairSide:
    points = np.array([[1.0, 2.0], [x, 2.0]])
    picture = np.zeros((5, 8, 3), np.uint8)
    return PairSide(name, (5, 8), points, np.array([True, True]), lambda: picture, box=(0.0, 0.0, 7.0, 4.0))


def pairs_of(places: list[float]) -> PairSet:
    keys = tuple(f"pair-{number}" for number in range(len(places)))

    def make(number: int) -> Pair:
        return Pair(keys[number], "cat", side("a"), side("b", places[number]), ("nose", "tail"))

    return PairSet("spair:somewhere:test", keys, ("cat",) * len(keys), make)


def test_pairs_with_a_point_outside_are_left_out_counted_and_named():
    pairs = pairs_of([3.0, 40.0, 5.0, -30.0])
    found, sentence = usable(pairs, range(4), strict=False)
    assert [pair.key for pair in found] == ["pair-0", "pair-2"]
    assert sentence.startswith("2 of 4 pairs of spair:somewhere:test left out: pair-1: key point 1 of b is marked")
    assert "x=40, y=2, outside its picture of 8x5 pixels" in sentence and "pair-3" in sentence
    assert usable(pairs_of([3.0]), [0], strict=True)[1] == ""
    with pytest.raises(OutsidePicture, match="key point 1 of b"):
        usable(pairs, range(4), strict=True)
    with pytest.raises(OutsidePicture, match="1 of 1 pairs"):
        usable(pairs_of([40.0]), [0], strict=False)


def test_a_table_goes_on_without_them_and_says_so(tmp_path, monkeypatch):
    def some(spec: str) -> PairSet:
        whole = opened(spec)

        def make(number: int) -> Pair:
            if number == 0:
                raise OutsidePicture("key point 3 of x is marked as seen at x=900, y=2, outside its picture; check it")
            return whole[number]

        return PairSet(spec, whole.keys, whole.categories, make)

    monkeypatch.setattr(matching, "open_pairs", some)
    experiment = rows_of(Row("a", changes=NEAREST))
    request = replace(REQUEST, seeds=(0,))
    result = reproduce(experiment, request, tmp_path / "one")
    assert any("left out: " in note and "key point 3 of x is marked as seen at x=900" in note for note in result.notes)
    assert result.images == len(opened(seeded(PAIRS, 0))) - 1
    with pytest.raises(OutsidePicture, match="key point 3"):
        reproduce(experiment, replace(request, strict=True), tmp_path / "two")


def test_titles_and_columns_are_those_of_the_set():
    spair = EXPERIMENTS["gwot-spair"]
    one = of_the_set(spair, "spair:/data:test", {"cat"})
    assert one.title == "GWOT on SPair-71k" and [c.key for c in one.columns][:2] == ["cat", "0.1"]
    assert of_the_set(EXPERIMENTS["gwot-pf-pascal"], "pf-willow:/data", {"car"}).title == "GWOT on PF-WILLOW"
    views = {"viewpoint-0", "viewpoint-1", "viewpoint-2"}
    real = {
        name: {column.key for column in of_the_set(EXPERIMENTS["match-real"], spec, {"cat"}).columns}
        for name, spec in {"spair": "spair:/data:test", "willow": "pf-willow:/data"}.items()
    }
    assert real["spair"] - real["willow"] == views
    assert not [c for c in of_the_set(spair, "pf-willow:/d", {"duck"}).columns if c.title in ("cat", "dog")]
    labels = [row.label for name in ("gwot-spair", "gwot-tss", "gwot-pf-pascal") for row in EXPERIMENTS[name].rows]
    assert not any("DINO" in label for label in labels)  # whose features they are the notes say
    parts = [row.paper.get("0.1") for row in spair.rows if row.label.startswith("OT")]
    assert parts == [55.7, 55.9, 59.2]  # Tab. 4


def test_nothing_drawn_is_matched_once_for_all_seeds(tmp_path, monkeypatch):
    experiment = rows_of(
        Row("fixed", changes=NEAREST),
        Row("mutual", changes={"method": "mutual-nn"}),
        Row("drawn", changes={**NEAREST, "adapter": AdapterPlan(PAIRS, count=2, changes={"steps": 1})}),
    )
    monkeypatch.setattr(matching, "_drawn", lambda spec: False)  # as if the pairs were photographs
    monkeypatch.setattr(matching, "seeded", lambda spec, seed: seeded(PAIRS, 0))
    monkeypatch.setattr(matching, "without_exact_depth", lambda experiment, spec: experiment)
    monkeypatch.setattr(matching, "on_the_set", lambda way, exact, structure: way)
    result = reproduce(experiment, replace(REQUEST, seeds=(0, 1, 2), target=PAIRS), tmp_path)
    fixed, mutual, drawn = (row.cells["0.1"] for row in result.rows)
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 2 + 3
    assert len(fixed.values) == len(mutual.values) == 1 and len(drawn.values) == 3
    # three seeds are no more pairs: neither more are counted, nor is an interval narrower
    assert result.images == len(opened(seeded(PAIRS, 0)))
    once = reproduce(experiment, replace(REQUEST, seeds=(0,), target=PAIRS), tmp_path)
    assert mutual.difference == once.rows[1].cells["0.1"].difference is not None


def test_places_in_space_come_from_what_is_asked():
    exact, lifted = Way(space="exact"), Way(space="lifted", adapter=AdapterPlan("spair:x", space="lifted"))
    assert on_the_set(exact, True, None).space == "exact"
    assert on_the_set(exact, False, "vggt").space == "lifted"
    flat = on_the_set(lifted, False, "grid")
    assert flat.space == "grid" and flat.adapter is not None and flat.adapter.space == "grid"
    assert on_the_set(Way(), False, None).space == "none"
    with pytest.raises(ValueError, match="these pairs come without depth; pass --structure"):
        on_the_set(exact, False, None)
    labels = EXPERIMENTS["soy-labels"]
    assert len(without_exact_depth(labels, "spair:x:test").rows) == len(labels.rows) - 2
    assert without_exact_depth(labels, PAIRS) is labels


def test_points_of_other_programs_are_read_from_a_folder(tmp_path):
    (tmp_path / "cat").mkdir()
    np.savez(tmp_path / "cat" / "a.npz", points=np.random.default_rng(0).random((4, 6, 3)).astype(np.float32))
    lifter = FolderLifter(tmp_path)
    assert lifter.file("cat/a") == tmp_path / "cat" / "a.npz"
    with pytest.raises(ValueError, match=r"expected cat/b\.npz in"):
        lifter.file("cat/b")
    with pytest.raises(ValueError, match="expected a folder"):
        FolderLifter(tmp_path / "nowhere")
    (tmp_path / "b.npz").write_bytes((tmp_path / "cat" / "a.npz").read_bytes())
    assert lifter.file("cat/b") == tmp_path / "b.npz"
    network = network_of(REQUEST)
    viewer = Viewer(network, None, None, lifter)
    picture = next(iter(opened(seeded(PAIRS, 0)))).source
    seen = viewer.see(replace(picture, name="cat/a"))
    before = lifter.identity
    (tmp_path / "b.npz").write_bytes(b"other")
    assert lifter.identity != before  # other points are other results
    moved = viewer.side_of(seen, "all", "lifted", 0).points
    assert moved is not None and moved.shape == (seen.grid.num_tokens, 3) and bool(torch.isfinite(moved).any())


class Segmenter(PromptSegmenter):
    """Finds the left half of every picture."""

    identity = "half"  # type: ignore[assignment]

    def __init__(self) -> None:
        pass

    def encode(self, image):
        return image.shape[:2]

    def segment(self, size, prompts):
        mask = torch.zeros(size, dtype=torch.bool)
        mask[:, : size[1] // 2] = True
        return type("Found", (), {"masks": mask[None]})()


def test_masks_are_the_sets_own_or_those_of_the_segmenter_as_asked():
    network = network_of(REQUEST)
    seen = Viewer(network, None, None, None).see(next(iter(opened(seeded(PAIRS, 0)))).source)
    assert isinstance(seen, Seen) and seen.picture.load_mask is not None
    own = Viewer(network, None, Segmenter(), None).object_mask(seen)
    made = Viewer(network, None, Segmenter(), None, own_masks=False)
    half = made.object_mask(seen)
    assert (own == seen.picture.mask()).all() and not (own == half).all()
    assert half[:, : half.shape[1] // 2].all() and made.mask_words.startswith("MobileSAM's")
    with pytest.raises(ValueError, match="expected --masks as set, or sam with --sam PATH"):
        Request(masks="sam")


def test_labels_come_from_one_network_and_features_from_another(tmp_path, monkeypatch):
    request = replace(REQUEST, target=PAIRS, counts="tiny")
    plan, network = AdapterPlan("").asked(request), network_of(request)
    viewer, pairs = Viewer(network, None, None, None), list(opened(seeded(PAIRS, 0)))

    class Mirror(Viewer):
        """Sees every token as its opposite."""

        def side_of(self, *words):
            found = super().side_of(*words)
            return replace(found, tokens=-found.tokens)

    labelled, trained = [], []
    real_label, real_fit = adapter_training._label, adapter_training.fit_adapter
    monkeypatch.setattr(adapter_training, "_label", lambda *words: labelled.append(words[1]) or real_label(*words))
    monkeypatch.setattr(
        adapter_training, "fit_adapter", lambda *words, **more: trained.append(words[1][0]) or real_fit(*words, **more)
    )
    trained_adapter(plan, pairs, viewer, tmp_path / "one", 0, labeller=Mirror(network, None, None, None))
    assert torch.equal(labelled[0].tokens, -trained[0].source.tokens)
    trained_adapter(plan, pairs, viewer, tmp_path / "two", 0)
    assert torch.equal(labelled[-len(pairs)].tokens, trained[1].source.tokens)
    files = {path.stem for folder in ("one", "two") for path in (tmp_path / folder).glob("adapter-*.safetensors")}
    assert len(files) == 2  # told apart by whose labels they were trained on
    coarse = Viewer(network_of(replace(request, size="112x112")), None, None, None)
    with pytest.raises(ValueError, match=r"on grids of .*give both the same grid"):
        trained_adapter(plan, pairs, viewer, tmp_path / "three", 0, labeller=coarse)


def test_pseudo_labels_are_kept_and_not_made_again(tmp_path, monkeypatch):
    request = replace(REQUEST, target=PAIRS, counts="tiny")
    plan, viewer = AdapterPlan("").asked(request), Viewer(network_of(request), None, None, None)
    pairs = list(opened(seeded(PAIRS, 0)))
    first = trained_adapter(plan, pairs, viewer, tmp_path, 0)
    kept = list(tmp_path.glob("adapter-*-labels/*.safetensors"))
    assert len(kept) == len(pairs)
    next(tmp_path.glob("adapter-*.safetensors")).unlink()  # as if the training had been stopped
    monkeypatch.setattr("saot.tables.match.adapter_training._label", lambda *_: pytest.fail("made again"))
    again = trained_adapter(plan, pairs, viewer, tmp_path, 0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_pf_willow_is_read_with_its_boxes(monkeypatch, tmp_path):
    asked = []

    def opened_pascal(*arguments: object) -> PairSet:
        asked.append(arguments)
        return pairs_of([3.0])

    monkeypatch.setattr("saot.match.pairs.pascal.open_pf_pascal", opened_pascal)
    open_pairs(f"pf-willow:{tmp_path}")
    assert asked == [(f"pf-willow:{tmp_path}", tmp_path, "test,boxes=yes")]


def test_figures_name_every_row_and_count_what_the_table_counts(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "figure_png", lambda figure: drawn.append(figure) or figure_png(figure))
    labels = ["a", "b", "c", "d", "e"]
    rows = [Row(label, changes=NEAREST if label in "ae" else {"method": "mutual-nn"}) for label in labels]
    result = reproduce(rows_of(*rows), replace(REQUEST, seeds=(0,)), tmp_path)
    assert list(result.figures) == ["curves.png", "costs.png", "points.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in result.figures)
    curves, costs, points = drawn
    for figure in (curves, costs):
        assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    lines = {line.get_label(): line.get_ydata() for line in curves.axes[0].get_lines()}
    for row in result.rows:
        assert lines[row.label][9] == pytest.approx(row.cells["0.1"].mean)  # at 0.1
    titles = [axes.get_title() for axes in points.axes if axes.get_title()]
    assert titles[0] == "a" and len(titles) == 4 and "green" in points.get_suptitle()


@pytest.mark.parametrize(("labels", "other"), [("fused", "nearest_label"), ("nearest", "shape_of_you")])
def test_an_adapter_is_trained_on_the_labels_it_is_named_after(labels, other, tmp_path, monkeypatch):
    request = replace(REQUEST, target=PAIRS, counts="tiny")
    plan = replace(AdapterPlan("").asked(request), labels=labels)
    monkeypatch.setattr(f"saot.tables.match.adapter_training.{other}", lambda *_: pytest.fail(f"{other} was asked"))
    trained_adapter(plan, list(opened(seeded(PAIRS, 0))), Viewer(network_of(request), None, None, None), tmp_path, 0)
