"""Runs from Python: what a notebook needs, on the code of the command line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import TINY, predict_pictures, tiny_settings
from PIL import Image

import saot
from saot import api
from saot.decoder import TokenDecoder
from saot.label import FinishedRun, Prediction, Wings, open_run, picture_of
from saot.tables import ALL_WINGS

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def opened(finished):
    return saot.load(finished, device="cpu")


def test_a_prediction_is_what_the_command_writes(finished, opened, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_pictures(finished, [tmp_path / "a.png"], tmp_path / "out")
    prediction = opened.predict(tmp_path / "a.png")
    assert isinstance(prediction, Prediction)
    assert np.array_equal(prediction.mask, np.asarray(Image.open(tmp_path / "out" / "a.png")))
    assert np.array_equal(prediction.image, pixels)
    assert opened.run["settings"]["backbone"] == "filterbank"
    assert "saot_decoder" in opened.metrics["methods"]
    assert repr(opened).endswith("saot_decoder, 19 classes)") and repr(prediction) == (
        "Prediction(97 x 61 pixels, 19 classes)"
    )


def test_confidence_and_probabilities_agree_with_the_mask(opened, pixels):
    found = opened.predict(pixels)
    assert found.mask.dtype == np.uint8 and found.mask.shape == (97, 61)
    assert found.confidence.dtype == found.probabilities.dtype == np.float32
    assert found.probabilities.shape == (19, 97, 61)
    assert found.probabilities is found.probabilities  # made once
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.max(0), found.confidence, atol=1e-5)
    own = np.take_along_axis(found.probabilities, found.mask[None].astype(int), 0)[0]
    np.testing.assert_allclose(own, found.confidence, atol=1e-5)
    assert found.classes is opened.classes


def test_a_picture_may_come_in_any_form(opened, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    wanted = opened.predict(pixels).mask
    for form in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        torch.from_numpy(pixels),
        channels_first,
        channels_first.float() / 255,
        torch.from_numpy(pixels).double() / 255,
    ):
        assert np.array_equal(opened.predict(form).mask, wanted)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((4, 4), np.uint8), r"array \(h, w, 3\) of uint8; got uint8 of shape \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "got float32"),
        (torch.zeros(1, 3, 4, 4), "without a batch axis"),
        (torch.zeros(3, 0, 4), r"got shape \(3, 0, 4\)"),
        (torch.full((3, 4, 4), 1.5), "from 0 to 1; got 1.5 to 1.5"),
        (torch.full((3, 4, 4), float("nan")), "from 0 to 1; got nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "got torch.int64"),
        ([1, 2], "got list: pass one of them"),
    ],
)
def test_what_is_no_picture_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        picture_of(wrong)


@pytest.mark.parametrize("kind", ["deep grey", "palette", "alpha", "one bit"])
def test_a_pil_picture_is_read_as_its_file_is(tmp_path, kind):
    rng = np.random.default_rng(0)
    picture = {
        "deep grey": lambda: Image.fromarray(rng.integers(0, 65535, (4, 6)).astype(np.uint16)),
        "palette": lambda: Image.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)).quantize(5),
        "alpha": lambda: Image.fromarray(rng.integers(0, 255, (4, 6, 4), dtype=np.uint8)),
        "one bit": lambda: Image.fromarray(rng.random((4, 6)) > 0.5),
    }[kind]()
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(picture_of(picture), picture_of(tmp_path / "a.png"))


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture_of(picture).shape == picture_of(tmp_path / "a.jpg").shape == (20, 10, 3)


def test_the_plot_shows_picture_overlay_and_the_classes_that_occur(opened, pixels):
    found = opened.predict(pixels)
    figure = found.plot()
    assert [axes.images[0].get_array().shape for axes in figure.axes] == [(97, 61, 3)] * 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [found.classes.names[index] for index in np.unique(found.mask)]


class Watched(TokenDecoder):
    """A network on a device that does not exist: it watches that what it gets was moved there."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 19, 4, 1)
        self.moved: list[str] = []

    def forward(self, tokens):
        assert self.moved, "the tokens were not moved"
        return torch.zeros(len(tokens), 19)


def test_tokens_are_moved_to_the_decoders_device(opened, pixels, monkeypatch):
    run = opened.labeller
    assert isinstance(run, FinishedRun)
    network = Watched(run.backbone.dim)
    moved = FinishedRun(run.classes, network, run.backbone, run.bias, 0, device="elsewhere")
    real = torch.Tensor.to

    def to(self, *where, **options):
        if where == ("elsewhere",):
            network.moved.append(where[0])
            return self
        return real(self, *where, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    assert moved.mask(pixels, "").device.type == "cpu"
    assert moved.predict(pixels).mask.shape == (97, 61)
    assert network.moved == ["elsewhere"] * 2


def test_decoder_and_backbone_are_opened_on_the_device(finished, monkeypatch):
    asked = []
    real = torch.nn.Module.to

    class Recording(Wings):
        def backbone(self, name, weights=None, **options):
            asked.append(("backbone", options.pop("device")))
            return ALL_WINGS.backbone(name, weights, **options)

    def to(self, *where, **options):
        asked.append(("decoder", *where))
        return self if where == ("elsewhere",) else real(self, *where, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    run = open_run(finished, Recording(), "elsewhere")
    assert ("backbone", "elsewhere") in asked and ("decoder", "elsewhere") in asked
    assert isinstance(run, FinishedRun) and run.device == "elsewhere"


def test_label_is_the_run_command(finished, monkeypatch, tmp_path):
    """The finished run goes on, that is, is found finished; so all settings are those of the command."""
    settings, stages = tiny_settings(), []
    run = saot.label(
        settings.source,
        settings.target,
        eval=settings.eval,
        points=settings.points,
        backbone=settings.backbone,
        size=settings.size,
        preset=TINY,
        out=finished,
        device="cpu",
        progress=lambda *where: stages.append(where),
    )
    assert run.metrics == saot.load(finished, "cpu").metrics
    assert run.predict(np.zeros((20, 30, 3), np.uint8)).mask.shape == (20, 30)
    with pytest.raises(ValueError, match="expected a preset among"):
        saot.label("a:b", "c:d", out=tmp_path, preset="none")
    with pytest.raises(ValueError, match="does not exist"):
        saot.load(tmp_path / "nowhere", "cpu")


def test_the_names_are_loaded_when_used():
    assert saot.load is api.load
    assert {"load", "label"} <= set(saot.__all__)
    assert saot.label.RunSettings is type(tiny_settings())  # the room keeps its names


def test_the_pages_code_runs(finished, pixels, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished)
    (tmp_path / "new").mkdir()
    Image.fromarray(pixels).save(tmp_path / "new" / "street.jpg")
    asked = []
    monkeypatch.setattr(api, "run_settings", lambda settings, *rest: asked.append(settings))
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert len(blocks) == 2
    assert names["mask"].shape == (40, 60)
    assert asked[0].points == "clicks.csv"
    assert (tmp_path / "street.png").exists() and (tmp_path / "street-mask.png").exists()
