"""The convolution form of the local structure against its matrices."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from saot.match.neighbours import Disk, LocalStructure

GRIDS = [((6, 7), (9, 8)), ((5, 5), (3, 2)), ((4, 4), (1, 9)), ((1, 1), (1, 1)), ((2, 13), (13, 2))]
DISTANCES = [(3.0, 5.0), (4.2, 2.5), (1.2, 0.0), (7.0, 9.0)]


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("distances", DISTANCES)
@pytest.mark.parametrize("centre", [True, False])
def test_equals_the_product_with_the_matrices(grids, distances, centre):
    local = LocalStructure(*grids, *distances, centre=centre)
    plan = torch.rand(2, *local.tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plan /= plan.sum((-2, -1), keepdim=True)
    near, far = local.matrices(torch.float64)
    assert_close(local.multiply(plan), near @ plan @ far, rtol=0, atol=1e-10)


def test_equals_the_product_over_several_blocks():
    local = LocalStructure((40, 9), (20, 30))
    plan = torch.rand(*local.tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert len(local.blocks(plan)) > 1
    near, far = local.matrices(torch.float64)
    assert_close(local.multiply(plan), near @ plan @ far, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("radius", "strict"), itertools.product((1, 2.5, 3, 5), (True, False)))
def test_a_disk_holds_what_its_distance_says(radius, strict):
    disk = Disk.of_radius(radius, strict)
    reach = range(-8, 9)
    inside = {
        (row, column)
        for row, column in itertools.product(reach, reach)
        if (row * row + column * column < radius**2 if strict else row * row + column * column <= radius**2)
    }
    runs = {
        (row - disk.radius, column) for row, width in enumerate(disk.half_widths) for column in range(-width, width + 1)
    }
    assert runs == inside
    assert disk.size == len(inside)


def test_the_papers_distances_are_a_box_of_25_and_a_disk_of_81():
    local = LocalStructure((60, 60), (60, 60), near=3, far=5)
    assert local.near_disk.half_widths == (2, 2, 2, 2, 2)
    assert (local.taps, local.far_disk.size) == (25, 81)


def test_gradient_of_the_term_is_twice_the_product():
    local = LocalStructure((3, 4), (4, 3), near=2, far=1.5)
    plan = torch.rand(*local.tokens, dtype=torch.float64, requires_grad=True)
    near, far = local.matrices(torch.float64)
    (near @ plan @ far * plan).sum().backward()
    assert_close(plan.grad, 2 * local.multiply(plan.detach()), rtol=0, atol=1e-12)


def test_wrong_input_is_told():
    local = LocalStructure((3, 4), (4, 3))
    with pytest.raises(ValueError, match=r"plans of shape \(12, 12\)"):
        local.multiply(torch.rand(12, 11))
    with pytest.raises(ValueError, match="holds the centre"):
        LocalStructure((3, 4), (4, 3), near=0)
    with pytest.raises(ValueError, match="besides itself; raise near"):
        LocalStructure((3, 4), (4, 3), near=1, centre=False)
    assert LocalStructure((3, 4), (4, 3), near=1).taps == 1
    with pytest.raises(ValueError, match="0 x 4"):
        LocalStructure((0, 4), (4, 3))
