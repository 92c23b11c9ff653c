from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycoco

from saot.annotate.runs import (
    SIZES,
    Box,
    box_of,
    brush_rle,
    coco_counts,
    column_runs,
    mask_of_brush,
    mask_of_coco,
    run_lengths,
    shown,
    values_of_runs,
)


def masks(count=60):
    """Holes, islands, lines of one pixel, full, empty, noise, odd sizes."""
    rng = np.random.default_rng(0)
    yield from (np.zeros((1, 1), bool), np.ones((1, 1), bool), np.ones((7, 5), bool), np.zeros((3, 900), bool))
    ring = np.zeros((9, 11), bool)
    ring[2:7, 2:9], ring[4, 4] = True, False
    yield ring
    yield np.eye(37, dtype=bool)
    yield np.ones((300, 400), bool)  # longer than the longest run of a brush
    for _ in range(count):
        height, width = rng.integers(1, 60, 2)
        coarse = rng.random((-(-height // 4), -(-width // 4))) < rng.random()
        fine = np.kron(coarse, np.ones((4, 4), bool))[:height, :width]
        yield fine ^ (rng.random((height, width)) < rng.choice([0, 0.05, 0.5]))


def test_runs_begin_with_background_and_give_the_values_back():
    for mask in masks():
        flat = mask.ravel()
        runs = run_lengths(flat)
        assert runs.sum() == flat.size and (runs[1:] > 0).all()
        assert np.array_equal(values_of_runs(runs, flat.size, "a"), flat)
    assert run_lengths(np.zeros(0, bool)).tolist() == []


def test_coco_is_that_of_pycocotools_both_ways():
    for mask in masks():
        theirs: Any = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert coco_counts(mask).encode() == theirs["counts"]
        assert np.array_equal(mask_of_coco(list(mask.shape), theirs["counts"], "a"), mask)
        assert np.array_equal(mask_of_coco(list(mask.shape), theirs["counts"].decode(), "a"), mask)
        plain = run_lengths(mask.ravel(order="F")).tolist()
        assert np.array_equal(mask_of_coco(list(mask.shape), plain, "a"), mask)
        assert np.array_equal(pycoco.decode({"size": list(mask.shape), "counts": coco_counts(mask).encode()}), mask)


def test_runs_of_all_classes_at_once_are_those_of_each():
    rng = np.random.default_rng(1)
    for mask in masks(20):
        labels = np.where(mask, 3, rng.choice([0, 255], mask.shape, p=[0.8, 0.2])).astype(np.uint8)
        found = column_runs(labels)
        assert [*found] == [label for label, _ in shown(labels)]
        for label, pixels in shown(labels):
            one = found[label]
            assert one.lengths.tolist() == run_lengths(pixels.ravel(order="F")).tolist()
            assert (one.area, one.box, one.size) == (pixels.sum(), box_of(pixels), mask.shape)
    assert column_runs(np.full((2, 3), 255, np.uint8)) == {}


def slow_brush(mask):
    """As the format reads, bit by bit: 255 for each of the four channels of a set pixel."""
    values = np.repeat(mask.ravel(), 4).astype(int) * 255
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in SIZES)
    place = 0
    while place < len(values):
        length = 1
        while place + length < len(values) and length < 1 << 16 and values[place + length] == values[place]:
            length += 1
        which = next(n for n, size in enumerate(SIZES) if length <= 1 << size)
        bits += f"1{which:02b}{length - 1:0{SIZES[which]}b}{values[place]:08b}"
        place += length
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def test_a_brush_is_written_bit_for_bit_and_read_back():
    for mask in masks(20):
        stream = brush_rle(mask)
        assert stream == slow_brush(mask)
        assert np.array_equal(mask_of_brush([*stream], mask.shape, "a"), mask)


def test_a_brush_of_literals_and_other_sizes_is_read():
    mask = np.array([[True, False, True]])
    values = np.repeat(mask.ravel(), 4).astype(int) * 255
    sizes = (2, 5, 8, 16)
    bits = f"{12:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    bits += f"0{1:02b}{11:05b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    stream = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert np.array_equal(mask_of_brush(stream, (1, 3), "a"), mask)


def test_faint_alpha_is_no_mark():
    head = f"{4:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in SIZES) + "1" + "00" + f"{3:03b}"
    for alpha in (1, 127, 128, 255):
        bits = head + f"{alpha:08b}"
        bits += "0" * (-len(bits) % 8)
        stream = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
        assert bool(mask_of_brush(stream, (1, 1), "a")[0, 0]) == (alpha > 127)


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda: mask_of_coco([2, 2], [1, 2], "m"), "add up to its 4 pixels; they add up to 3"),
        (lambda: mask_of_coco([2, 2], [1, 2, 5], "m"), "they add up to 8"),
        (lambda: mask_of_coco([2, 2], [-1, 5], "m"), "add up to its 4 pixels"),
        (lambda: mask_of_coco([2, 2], ["x"], "m"), "as whole numbers"),
        (lambda: mask_of_coco([2, 2], "\x01\x02", "m"), "got other characters"),
        (lambda: mask_of_coco([2, 2], "P", "m"), "the last one is cut off"),
        (lambda: mask_of_coco([2, 2], "o" * 9 + "0", "m"), "got a larger one"),
        (lambda: mask_of_coco([0, 2], [0], "m"), "whole numbers above 0"),
        (lambda: mask_of_coco([1 << 20, 1 << 20], [1 << 40], "m"), "at most 1,073,741,824 pixels"),
        (lambda: mask_of_coco([True, 2], [2], "m"), "whole numbers above 0"),
        (lambda: mask_of_brush(brush_rle(np.ones((2, 3), bool)), (3, 3), "m"), "of a picture of another size"),
        (lambda: mask_of_brush(brush_rle(np.eye(9, dtype=bool))[:-3], (9, 9), "m"), "it is cut off"),
        (lambda: mask_of_brush([1, 2, 300], (1, 1), "m"), "numbers from 0 to 255"),
        (lambda: mask_of_brush([], (1, 1), "m"), "it is cut off"),
    ],
)
def test_what_is_no_mask_is_refused(read, says):
    with pytest.raises(ValueError, match=says):
        read()


def test_boxes_hold_their_borders():
    for mask in masks():
        box = box_of(mask)
        if box is None:
            assert not mask.any()
            continue
        inside = mask[box.top : box.bottom + 1, box.left : box.right + 1]
        assert inside.shape == box.size and inside.sum() == mask.sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    assert box_of(np.ones((2, 3), bool)) == Box(0, 0, 2, 1)


def test_classes_of_a_mask():
    found = shown(np.array([[3, 255], [0, 3]], np.uint8))
    assert [label for label, _ in found] == [0, 3] and found[1][1].sum() == 2
