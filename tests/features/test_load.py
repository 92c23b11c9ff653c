"""Names, and which network each of them opens."""

import subprocess
import sys

import pytest
import torch
from helpers.mobile_sam import published_state

from saot.features import FeatureSettings, load_backbone
from saot.features.filterbank import FilterBank
from saot.features.joined import Joined
from saot.features.tinyvit import MobileSam


def test_unknown_name_lists_the_known_ones():
    for name in ("dinov9", "dinov2-huge", "dinov3-tiny", "", "../x/y", "filterbank "):
        with pytest.raises(ValueError, match="filterbank, mobile-sam, dinov2"):
            load_backbone(name)


def test_names_open_their_networks(tmp_path):
    torch.save(published_state(), tmp_path / "sam.pt")
    assert type(load_backbone("filterbank")) is FilterBank
    assert type(load_backbone("mobile-sam", tmp_path / "sam.pt")) is MobileSam
    assert type(load_backbone("filterbank+mobile-sam", tmp_path / "sam.pt")) is Joined


def test_a_handed_in_maker_gets_every_setting_alone_and_as_a_part():
    asked = []

    def make(settings: FeatureSettings) -> FilterBank:
        asked.append(settings)
        return FilterBank(FeatureSettings("filterbank", size=settings.size))

    with pytest.raises(ValueError, match="backbone 'mine' is not known"):
        load_backbone("mine")
    options = {"size": 28, "l2_norm": False, "pad": False, "layers": [-1, "neck"], "final_norm": True}
    load_backbone("mine", "file", **options, device="meta", others={"mine": make})
    assert asked == [FeatureSettings("mine", "file", 28, ("-1", "neck"), True, False, False, "meta")]
    joined = load_backbone("filterbank+mine", "+file", size=(28, 42), pad=False, others={"mine": make})
    assert asked[1:] == [FeatureSettings("mine", "file", (28, 42), pad=False)]
    assert joined.dim == 2 * load_backbone("filterbank").dim


def test_room_loads_without_the_heavy_libraries():
    code = (
        "import sys, saot.features as f; f.load_backbone('filterbank'); "
        "print([m for m in ('transformers', 'huggingface_hub', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
