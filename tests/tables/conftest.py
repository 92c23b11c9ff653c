from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.trees import camvid, cityscapes, gta5, synthia, voc

from saot.tables import Request

SIZE = "42x84"


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, tuple[str, str, str]]:
    """SPECs of source, target and evaluation by what a preset needs."""
    root = tmp_path_factory.mktemp("data")
    street = cityscapes(root / "cityscapes")
    film = camvid(root / "camvid")
    blocks = voc(root / "voc")
    found = {
        "gta5": (f"gta5:{gta5(root / 'gta5')}", f"cityscapes:{street}:train", f"cityscapes:{street}:val"),
        "voc": (f"voc:{blocks}:train", f"voc:{blocks}:val", f"voc:{blocks}:val"),
        "camvid": (f"camvid:{film}:day.txt", f"camvid:{film}:dusk.txt", f"camvid:{film}:test.txt"),
    }
    if find_spec("cv2") is not None:
        found["synthia"] = (f"synthia:{synthia(root / 'synthia')}", *found["gta5"][1:])
    return found


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """One folder of runs for all tables, so that trainings are shared."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def request_for(data):
    """A tiny request on one of the data sets."""

    def make(name: str, **changes) -> Request:
        if name not in data:
            pytest.skip("SYNTHIA's masks need OpenCV")
        source, target, evaluation = data[name]
        return replace(Request(source=source, target=target, eval=evaluation, size=SIZE, counts="tiny"), **changes)

    return make
