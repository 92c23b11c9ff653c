"""TSS, written small: both directions, and what wrong input is told."""

import numpy as np
import pytest
from helpers.pairs import picture
from PIL import Image

from saot.match.pairs.files import FLOW_MAGIC, read_flow
from saot.match.pairs.readers import open_pairs


def write_flow(path, flow, magic=FLOW_MAGIC):
    height, width, _ = flow.shape
    head = np.array([magic], "<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    path.write_bytes(head + flow.astype("<f4").tobytes())


@pytest.fixture
def tss(tmp_path):
    """A folder in each subset; flow2 leads from image2 (12 x 16) to image1 (10 x 14), flow1 back."""
    for subset in ("FG3DCar", "JODS", "PASCAL"):
        folder = tmp_path / subset / "a-b"
        for number, size in ((1, (10, 14)), (2, (12, 16))):
            picture(folder / f"image{number}.png", size)
            mask = np.zeros(size, np.uint8)
            mask[2:6, 3:9] = 255
            Image.fromarray(mask).save(folder / f"mask{number}.png")
            flow = np.full((*size, 2), 1e10, np.float32)
            flow[1:6, 2:9] = [number, -number]
            flow[2, 3] = np.nan
            write_flow(folder / f"flow{number}.flo", flow)
    return tmp_path


def test_tss_gives_both_directions_with_flow_inside_the_mask(tss):
    pairs = open_pairs(f"tss:{tss}")
    assert len(pairs) == 6 and pairs.categories == ("FG3DCar",) * 2 + ("JODS",) * 2 + ("PASCAL",) * 2
    assert pairs.keys[:2] == ("FG3DCar/a-b/1-2", "FG3DCar/a-b/2-1")
    forth, back = pairs[:2]
    assert (forth.source.size, forth.target.size) == ((10, 14), (12, 16))
    assert (back.source.size, back.target.size) == ((12, 16), (10, 14))
    for pair, number in ((forth, 2), (back, 1)):
        flow = pair.flow()
        assert flow.valid.shape == pair.target.size and flow.valid.sum() == 4 * 6 - 1  # less the unknown pixel
        assert (flow.flow[flow.valid] == [number, -number]).all() and (flow.flow[~flow.valid] == 0).all()
        assert not len(pair.names) and pair.target.mask().sum() == 24
    assert open_pairs(f"tss:{tss}:JODS").keys == ("JODS/a-b/1-2", "JODS/a-b/2-1")


def test_masks_count_as_they_stand_in_the_file(tss):
    """A 1 of 16 bits is not stretched to nothing, and a palette's index counts, not its colour."""
    folder, mask = tss / "JODS" / "a-b", np.zeros((12, 16), np.uint16)
    mask[3, 4:6] = 1
    Image.fromarray(mask).save(folder / "mask2.png")
    assert open_pairs(f"tss:{tss}:JODS")[0].target.mask().sum() == 2
    black = Image.fromarray(mask.astype(np.uint8))
    black.putpalette([0] * 768)
    black.save(folder / "mask2.png")
    assert open_pairs(f"tss:{tss}:JODS")[0].target.mask().sum() == 2
    Image.fromarray(np.repeat(mask.astype(np.uint8)[..., None], 3, 2)).save(folder / "mask2.png")
    assert open_pairs(f"tss:{tss}:JODS")[0].target.mask().sum() == 2


def test_tss_says_what_is_wrong(tss):
    path = tss / "JODS" / "a-b" / "flow2.flo"
    good = path.read_bytes()
    write_flow(path, np.zeros((12, 16, 2)), magic=1.5)
    with pytest.raises(ValueError, match=r"begins with 1.5 but a .flo file with 202021.25"):
        open_pairs(f"tss:{tss}:JODS")[0].flow()
    path.write_bytes(good[:-8])
    with pytest.raises(ValueError, match=r"1540 bytes, but its head says 16x12 pixels, which need 1548"):
        read_flow(path)
    path.write_bytes(b"PIEH")
    with pytest.raises(ValueError, match="begins with None"):
        read_flow(path)
    write_flow(path, np.zeros((10, 14, 2)))
    with pytest.raises(ValueError, match=r"mask2.png .* has 16x12 pixels, but flow2.flo has 14x10"):
        open_pairs(f"tss:{tss}:JODS")[0].flow()
    path.unlink()
    with pytest.raises(ValueError, match=r"flow2\.flo is missing"):
        open_pairs(f"tss:{tss}:JODS")[0].flow()
    with pytest.raises(ValueError, match="subsets FG3DCar, JODS, PASCAL, but 'test' came"):
        open_pairs(f"tss:{tss}:test")
    with pytest.raises(ValueError, match=r"expected folders with image1.png in .*/FG3DCar"):
        open_pairs(f"tss:{tss / 'JODS'}")
