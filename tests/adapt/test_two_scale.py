import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from saot.adapt import Encoder
from saot.adapt.crops import Crop
from saot.adapt.two_scale import (
    ScaleAttention,
    TwoScale,
    TwoScaleSettings,
    average_windows,
    draw_box,
    fuse,
    slide_boxes,
)


class Means(Encoder):
    """Means of pixels over cells of 4 and of 8; nothing at an edge differs from elsewhere."""

    family = "means"

    def __init__(self) -> None:
        super().__init__("means", (3, 3), (4, 8), 8, ((0.0,) * 3, (1.0,) * 3))

    def maps(self, pixels):
        return F.avg_pool2d(pixels, 4), F.avg_pool2d(pixels, 8)


class First(nn.Module):
    """The finest stage as logits."""

    def forward(self, stages):
        return stages[0]


class Always(nn.Module):
    """The same logit everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, stages):
        return torch.full_like(stages[0], self.value)


def network(attention: float, **settings) -> TwoScale:
    return TwoScale(Always(attention), 4, TwoScaleSettings(**settings))


def pictures(height: int = 64, width: int = 96) -> torch.Tensor:
    return 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def upsampled(context: torch.Tensor) -> torch.Tensor:
    return F.interpolate(context, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("generator", [None, draws()])
def test_without_attention_it_is_the_context(generator):
    pixels = pictures()
    found = network(-math.inf)(Means(), First(), pixels, generator)
    context = F.avg_pool2d(pixels, 8)  # 2x2 means of the halving, 4x4 of the encoder
    assert_close(found.logits, upsampled(context), rtol=1e-5, atol=1e-3)  # float32 means of values up to 255
    assert_close(found.stages[0], context, rtol=1e-5, atol=1e-3)
    assert_close(found.features, F.avg_pool2d(pixels, 16), rtol=1e-5, atol=1e-3)
    assert (found.detail is None) == (generator is None)


def test_with_full_attention_it_is_the_detail_inside_the_window():
    pixels = pictures()
    found = network(math.inf)(Means(), First(), pixels, draws())
    assert found.detail is not None
    box = found.detail.box
    assert (box.height, box.width) == (32, 48)
    detail = F.avg_pool2d(pixels, 4)
    rows, columns = (slice(start // 4, (start + side) // 4) for start, side in ((box.top, 32), (box.left, 48)))
    assert_close(found.detail.logits, detail[..., rows, columns], rtol=1e-5, atol=1e-3)
    # one cell inside the edge the attention, upsampled, is 1; one outside, 0
    inner = (slice(rows.start + 1, rows.stop - 1), slice(columns.start + 1, columns.stop - 1))
    assert_close(found.logits[..., *inner], detail[..., *inner], rtol=1e-5, atol=1e-3)
    outside = torch.ones(16, 24, dtype=torch.bool)
    outside[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1] = False
    mask = torch.ones(1, 1, 8, 12)
    mask[..., box.top // 8 : (box.top + 32) // 8, box.left // 8 : (box.left + 48) // 8] = 0
    context = upsampled(mask * F.avg_pool2d(pixels, 8))
    assert_close(found.logits[..., outside], context[..., outside], rtol=1e-5, atol=1e-3)


def test_fusion_cell_by_cell():
    """Against the formula written for one cell at a time, attention differing by class and cell."""
    torch.manual_seed(0)
    context, attention, detail = torch.randn(1, 2, 4, 4), torch.rand(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    found = fuse(context, attention, detail, Crop(8, 16, 16, 16), stride=4)
    masked = torch.zeros_like(attention)
    masked[:, :, 1:3, 2:4] = attention[:, :, 1:3, 2:4]

    def at(values: torch.Tensor, row: int, column: int) -> float:
        total = 0.0
        for y in range(4):
            for x in range(4):
                place = (min(max((row + 0.5) / 2 - 0.5, 0), 3), min(max((column + 0.5) / 2 - 0.5, 0), 3))
                total += values[y, x].item() * max(0, 1 - abs(y - place[0])) * max(0, 1 - abs(x - place[1]))
        return total

    for k in range(2):
        for row in range(8):
            for column in range(8):
                wanted = at((1 - masked[0, k]) * context[0, k], row, column)
                if 2 <= row < 6 and 4 <= column < 8:
                    wanted += at(masked[0, k], row, column) * detail[0, k, row - 2, column - 4].item()
                assert_close(found[0, k, row, column].item(), wanted, rtol=0, atol=1e-5)


def test_windows_are_drawn_everywhere_and_on_the_grid():
    generator = draws()
    places = {(box.top, box.left) for box in (draw_box((64, 48), (32, 32), 8, generator) for _ in range(400))}
    assert places == {(top, left) for top in range(0, 33, 8) for left in (0, 8, 16)}
    wide = draw_box((64, 48), (64, 48), 8, generator)
    assert wide == Crop(0, 0, 64, 48)


def test_places_fit_a_coarser_head():
    """A head of stride 8 has context cells of 16 pixels, so places are multiples of 16."""
    both = TwoScale(Always(0.0), 8, TwoScaleSettings())
    head = nn.Sequential()
    head.forward = lambda stages: stages[1]  # type: ignore[method-assign]
    both.attention.forward = lambda stages: torch.zeros_like(stages[1])  # type: ignore[method-assign]
    boxes = [both(Means(), head, pictures(64, 128), draws(seed)).detail.box for seed in range(12)]
    assert {box.top % 16 for box in boxes} == {box.left % 16 for box in boxes} == {0}
    assert both.multiple(Means()) == 32


def test_the_draw_is_the_generators():
    both, pixels = network(0.0), pictures()
    one, same = (both(Means(), First(), pixels, draws(3)).detail.box for _ in range(2))
    assert one == same
    assert len({both(Means(), First(), pixels, draws(seed)).detail.box for seed in range(9)}) > 1


def test_windows_slide_by_half_and_cover_everything():
    boxes = slide_boxes((64, 80), (32, 32), 16)
    assert {box.top for box in boxes} == {0, 16, 32} and {box.left for box in boxes} == {0, 16, 32, 48}
    assert [box.top for box in slide_boxes((72, 32), (32, 32), 8)] == [0, 16, 32, 40]
    assert slide_boxes((32, 32), (32, 32), 8) == [Crop(0, 0, 32, 32)]
    assert [box.left for box in slide_boxes((24, 72), (24, 24), 24)] == [0, 24, 48]


def test_windows_are_averaged_where_they_overlap():
    boxes = [Crop(0, 0, 4, 8), Crop(0, 4, 4, 8)]
    parts = [torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([4.0, 8.0]).view(1, 1, 1, 2)]
    assert average_windows(parts, boxes, (4, 12), 4).flatten().tolist() == [1.0, 3.0, 8.0]


def test_in_evaluation_windows_slide_whatever_the_generator():
    pixels = pictures()
    both = network(math.inf).eval()
    found = both(Means(), First(), pixels, draws())
    assert found.detail is None
    assert_close(found.logits, F.avg_pool2d(pixels, 4), rtol=1e-5, atol=1e-3)  # windows agree, so their mean is all


def test_one_window_that_covers_all_is_the_detail():
    """Of a network that sees edges: with a window of the input's size nothing is cut."""
    conv = nn.Conv2d(3, 3, 3, padding=1)
    encoder, pixels = Means(), pictures(32, 32)
    encoder.maps = lambda x: (F.avg_pool2d(conv(x), 4), F.avg_pool2d(x, 8))  # type: ignore[method-assign]
    with torch.no_grad():
        whole = network(math.inf, window=(64, 64), projector_scale="detail").eval()(encoder, First(), pixels)
        stages = encoder(pixels)
        cut = network(math.inf).eval()(encoder, First(), pixels)
    assert_close(whole.logits, stages[0], rtol=1e-5, atol=1e-3)
    assert_close(whole.features, stages[1], rtol=0, atol=0)
    assert not torch.allclose(cut.logits, whole.logits, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_the_projector_may_see_the_detail(training):
    pixels = pictures()
    both = network(0.0, projector_scale="detail").train(training)
    found = both(Means(), First(), pixels, draws())
    if training:
        box = found.detail.box
        pixels = pixels[..., box.top : box.top + box.height, box.left : box.left + box.width]
    assert_close(found.features, F.avg_pool2d(pixels, 8), rtol=1e-5, atol=1e-3)


def test_scale_attention_knows_classes():
    attention = ScaleAttention((4, 8), num_classes=5, channels=8)
    assert attention((torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4))).shape == (2, 5, 8, 8)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"multiples of 16, but the input is 24x32 .*; crop or resize it"):
        network(0.0)(Means(), First(), pictures(24, 32))
    with pytest.raises(ValueError, match=r"sides that are multiples of 8, but 12x16 .* came; choose another"):
        network(0.0, window=(12, 16))(Means(), First(), pictures(32, 32))
