import numpy as np
import pytest
import torch
from helpers.mobile_sam import decoder_of_transformers, decoder_state, shared_weights

from saot.features import segmenter as module
from saot.features.segmenter import EncodedPicture, GridSettings, Prompt, PromptSegmenter


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return decoder_state(*decoder_of_transformers())


def test_files_that_are_not_mobile_sam(state, tmp_path):
    torch.save({"image_encoder.neck.0.weight": torch.zeros(1)}, tmp_path / "encoder.pt")
    with pytest.raises(ValueError, match=r"prompt_encoder\.\S+ is missing; pass the published mobile_sam.pt, all"):
        PromptSegmenter(tmp_path / "encoder.pt")
    torch.save(state, tmp_path / "decoder.pt")
    with pytest.raises(ValueError, match="is missing"):
        PromptSegmenter(tmp_path / "decoder.pt")
    with pytest.raises(ValueError, match="found none"):
        PromptSegmenter(tmp_path / "absent.pt")


class Encoder(torch.nn.Module):
    """In the place of TinyViT: random numbers, and the picture's mean colour."""

    seen: torch.Tensor

    def load_published(self, state):
        pass

    def forward(self, x):
        assert x.shape == (1, 1024, 1024, 3)
        Encoder.seen = x[0]
        noise = torch.randn(1, 64, 64, 256, generator=torch.Generator().manual_seed(0))
        return {"neck": noise + x.mean()}


@pytest.fixture
def fake(monkeypatch, state, tmp_path) -> PromptSegmenter:
    monkeypatch.setattr(module, "TinyViT", Encoder)
    torch.save(state, tmp_path / "weights.pt")
    return PromptSegmenter(tmp_path / "weights.pt")


def test_the_encoder_sees_the_published_preprocessing(fake):
    picture = fake.encode(np.full((90, 200, 3), (10, 20, 30), np.uint8))
    assert (picture.image_size, picture.input_size) == ((90, 200), (461, 1024))
    wanted = [(10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (30 - 103.53) / 57.375]
    torch.testing.assert_close(Encoder.seen[:461], torch.tensor(wanted).expand(461, 1024, 3))
    assert not Encoder.seen[461:].any()


def test_a_batch_of_prompts_equals_its_members(fake):
    picture = fake.encode(np.zeros((40, 60, 3), np.uint8))
    prompts = [
        Prompt.at(3, 4),
        Prompt(box=(2, 3, 40, 30)),
        Prompt(points=((50, 8), (4, 30)), labels=(1, 0)),
        Prompt.at(59.5, 39.5),
        Prompt(points=((8, 9),), labels=(0,), box=(0, 0, 60, 40)),
    ]
    for ask in (fake.segment, fake.candidates):
        together = ask(picture, prompts)
        for number, prompt in enumerate(prompts):
            alone = ask(picture, [prompt])
            # float32, another order of sums: a pixel whose logit is all but zero may flip
            torch.testing.assert_close(together.predicted_iou[number], alone.predicted_iou[0], rtol=1e-4, atol=1e-5)
            assert (together.masks[number] != alone.masks[0]).float().mean() < 2e-3
    assert len({tuple(row.tolist()) for row in fake.candidates(picture, prompts).predicted_iou}) == 5


def test_the_choice_among_masks(fake):
    picture = fake.encode(np.zeros((40, 60, 3), np.uint8))
    prompts = [Prompt.at(3, 4), Prompt(box=(2, 3, 40, 30)), Prompt(points=((50, 8), (4, 30)), labels=(1, 0))]
    every = fake.candidates(picture, prompts)
    assert every.masks.shape == (3, 4, 40, 60) and every.stability.shape == (3, 4)
    best = 1 + every.predicted_iou[:, 1:].argmax(1)
    rows = torch.arange(3)
    for choice, chosen in (("three", best), ("one", 0 * best), ("auto", torch.tensor([int(best[0]), 0, 0]))):
        found = fake.segment(picture, prompts, choice=choice)
        torch.testing.assert_close(found.predicted_iou, every.predicted_iou[rows, chosen], rtol=0, atol=0)
        assert torch.equal(found.masks, every.masks[rows, chosen])


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (300, 7), (1500, 1100)])
def test_any_size_of_picture(fake, size):
    picture = fake.encode(np.full((*size, 3), 200, np.uint8))
    assert max(picture.input_size) == 1024 and min(picture.input_size) >= 1
    found = fake.segment(picture, [Prompt.at(0, 0), Prompt(box=(0, 0, size[1], size[0]))])
    assert found.masks.shape == (2, *size)
    assert torch.isfinite(found.stability).all()


