import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from saot.data.patches import PatchGrid
from saot.evaluate import interpolation_matrix, predict_confidence, predict_mask, upsample, upsample_scores


def random_scores(grid, classes=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(grid.height * grid.width, classes, generator=generator, dtype=dtype)


@pytest.mark.parametrize(("height", "width"), [(56, 84), (97, 211), (20, 30), (4, 6)])  # up, odd, and down
def test_equals_interpolate_where_tokens_fill_the_picture(height, width):
    grid = PatchGrid(height, width, 56, 84, 14, 4, 6)
    scores = random_scores(grid, dtype=torch.float64)
    maps = scores.view(4, 6, 5).permute(2, 0, 1)[None]
    expected = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample_scores(scores, grid), expected, rtol=1e-12, atol=1e-12)


def test_padding_does_not_shift_the_mask():
    # 100 input pixels on 8 tokens of 14 = 112: as if the padded picture were upsampled and cropped
    grid = PatchGrid(200, 200, 100, 100, 14, 8, 8)
    scores = random_scores(grid, dtype=torch.float64)
    maps = scores.view(8, 8, 5).permute(2, 0, 1)[None]
    padded = F.interpolate(maps, size=(224, 224), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample_scores(scores, grid), padded[:, :200, :200], rtol=1e-12, atol=1e-12)


def test_cut_patches_take_the_edge_token():
    grid = PatchGrid(20, 20, 20, 20, 8, 2, 2)  # 4 input pixels beyond the last token
    values = upsample_scores(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), grid)[0]
    assert values[-1, -1] == 3.0
    assert values[12:, 0].tolist() == [2.0] * 8


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.integers(1, 90),
    size=st.integers(1, 90),
    patch=st.integers(1, 20),
)
def test_weights_are_a_partition_of_neighbours(pixels, size, patch):
    tokens = -(-size // patch)
    matrix = interpolation_matrix(pixels, size, patch, tokens)
    torch.testing.assert_close(matrix.sum(1), torch.ones(pixels, dtype=torch.float64))
    assert bool((matrix >= 0).all())
    assert int((matrix > 0).sum(1).max()) <= 2
    centres = (torch.arange(pixels) + 0.5) * size / pixels / patch - 0.5
    found = matrix @ torch.arange(tokens, dtype=torch.float64)
    torch.testing.assert_close(found, centres.double().clamp(0, tokens - 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [None, torch.tensor([0.0, 0.8, -0.5, 0.0, -torch.inf])])
def test_tiles_equal_the_whole(monkeypatch, bias):
    grid = PatchGrid(61, 83, 50, 70, 14, 4, 5)
    scores = random_scores(grid)
    whole = upsample_scores(scores, grid)
    moved = whole if bias is None else whole + bias[:, None, None]
    for strip, tile in ((1, 7), (400, 30), (1 << 23, 2048)):
        monkeypatch.setattr(upsample, "STRIP_VALUES", strip)
        monkeypatch.setattr(upsample, "TILE_WIDTH", tile)
        mask = predict_mask(scores, grid, bias)
        assert mask.dtype == torch.uint8
        assert torch.equal(mask.long(), moved.argmax(0))
        torch.testing.assert_close(predict_confidence(scores, grid, bias), moved.softmax(0).amax(0))
        chosen = whole.gather(0, moved.argmax(0, keepdim=True))[0]
        torch.testing.assert_close(predict_confidence(scores, grid, bias, kind="probs"), chosen)
    if bias is not None:
        assert 4 not in mask.unique().tolist()


def test_one_token_and_half_precision():
    grid = PatchGrid(3, 5, 14, 14, 14, 1, 1)
    scores = torch.tensor([[0.25, 0.75]], dtype=torch.float16)
    assert predict_mask(scores, grid).tolist() == [[1] * 5] * 3
    values = upsample_scores(scores, grid)
    assert values.dtype == torch.float32
    assert predict_confidence(scores, grid, kind="probs").unique().tolist() == [0.75]


def test_ties_go_to_the_lower_class():
    grid = PatchGrid(2, 2, 2, 2, 2, 1, 1)
    assert predict_mask(torch.zeros(1, 3), grid).unique().tolist() == [0]


def test_memory_is_bounded_for_a_huge_picture(monkeypatch):
    sizes = []
    window = upsample._window

    def measured(*arguments):
        values = window(*arguments)
        sizes.append(values.numel())
        return values

    monkeypatch.setattr(upsample, "_window", measured)
    monkeypatch.setattr(upsample, "STRIP_VALUES", 50_000)
    grid = PatchGrid(1500, 2500, 56, 84, 14, 4, 6)
    assert predict_mask(random_scores(grid), grid).shape == (1500, 2500)
    assert max(sizes) <= 50_000


def test_wrong_input_is_refused():
    grid = PatchGrid(4, 4, 4, 4, 2, 2, 2)
    with pytest.raises(ValueError, match="3 tokens but the grid has 2 x 2"):
        predict_mask(torch.zeros(3, 2), grid)
    with pytest.raises(ValueError, match="infinite or NaN"):
        upsample_scores(torch.tensor([[0.0], [0.0], [0.0], [-torch.inf]]), grid)
    with pytest.raises(ValueError, match="bias has 3"):
        predict_mask(torch.zeros(4, 2), grid, torch.zeros(3))
    with pytest.raises(ValueError, match="256"):
        predict_mask(torch.zeros(4, 256), grid)


def test_scores_of_cells_draw_what_tokens_cannot():
    """Four times as many scores as tokens are those of cells; a mask of two-pixel squares comes back whole."""
    grid = PatchGrid(8, 12, 8, 12, 4, 2, 3)
    mask = torch.randint(0, 3, (4, 6), generator=torch.Generator().manual_seed(0))
    cells = torch.nn.functional.one_hot(mask.flatten(), 3).float()
    wanted = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(predict_mask(cells, grid).long(), wanted)


def test_cells_in_padding_are_dropped():
    grid = PatchGrid(5, 6, 5, 6, 4, 2, 2)  # two rows of tokens, five pixels: of four rows of cells three hold some
    cells = torch.zeros(4 * 4, 2)
    cells[:, 0] = 1.0
    cells.view(4, 4, 2)[3] = torch.tensor([0.0, 9.0])
    assert not predict_mask(cells, grid).any()


def test_a_number_of_scores_that_fits_neither_tokens_nor_cells_is_refused():
    with pytest.raises(ValueError, match="tokens"):
        predict_mask(torch.zeros(12, 2), PatchGrid(8, 12, 8, 12, 4, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_likeliest_class_is_the_first_of_the_largest(dtype):
    scores = torch.randint(-2, 3, (6, 3 * 4), generator=torch.Generator().manual_seed(0)).to(dtype).T  # many ties
    grid = PatchGrid(3, 4, 3, 4, 1, 3, 4)
    forbidden = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, -math.inf], dtype=dtype)
    for bias in (None, forbidden):
        moved = upsample_scores(scores, grid) + (0 if bias is None else bias[:, None, None])
        assert torch.equal(predict_mask(scores, grid, bias), moved.argmax(0).to(torch.uint8))


def test_pixels_below_the_threshold_are_ignored():
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    grid = PatchGrid(30, 40, 3, 4, 1, 3, 4)
    whole, confidence = predict_mask(scores, grid), predict_confidence(scores, grid)
    found = predict_mask(scores, grid, threshold=0.5)
    assert torch.equal(found == 255, confidence < 0.5) and 0 < int((found == 255).sum()) < found.numel()
    assert torch.equal(found[found < 255], whole[found < 255])
