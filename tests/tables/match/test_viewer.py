"""What a matcher sees of a picture."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from helpers.pair_tables import PAIRS, REQUEST, opened

from saot.features import PromptSegmenter
from saot.tables.match.matching import seeded
from saot.tables.match.viewer import NetworkOutputs, Viewer, distorted, network_of


def test_distorted_depth_keeps_the_sky_and_the_order_of_far_and_near():
    depth = np.linspace(2, 9, 60, dtype=np.float32)[:, None] * np.ones((1, 60), np.float32)
    depth[:5] = np.inf
    moved = distorted(depth, 0, "a")
    assert np.isinf(moved[:5]).all() and np.isfinite(moved[5:]).all() and moved[5:].min() > 0
    assert np.corrcoef(moved[5:].ravel(), depth[5:].ravel())[0, 1] > 0.8
    assert not np.array_equal(moved[5:], distorted(depth, 1, "a")[5:])


class Counting(PromptSegmenter):
    """In the place of MobileSAM and of a network that lifts: counts its calls."""

    def __init__(self, identity="a"):
        self.identity, self.calls = identity, 0

    def encode(self, image):
        return image

    def segment(self, image, prompts):
        self.calls += 1
        left, top, right, bottom = (round(edge) for edge in prompts[0].box)
        mask = torch.zeros(1, *image.shape[:2], dtype=torch.bool)
        mask[0, top:bottom, left : right - 3] = True
        return SimpleNamespace(masks=mask)

    def lift(self, image, grid, inside=None):
        self.calls += 1
        count = grid.height * grid.width
        return SimpleNamespace(points=torch.rand(count, 3, generator=torch.Generator().manual_seed(int(inside.sum()))))


def test_masks_and_points_of_networks_are_made_once(tmp_path):
    network, outputs = network_of(REQUEST), NetworkOutputs(tmp_path / "kept")
    side = replace(opened(seeded(PAIRS, 0))[0].source, load_mask=None)

    def look(sam, lifter, box=side.box):
        viewer = Viewer(network, None, sam, lifter, outputs=outputs)
        return viewer.side_of(viewer.see(replace(side, box=box)), "object", "lifted", 0)

    first, again = [Counting(), Counting()], [Counting(), Counting()]
    one, other = look(*first), look(*again)
    assert [part.calls for part in first] == [1, 1] and [part.calls for part in again] == [0, 0]
    assert torch.equal(one.mask, other.mask) and torch.equal(one.points, other.points)
    left, top, right, bottom = side.box
    for sam, lifter, box in (("a", "b", side.box), ("a", "a", (left, top, right - 9, bottom)), ("b", "a", side.box)):
        changed = [Counting(sam), Counting(lifter)]
        look(*changed, box)
        assert [part.calls for part in changed] == [int(sam == "b" or box != side.box), int(sam == "a")]
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    look(*again)
    assert [part.calls for part in again] == [1, 1]  # damaged files are made anew


def test_two_cuts_of_a_name_have_points_of_their_own():
    """Cut pairs name a picture by its scene and object; its crop and occluder are each pair's."""
    viewer = Viewer(network_of(REQUEST), None, None, None)
    pairs = opened(seeded(PAIRS, 0))
    cuts = [replace(pair.source, name="the same") for pair in (pairs[0], pairs[1])]
    alone = [
        Viewer(network_of(REQUEST), None, None, None).side_of(viewer.see(cut), "object", "exact", 0) for cut in cuts
    ]
    together = [viewer.side_of(viewer.see(cut), "object", "exact", 0) for cut in cuts]
    assert not torch.equal(alone[0].points, alone[1].points)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.mask, other.mask)
