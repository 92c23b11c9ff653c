from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mobile_sam import decoder_of_transformers, decoder_state, published_state, shared_weights
from helpers.runs import TINY, make_folder, opened, run_job, tiny_settings

from saot.data import patch_labels
from saot.decoder import IGNORE
from saot.features import EncodedPicture, PictureMasks
from saot.label.grown import Grower
from saot.label.networks import grown_labels, point_cells
from saot.recipes import TaughtRecipe
from saot.tables import ALL_WINGS

SIDE = 40
RECIPE = replace(
    TINY,
    decoder=replace(TINY.decoder, architecture="fine", subdivision=2, rounds=1, grown_points=True),
    taught=TaughtRecipe(teachers=1, steps=2, rounds=1),
)


class Squares:
    """Answers each point with squares around it, of these sides."""

    def __init__(self, *sides: int) -> None:
        self.sides, self.asked = sides, []

    def encode(self, image):
        return EncodedPicture(torch.zeros(64, 64, 256), image.shape[:2], image.shape[:2])

    def candidates(self, picture, prompts):
        (x, y), found = prompts[0].points[0], []
        self.asked.append((int(x), int(y)))
        for side in self.sides:
            mask = torch.zeros(picture.image_size, dtype=torch.bool)
            top, left = int(y) - side // 2, int(x) - side // 2
            mask[max(top, 0) : top + side, max(left, 0) : left + side] = True
            found.append(mask)
        return PictureMasks(torch.stack(found)[None], torch.ones(1, len(found)), torch.ones(1, len(found)))


def grown_by(segmenter, points):
    grower = Grower(Path("nowhere.pt"))
    grower.__dict__["segmenter"] = segmenter
    x, y, classes = (torch.tensor(part) for part in zip(*points, strict=True))
    return grower.labels(np.zeros((SIDE, SIDE, 3), np.uint8), x, y, classes)


def test_a_point_labels_the_smallest_mask_that_holds_no_point_of_another_class():
    labels = grown_by(Squares(15, 5, 9), [(10, 20, 3)])
    assert int((labels == 3).sum()) == 25 and int(labels[20, 10]) == 3 and int((labels != IGNORE).sum()) == 25
    near = grown_by(Squares(9, 15), [(10, 20, 3), (13, 20, 1)])  # 9 wide each holds the other
    assert bool((near == IGNORE).all()), "what two classes claim nobody gets"
    apart = grown_by(Squares(9, 5), [(10, 20, 3), (13, 20, 1)])
    assert int((apart == 3).sum()) + int((apart == 1).sum()) == 25 + 25 - 2 * 5  # two columns are shared


def test_of_two_masks_the_smaller_speaks_and_what_is_found_is_not_asked_again():
    class Whole(Squares):
        def candidates(self, picture, prompts):
            inner = int(prompts[0].points[0][0]) == 20
            return Squares(5 if inner else 31).candidates(picture, prompts)

    segmenter = Whole()
    labels = grown_by(segmenter, [(12, 12, 2), (8, 8, 2)])
    assert int((labels == 2).sum()) == 28 * 28 and segmenter.asked == []
    counted = Squares(9)
    grown_by(counted, [(12, 12, 2), (14, 14, 2), (30, 30, 2)])
    assert counted.asked == [(12, 12), (30, 30)]
    nested = grown_by(Whole(), [(32, 32, 4), (20, 20, 6)])  # the large one holds the point of the small one
    assert int((nested == 6).sum()) == 25 and int((nested == 4).sum()) == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    encoder = {name: value for name, value in published_state().items() if name.startswith("image_encoder.")}
    torch.save({**encoder, **decoder_state(*decoder_of_transformers())}, path)
    return path


class Blocks(Grower):
    """Grows a point to the block of 20 x 20 pixels that it lies in."""

    identity = "blocks"

    def labels(self, image, x, y, classes):
        found = torch.full(image.shape[:2], IGNORE, dtype=torch.uint8)
        for u, v, label in zip(x.tolist(), y.tolist(), classes.tolist(), strict=True):
            found[v // 20 * 20 : v // 20 * 20 + 20, u // 20 * 20 : u // 20 * 20 + 20] = label
        return found


def test_cells_of_what_points_lie_on_are_learned_from(tmp_path):
    settings = tiny_settings(recipe=replace(RECIPE, decoder=replace(RECIPE.decoder, grown_points=False)), points="1")
    with opened(settings, tmp_path / "run") as contest:
        bench, data = contest.bench, replace(contest.data, grower=Blocks(Path("nowhere.pt")))
        held = set(data.points.tokens.held().picture.tolist())
        alone, grown = list(point_cells(bench, contest.data, 2)), list(point_cells(bench, data, 2))
        number = min(set(range(len(data.target))) - held)
        labels = grown_labels(bench, data, number)
        assert labels is not None and grown_labels(bench, contest.data, number) is None
        fine = data.target.grid(number).subdivide(2)
        wanted = patch_labels(labels.numpy(), fine, num_classes=data.num_classes, ignore="exclude")
        known = alone[number] != IGNORE
        assert torch.equal(grown[number][known], alone[number][known]), "a point's own cell has its class"
        assert int((grown[number] != IGNORE).sum()) >= int((wanted != IGNORE).sum()) > 3 * int(known.sum())
        assert all(bool((grown[one] == IGNORE).all()) for one in held)


@pytest.mark.training
def test_a_run_grows_its_points_where_the_mask_decoder_is_at_hand(weights, tmp_path):
    settings = tiny_settings(recipe=RECIPE, backbone="mobile-sam", weights=str(weights), size="64x128", eval=None)
    told = set()
    run_job(settings, tmp_path / "grown", progress=lambda stage, *_: told.add(stage))
    assert "grown points" in told and list((tmp_path / "grown" / "work" / "grown").iterdir())
    encoder = tmp_path / "encoder.pt"
    torch.save({n: v for n, v in published_state().items() if n.startswith("image_encoder.")}, encoder)
    said = []
    run_job(replace(settings, weights=str(encoder)), tmp_path / "alone", wings=replace(ALL_WINGS, say=said.append))
    assert any("points are not grown" in sentence for sentence in said)
    assert not (tmp_path / "alone" / "work" / "grown").exists()


def test_without_points_there_is_nothing_to_grow(tmp_path):
    folder = make_folder(tmp_path / "a", 1)
    plain = tiny_settings(recipe=RECIPE, points="0", source=folder, target=folder)
    outcome = run_job(replace(plain, eval=None), tmp_path / "run")
    assert outcome.run["label_budget"] == 0


def test_published_weights_find_what_a_point_lies_on():
    grower = Grower(shared_weights("mobile_sam.pt"))
    image = np.full((120, 160, 3), (30, 90, 200), np.uint8)
    image[40:80, 50:110] = (220, 60, 40)
    labels = grower.labels(image, torch.tensor([80, 10]), torch.tensor([60, 10]), torch.tensor([5, 2]))
    inside = np.zeros((120, 160), bool)
    inside[40:80, 50:110] = True
    found = labels.numpy() == 5
    assert (found & inside).sum() / (found | inside).sum() > 0.9 and int(labels[10, 10]) == 2


def test_points_stay_points_where_another_network_is_used_and_the_run_says_so(tmp_path):
    said = []
    wings = replace(ALL_WINGS, say=said.append)
    run_job(tiny_settings(recipe=RECIPE), tmp_path / "run", compare="none", wings=wings)
    assert any("points are not grown" in one and "got --backbone filterbank" in one for one in said)
