"""One PCA of both pictures of a pair, against numpy's SVD."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.match import MatchSettings, MatchSide, match_sides, pair_basis, read_dims

WIDTHS = ((6, 9), (5,))


def side(seed, shape=(4, 7), widths=WIDTHS):
    generator = torch.Generator().manual_seed(seed)
    width = sum(map(sum, widths))
    spread = torch.linspace(1, 3, width)  # directions of different strength
    return MatchSide.of(torch.randn(shape[0] * shape[1], width, generator=generator) * spread + 0.5, shape)


def by_numpy(source, target, columns, count):
    """(x - mean) V of both, V from numpy's SVD, each direction's largest entry positive."""
    both = np.concatenate([source.tokens.double().numpy(), target.tokens.double().numpy()])[:, columns]
    centred = both - both.mean(0)
    vectors = np.linalg.svd(centred, full_matrices=False)[2][:count].T
    vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0))
    return np.split(centred @ vectors, [len(source.tokens)]), vectors


def test_the_reduction_is_numpys_svd_and_both_pictures_share_the_basis():
    source, target = side(0), side(1, (5, 3))
    basis = pair_basis(source, target, WIDTHS, ((3, 4), (0,)))
    (first, second), directions = by_numpy(source, target, slice(0, 6), 3)
    (third, fourth), others = by_numpy(source, target, slice(6, 15), 4)
    assert_close(basis.directions[0], torch.from_numpy(directions).float(), atol=1e-5, rtol=1e-5)
    assert_close(basis.directions[1], torch.from_numpy(others).float(), atol=1e-5, rtol=1e-5)
    assert basis.directions[2] is None
    for one, parts in ((source, (first, third)), (target, (second, fourth))):
        wanted = np.concatenate(parts, 1)
        lengths = one.tokens[:, :15].norm(dim=-1, keepdim=True)
        wanted = torch.from_numpy(wanted / np.linalg.norm(wanted, axis=1, keepdims=True)).float() * lengths
        found = basis.reduced(one)
        assert_close(found.tokens[:, :7], wanted, atol=1e-5, rtol=1e-5)  # float32 from float64
        assert_close(found.tokens[:, 7:], one.tokens[:, 15:], atol=1e-6, rtol=1e-6)  # as it was, share and all
        assert_close(found.tokens.norm(dim=-1), torch.ones(len(one.tokens)), atol=1e-6, rtol=0)
        assert found.shape == one.shape and torch.equal(found.mask, one.mask)


def test_the_pair_turned_round_or_made_again_has_the_same_basis():
    source, target = side(0), side(1)
    first, again, turned = (
        pair_basis(*sides, WIDTHS, ((3, 4), (2,))) for sides in ((source, target), (source, target), (target, source))
    )
    for one, two, three in zip(first.directions, again.directions, turned.directions, strict=True):
        assert torch.equal(one, two)
        assert_close(one, three, atol=1e-5, rtol=1e-5)
        assert (one.gather(0, one.abs().argmax(0, keepdim=True)) > 0).all()
        assert_close(one.T @ one, torch.eye(one.shape[1]), atol=1e-5, rtol=0)
    alone = pair_basis(source, source, WIDTHS, ((3, 4), (2,)))
    assert not torch.allclose(alone.directions[0], first.directions[0], atol=1e-2)  # of the pair, not of one picture


def test_all_directions_keep_distances_and_what_lies_in_few_is_kept_whole():
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(9, 2, generator=generator)).Q
    sides = [MatchSide.of(torch.randn(20, 2, generator=generator) @ plane.T, (4, 5)) for _ in range(2)]
    basis = pair_basis(*sides, ((9,),), ((2,),))
    back = (sides[0].tokens - basis.means[0]) @ basis.directions[0] @ basis.directions[0].T + basis.means[0]
    assert_close(back, sides[0].tokens, atol=1e-5, rtol=0)
    # masks do not matter to the basis, and matching works in it
    masked = replace(sides[0], mask=torch.arange(20) < 10)
    assert torch.equal(pair_basis(masked, sides[1], ((9,),), ((2,),)).directions[0], basis.directions[0])
    found = match_sides(basis.reduced(sides[0]), basis.reduced(sides[0]), MatchSettings("nn"))
    assert_close(found.confidence, torch.ones(20), atol=1e-5, rtol=0)


def test_wrong_numbers_are_told():
    source = side(0)
    with pytest.raises(ValueError, match="a number for each map"):
        pair_basis(source, source, WIDTHS, ((3,), (0,)))
    with pytest.raises(ValueError, match=r"6 numbers and 56 tokens.*at most 6; got 7"):
        pair_basis(source, source, WIDTHS, ((7, 0), (0,)))
    small = side(0, (1, 2))
    with pytest.raises(ValueError, match="4 tokens to be reduced to at most 4; got 5"):
        pair_basis(small, small, WIDTHS, ((5, 0), (0,)))
    basis = pair_basis(source, source, WIDTHS, ((3, 0), (0,)))
    with pytest.raises(ValueError, match="expected tokens of 20 numbers"):
        basis.reduced(MatchSide.of(torch.eye(4), (2, 2)))
    for text in ("7+", "1,2,3+", "3", "+", "", "0+1", "a+"):
        with pytest.raises(ValueError, match=r"maps' own 6,9\+5"):
            read_dims(text, WIDTHS)
    assert read_dims("3 +", WIDTHS) == ((3, 3), (0,)) and read_dims("+5", WIDTHS) == ((0, 0), (5,))