def test_the_grid_is_sorted_and_filtered(fake):
    picture = fake.encode(np.zeros((40, 60, 3), np.uint8))
    loose = GridSettings(points_per_side=3, min_predicted_iou=0, min_stability=0, max_box_iou=1, points_per_batch=4)
    found = fake.everything(picture, loose)
    assert 1 < len(found.masks) <= 27
    assert (found.predicted_iou.diff() <= 0).all() and (found.predicted_iou >= 0).all()
    points = [Prompt.at((x + 0.5) * 20, (y + 0.5) * 40 / 3) for y in range(3) for x in range(3)]
    wanted = fake.candidates(picture, points).predicted_iou[:, 1:].flatten()
    wanted = wanted[wanted >= 0].sort(descending=True).values
    torch.testing.assert_close(found.predicted_iou, wanted[: len(found.masks)], rtol=1e-4, atol=1e-5)
    assert len(found.masks) == len(wanted) - int((fake.candidates(picture, points).masks[:, 1:].sum((2, 3)) == 0).sum())
    middle = float(found.predicted_iou.median())
    assert 0 < middle < 1
    fewer = fake.everything(picture, GridSettings(3, min_predicted_iou=middle, min_stability=0, max_box_iou=1))
    assert len(fewer.masks) == int((found.predicted_iou >= middle).sum())
    none = fake.everything(picture, GridSettings(2, min_predicted_iou=1, min_stability=1, stability_offset=1e4))
    assert none.masks.shape == (0, 40, 60) and none.predicted_iou.shape == (0,)


def test_prompts_are_scaled_to_the_frame():
    picture = EncodedPicture(torch.zeros(64, 64, 256), (128, 512), (512, 1024))
    points, labels, boxes = module._in_frame([Prompt(((10, 20), (3, 4)), (1, 0), (1, 2, 3, 4))], picture)
    assert points.tolist() == [[[20, 80], [6, 16]]]
    assert labels.tolist() == [[1, 0]]
    assert boxes.tolist() == [[[2, 8, 6, 16]]]
    points, labels, boxes = module._in_frame([Prompt(box=(1, 2, 3, 4)), Prompt(box=(0, 0, 1, 1))], picture)
    assert points.shape == (2, 0, 2) and labels.shape == (2, 0) and boxes.shape == (2, 1, 4)


def test_logits_come_back_to_the_place_in_the_picture():
    picture = EncodedPicture(torch.zeros(64, 64, 256), (90, 200), (461, 1024))
    pixel = (torch.arange(256.0) + 0.5) * 4  # centres in the frame
    full = module._to_picture(pixel.expand(256, 256).contiguous(), picture)
    wanted = (torch.arange(200) + 0.5) * 1024 / 200
    # a linear map stays linear away from the edges, where the nearest centre is repeated
    torch.testing.assert_close(full[40, 1:-1], wanted[1:-1], rtol=1e-5, atol=1e-3)
    full = module._to_picture(pixel[:, None].expand(256, 256).contiguous(), picture)
    wanted = (torch.arange(90) + 0.5) * 461 / 90
    torch.testing.assert_close(full[1:-1, 40], wanted[1:-1], rtol=1e-5, atol=1e-3)


def test_stability_and_box_of_a_mask():
    logits = torch.full((6, 9), -5.0)
    logits[1:4, 2:7] = 0.5
    logits[2, 3:5] = 3.0
    logits[5, 7:] = -0.5
    assert float(module._stability(logits, 1.0)) == pytest.approx(2 / 17)
    assert float(module._stability(logits, 0.0)) == 1
    assert float(module._stability(logits - 9, 1.0)) == 0
    assert module._box(logits > 0).tolist() == [2, 1, 7, 4]


