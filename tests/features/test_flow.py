"""Many pictures: the same tokens as one by one, in order, whatever the device."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from helpers.mobile_sam import published_state

from saot.features import FeatureStore, Picture, extract, extract_each, load_backbone, make_each, tinyvit
from saot.features.filterbank import FilterBank


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(published_state(), path)
    return path


def image(number: int, height: int = 56, width: int = 84) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pictures(*images: np.ndarray) -> list[Picture]:
    return [Picture(f"{n}.png", lambda one=one: one, f"print {n}") for n, one in enumerate(images)]


class OnADevice:
    """A backbone that says it runs on an accelerator, and counts what reaches it at once."""

    def __init__(self, inner) -> None:
        self.inner, self.key, self.device, self.seen = inner, inner.key, "cuda", []
        self.patch_size, self.dim, self.input_size = inner.patch_size, inner.dim, inner.input_size

    def tokens(self, image):
        self.seen.append(1)
        return self.inner.tokens(image)

    def batch_tokens(self, images):
        assert torch.is_inference_mode_enabled()
        self.seen.append(len(images))
        return torch.stack([self.inner.tokens(image) for image in images])


@pytest.mark.parametrize("threads", [1, 3])
def test_on_a_cpu_each_picture_gets_what_it_gets_alone(weights, threads):
    images = [image(0), image(1, 84, 56), image(2)]
    before = torch.get_num_threads()
    for network in (load_backbone("mobile-sam", weights, size=96), load_backbone("filterbank", size=56)):
        torch.set_num_threads(1)
        wanted = [extract(network, one, "") for one in images]
        try:
            torch.set_num_threads(threads)
            found = list(extract_each(network, pictures(*images)))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert [one.picture.name for one in found] == ["0.png", "1.png", "2.png"]
        for one, alone in zip(found, wanted, strict=True):
            assert torch.equal(one.features.tokens, alone.tokens)
            assert one.features.grid == alone.grid
        assert found[1].features.provenance.source == "print 1"


def test_small_networks_work_on_several_pictures_at_once(monkeypatch):
    together, meet = load_backbone("filterbank", size=(28, 28)), threading.Barrier(2, timeout=20)
    real = FilterBank.tokens

    def tokens(self, image):
        meet.wait()  # passes only if two are in here
        return real(self, image)

    monkeypatch.setattr(FilterBank, "tokens", tokens)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert len(list(extract_each(together, pictures(image(0), image(1))))) == 2


def test_what_is_made_of_several_pictures_is_made_at_once_each_by_one_thread():
    meet, before = threading.Barrier(2, timeout=20), torch.get_num_threads()

    def make(one):
        meet.wait()  # passes only if two are in here
        assert torch.is_inference_mode_enabled() and torch.get_num_threads() == 1
        return one.picture.name, threading.get_ident()

    try:
        torch.set_num_threads(2)
        made = list(make_each(load_backbone("filterbank", size=(28, 28)), pictures(*map(image, range(4))), make))
    finally:
        torch.set_num_threads(before)
    assert [name for name, _ in made] == ["0.png", "1.png", "2.png", "3.png"]
    assert threading.get_ident() not in {thread for _, thread in made}


def test_beside_an_accelerator_a_picture_is_made_while_the_next_is_seen():
    inner, second = load_backbone("filterbank", size=56), threading.Event()
    network = OnADevice(inner)
    network.batch_tokens = lambda images: (
        second.set() if network.seen else None,
        OnADevice.batch_tokens(network, images),
    )[1]

    def make(one):
        assert torch.is_inference_mode_enabled()
        assert second.wait(20), "the next batch is not seen while this picture is made"
        return one.picture.name

    made = list(make_each(network, pictures(*map(image, range(4))), make, batch=2))
    assert made == ["0.png", "1.png", "2.png", "3.png"] and network.seen == [2, 2]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_in_what_is_made_names_the_picture(device):
    network = load_backbone("filterbank", size=56)

    def make(one):
        raise KeyError("no room")

    with pytest.raises(ValueError, match=r"picture 0\.png: .*no room"):
        list(make_each(OnADevice(network) if device == "cuda" else ByItself(network), pictures(image(0)), make))


class ByItself(OnADevice):
    """A backbone on a CPU that takes one picture at a time, with all threads."""

    def __init__(self, inner) -> None:
        super().__init__(inner)
        self.device = "cpu"


def test_an_accelerator_gets_pictures_of_one_size_in_batches():
    network = OnADevice(load_backbone("filterbank", size=56))
    images = [*(image(n) for n in range(5)), image(5, 84, 56), image(6)]
    found = list(extract_each(network, pictures(*images), batch=2))
    assert network.seen == [2, 2, 1, 1, 1]
    for one, own in zip(found, images, strict=True):
        assert one.image is own
        assert torch.equal(one.features.tokens, extract(network.inner, own, "").tokens)


def test_a_batch_of_mobile_sam_holds_its_pictures_tokens(weights):
    network = load_backbone("mobile-sam", weights, size=96)
    images = np.stack([image(0, 64, 96), image(1, 64, 96)])
    both = network.batch_tokens(images)
    for own, one in zip(both, images, strict=True):
        torch.testing.assert_close(own, network.tokens(one), rtol=1e-4, atol=1e-4)  # other strips, other sums


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_broken_picture_is_named(device):
    def broken() -> np.ndarray:
        raise KeyError("cut off")

    network = OnADevice(load_backbone("filterbank", size=56)) if device == "cuda" else load_backbone("filterbank")
    with pytest.raises(ValueError, match=r"picture b\.png: .*cut off"):
        list(extract_each(network, [Picture("b.png", broken, "")]))
    with pytest.raises(ValueError, match=r"picture empty\.png: expected an RGB picture"):
        list(extract_each(network, [Picture("empty.png", partial(np.zeros, (0, 4, 3), np.uint8), "")]))


def test_bfloat16_is_another_kind_of_features(weights, tmp_path):
    exact = load_backbone("mobile-sam", weights, size=96)
    quick = load_backbone("mobile-sam", weights, size=96, precision="bf16")
    a, b = (extract(network, image(0), "").tokens for network in (exact, quick))
    assert b.dtype == torch.float32
    assert 1e-5 < float((a - b).abs().max()) < 0.2  # 8 bits of mantissa through thirty layers, on unit tokens
    assert exact.key.differences(quick.key) == ("precision",)
    assert "precision" not in exact.key.to_json()  # as stores had it before there was a choice
    assert type(quick.key).from_json(quick.key.to_json()) == quick.key
    FeatureStore(tmp_path, exact.key)
    with pytest.raises(ValueError, match="has precision 'bf16'"):
        FeatureStore(tmp_path, quick.key)


def test_precisions_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="float32, bf16; got 'int4'"):
        load_backbone("filterbank", precision="int4")
    with pytest.raises(ValueError, match="filterbank computes in float32 alone"):
        load_backbone("filterbank", precision="bf16")


def test_what_reaches_the_network_was_moved_to_its_device(weights, monkeypatch):
    """On a device that does not exist here, moving is all that can be watched."""
    network = load_backbone("mobile-sam", weights, size=(32, 32))
    network.device = "elsewhere"
    moved = []

    def pixels_on(images, device):
        moved.append(device)
        return torch.zeros(*images.shape)

    monkeypatch.setattr(tinyvit, "pixels_on", pixels_on)
    network.tokens(image(0, 32, 32))
    assert moved == ["elsewhere"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_who_hears_of_broken_pictures_gets_the_others(device):
    """In batches too, whose pictures before a broken one come before it is told."""

    def broken() -> np.ndarray:
        raise OSError(5, "Input/output error", "b.png")

    network = load_backbone("filterbank", size=56)
    network = OnADevice(network) if device == "cuda" else network
    good, told = pictures(image(0), image(1), image(2)), []
    asked = [
        good[0],
        Picture("b.png", broken, ""),
        good[1],
        Picture("c.png", lambda: np.zeros((0, 4, 3), np.uint8), ""),
    ]
    heard = lambda picture, why: told.append((picture.name, why))  # noqa: E731
    found = [one.picture.name for one in extract_each(network, [*asked, good[2]], failed=heard)]
    assert found == ["0.png", "1.png", "2.png"]
    assert [name for name, _ in told] == ["b.png", "c.png"]
    assert "b.png cannot be read from" in told[0][1] and told[1][1].startswith("picture c.png: expected an RGB picture")
