"""Labels joined to those of earlier frames: the equation, cells in tokens, and no dependence on where work began."""

from itertools import pairwise

import pytest
import torch
from helpers.films import files_of, film, killed_after
from torch import Tensor
from torch.testing import assert_close

from saot.data import PatchGrid, open_images, read_mask
from saot.deploy import (
    READERS,
    Own,
    SteadyRun,
    SteadySettings,
    VideoSettings,
    label_video,
    predict_video,
    steady_logits,
)
from saot.features import Picture
from saot.label import FinishedRun, open_run
from saot.match import MatchSide, predict_labels
from saot.tables import ALL_WINGS


def frame(logits: Tensor, tokens: Tensor, shape: tuple[int, int] = (1, 3)) -> Own:
    rows, columns = shape
    return Own(
        MatchSide.of(tokens, shape),
        logits,
        PatchGrid(14 * rows, 14 * columns, 14 * rows, 14 * columns, 14, rows, columns),
    )


@pytest.fixture
def frames() -> list[Own]:
    return [frame(torch.randn(3, 4), torch.randn(3, 8)) for _ in range(3)]


def test_the_answers_are_those_of_the_equation(frames):
    settings = SteadySettings(share=0.3)
    y = frames[0].logits.softmax(-1)
    for before, now in pairwise(frames):
        y = 0.7 * now.logits.softmax(-1) + 0.3 * predict_labels(now.side, before.side, y, settings.between)
    assert_close(steady_logits(frames, settings).exp(), y, rtol=1e-5, atol=1e-6)
    assert_close(steady_logits(frames[-1:], settings), frames[-1].logits.log_softmax(-1))
    assert_close(steady_logits(frames, SteadySettings(share=0)), frames[-1].logits.log_softmax(-1))


def test_cells_keep_their_differences_and_take_what_their_token_gains():
    own, tokens = torch.randn(24, 4), torch.randn(6, 8)  # 4 x 6 cells on 2 x 3 tokens
    fine, before = frame(own, tokens, (2, 3)), frame(torch.randn(6, 4), tokens, (2, 3))
    joined = steady_logits([before, fine]).reshape(2, 2, 3, 2, 4)
    mine = own.reshape(2, 2, 3, 2, 4)
    alone = mine.softmax(-1).mean((1, 3)).reshape(6, 4)
    y = 0.5 * alone + 0.5 * predict_labels(fine.side, before.side, before.logits.softmax(-1))
    wanted = mine.softmax(-1) * (y / alone).reshape(2, 1, 3, 1, 4)
    assert_close(joined.exp(), wanted / wanted.sum(-1, keepdim=True))


def test_what_is_ruled_out_stays_finite():
    sure = frame(torch.tensor([[200.0, 0.0]] * 3), torch.eye(3))
    other = frame(torch.tensor([[0.0, 200.0]] * 3), torch.eye(3))
    joined = steady_logits([sure, other])
    assert torch.isfinite(joined).all()
    assert torch.isfinite(steady_logits([sure, sure])).all()


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": -0.1}, {"memory": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="expected a share from 0 on and below 1"):
        SteadySettings(**wrong)


def test_masks_of_a_video_look_at_the_frames_before_and_at_no_others(tmp_path, finished):
    path = film(tmp_path / "a.mkv", range(9))
    steady = VideoSettings(steady=True)
    predict_video(finished, [path], tmp_path / "alone", wings=ALL_WINGS)
    predict_video(finished, [path], tmp_path / "out", steady, wings=ALL_WINGS)
    with pytest.raises(KeyboardInterrupt):
        predict_video(
            finished, [path], tmp_path / "again", steady, ("png",), killed_after(5, "predict"), wings=ALL_WINGS
        )
    assert predict_video(finished, [path], tmp_path / "again", steady, wings=ALL_WINGS).made == 4
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out") != files_of(tmp_path / "alone")
    run, images = open_run(finished, ALL_WINGS), open_images(f"video:{path}", readers=READERS)
    assert isinstance(run, FinishedRun)
    looking = SteadyRun(**vars(run))
    with torch.inference_mode():
        seen = [looking.own(images.image(number), "") for number in range(3, 8)]
        mask = run._mask(steady_logits(seen), seen[-1].grid)
    assert (read_mask(tmp_path / "out" / "a.mkv@000007.png") == mask.numpy()).all()
    # a second video begins anew
    other = film(tmp_path / "b.mkv", range(9))
    predict_video(finished, [other, path], tmp_path / "two", steady, wings=ALL_WINGS)
    assert (
        read_mask(tmp_path / "two" / "a.mkv@000000.png") == read_mask(tmp_path / "alone" / "a.mkv@000000.png")
    ).all()


def test_a_frame_that_cannot_be_read_is_passed_over(finished):
    run = open_run(finished, ALL_WINGS)
    image = torch.randint(0, 255, (56, 112, 3), dtype=torch.uint8).numpy()

    def broken():
        raise ValueError("frame 1 is damaged")

    pictures = tuple(Picture(str(n), broken if n == 1 else lambda: image, "") for n in range(3))
    looking = SteadyRun(**vars(run), sequence=pictures, begins=(0, 0, 0))
    failed = {}
    found = list(looking.masks(pictures, lambda one, reason: failed.update({one.name: reason}), confident=True))
    assert [one.picture.name for one in found] == ["0", "2"] and failed == {"1": "frame 1 is damaged"}
    assert found[0].confidence is not None and found[0].confidence.shape == (56, 112)
    assert [one.picture.name for one in looking.masks(pictures[2:])] == ["2"]
    with pytest.raises(ValueError, match="frame 1 is damaged"):
        list(looking.masks(pictures))


def test_other_kinds_of_runs_are_refused():
    class Other:
        classes, method, label_budget = (), "", 0
        mask = masks = each = probabilities = predict = print

    with pytest.raises(ValueError, match="expected a run of `saot run` for --steady"):
        label_video._steadied(Other(), "", [])