def test_suppression_of_overlapping_boxes():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
    scores = torch.tensor([0.8, 0.9, 0.3, 0.7, 0.9])
    assert module._suppressed(boxes, scores, 0.7).tolist() == [1, 3, 2]  # 10 x 5 in 10 x 9 is 0.56
    assert module._suppressed(boxes, scores, 0.5).tolist() == [1, 2]
    assert module._suppressed(boxes, scores, 1.0).tolist() == [1, 4, 0, 3, 2]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "at least one point or a box"),
        ({"points": ((1, 2),)}, "one label for each of 1 points, got 0"),
        ({"points": ((1, 2),), "labels": (2,)}, "but one is 2"),
        ({"points": ((1, 2),), "labels": (-1,)}, "but one is -1"),
        ({"box": (3, 4, 3, 9)}, "with some area"),
        ({"box": (3, 9, 5, 4)}, "with some area"),
        ({"box": (0, 0, float("nan"), 4)}, "with some area"),
    ],
)
def test_prompts_that_say_nothing(parts, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**parts)


def test_prompts_outside_their_picture(fake):
    picture = fake.encode(np.zeros((40, 60, 3), np.uint8))
    for x, y in ((60, 3), (3, 40), (-1, 3), (3, -0.1), (float("nan"), 3)):
        with pytest.raises(ValueError, match="lies outside its picture of 60x40"):
            fake.segment(picture, [Prompt.at(5, 5), Prompt.at(x, y)])
    for box in ((-1, 0, 5, 5), (0, 0, 61, 5), (0, 0, 5, 41)):
        with pytest.raises(ValueError, match="cut it at the picture's edge"):
            fake.segment(picture, [Prompt(box=box)])
    for ask in (fake.segment, fake.candidates):
        with pytest.raises(ValueError, match="empty list"):
            ask(picture, [])
    with pytest.raises(ValueError, match="picture with pixels"):
        fake.encode(np.zeros((0, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": 0}, "points_per_side must be at least 1"),
        ({"min_stability": 1.1}, "min_stability must lie in 0 to 1"),
        ({"stability_offset": -1}, "stability_offset must not be negative"),
    ],
)
def test_grid_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        GridSettings(**settings)


@pytest.fixture(scope="module")
def segmenter() -> PromptSegmenter:
    return PromptSegmenter(shared_weights("mobile_sam.pt"))


def disk(height: int, width: int, y: int, x: int, radius: int) -> tuple[np.ndarray, torch.Tensor]:
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    image = np.full((height, width, 3), (30, 40, 35), np.uint8)
    image[inside] = (230, 190, 60)
    return image, torch.from_numpy(inside)


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(
    ("size", "place", "radius"), [((240, 360), (100, 220), 60), ((400, 150), (250, 70), 50), ((24, 32), (12, 14), 7)]
)
def test_a_bright_disk_is_found(segmenter, size, place, radius):
    image, inside = disk(*size, *place, radius)
    y, x = place
    picture = segmenter.encode(image)
    box = (x - radius, y - radius, x + radius + 1, y + radius + 1)
    beside = (x, y + radius + 3)
    prompts = [Prompt.at(x, y), Prompt(box=box), Prompt(((x, y), beside), (1, 0)), Prompt(((x, y),), (1,), box)]
    found = segmenter.segment(picture, prompts)
    for mask in found.masks:
        assert overlap(mask, inside) > 0.95
        assert overlap(mask, found.masks[0]) > 0.95  # a point and a box mean the same
    assert (found.predicted_iou > 0.9).all() and (found.stability > 0.95).all()
    ground = segmenter.candidates(picture, [Prompt.at(size[1] - 2, 1)])
    assert max(overlap(mask, ~inside) for mask in ground.masks[0]) > 0.8


def test_the_automatic_grid_finds_the_disk(segmenter):
    image, inside = disk(240, 360, 100, 220, 60)
    found = segmenter.everything(segmenter.encode(image), GridSettings(points_per_side=4))
    overlaps = [overlap(mask, inside) for mask in found.masks]
    assert sum(value > 0.8 for value in overlaps) == 1  # once, though several points lie on it
    assert (found.predicted_iou >= 0.88).all() and (found.stability >= 0.95).all()
