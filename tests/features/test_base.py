import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from saot.features import extract, load_backbone
from saot.features.base import check_size, fit_size, library_versions, resample_tokens, resize_image


@pytest.mark.parametrize(
    ("size", "patch", "nearest"),
    [
        ((500, 1008), 14, "504x1008"),
        ((504, 1009), 14, "504x1008"),
        (1000, 14, "994"),
        ((3, 14), 14, "14x14"),
        (0, 14, "14"),
    ],
)
def test_wrong_size_says_the_nearest_valid_one(size, patch, nearest):
    with pytest.raises(ValueError, match=f"nearest valid size is {nearest}$"):
        check_size(size, patch)


def test_size_policies():
    assert fit_size(1052, 1914, (504, 1008), 14) == (504, 1008)
    assert fit_size(1024, 2048, 1008, 14) == (504, 1008)
    assert fit_size(2048, 1024, 1008, 14) == (1008, 504)
    assert fit_size(1, 5000, 1008, 14) == (14, 1008)
    assert fit_size(7, 7, 16, 16) == (16, 16)


def test_resize_is_height_first_and_antialiased():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, ::2] = 255  # one-pixel stripes: without antialias they would stay black and white
    small = resize_image(image, (20, 20), "pillow-bicubic")
    assert small.shape == (20, 20, 3)
    assert np.abs(small.astype(int) - 128).max() < 40
    wanted = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(small, wanted)
    assert resize_image(image, (40, 80), "pillow-bicubic") is image


def test_extract_writes_down_where_tokens_come_from():
    image = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    backbone = load_backbone("filterbank", size=84)
    features = extract(backbone, image, "cafe")
    assert (features.height, features.width) == (4, 6)
    assert features.tokens.shape == (24, backbone.dim)
    assert features.provenance.image_size == (61, 90)
    assert features.provenance.input_size == (56, 84)
    assert features.provenance.source == "cafe"
    assert features.provenance.key == backbone.key
    assert dict(features.provenance.versions)["torch"] == torch.__version__
    torch.testing.assert_close(features.tokens.norm(dim=1), torch.ones(24))  # l2_norm
    raw = extract(load_backbone("filterbank", size=84, l2_norm=False), image, "cafe")
    assert not raw.provenance.l2_norm
    assert (raw.tokens.norm(dim=1) - 1).abs().max() > 0.1
    torch.testing.assert_close(torch.nn.functional.normalize(raw.tokens, dim=1), features.tokens)


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="RGB"):
        extract(load_backbone("filterbank"), np.zeros((0, 5, 3), np.uint8), "")


def test_one_pixel_is_a_picture():
    features = extract(load_backbone("filterbank", size=28), np.full((1, 1, 3), 7, np.uint8), "")
    assert features.tokens.shape[0] == 4
    assert torch.isfinite(features.tokens).all()


@pytest.mark.parametrize(("height", "width"), [(3, 5), (7, 4)])
def test_resampling_is_bilinear_interpolation(height, width):
    tokens = torch.randn(height * width, 3)
    grid = tokens.T.view(1, 3, height, width)
    for rows, columns in ((6, 9), (2, 2), (1, 11)):
        wanted = F.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=False)[0].flatten(1).T
        got = resample_tokens(tokens, (14 * height, 14 * width), 14, (16 * rows, 16 * columns), 16)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)  # float32


def test_resampling_keeps_places_when_a_grid_reaches_beyond_the_picture():
    """Tokens that hold the height of their centre, in shares of the picture, still do afterwards."""
    rows = (torch.arange(5) + 0.5) * 16 / 68  # the last row is a quarter picture
    tokens = rows[:, None].expand(5, 2).reshape(-1, 1)
    got = resample_tokens(tokens, (68, 32), 16, (140, 28), 14).view(10, 2)
    wanted = (torch.arange(10) + 0.5) / 10
    inside = wanted >= rows[0]  # above the first centre there is nothing to interpolate with
    torch.testing.assert_close(got[inside], wanted[inside, None].expand(-1, 2))
    assert resample_tokens(tokens, (68, 32), 16, (68, 32), 16) is tokens


def test_libraries_of_joined_parts():
    assert [name for name, _ in library_versions("mobile-sam+filterbank")] == ["torch", "pillow"]
    assert "transformers" in dict(library_versions("filterbank+dinov2-base"))
