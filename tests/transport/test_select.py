"""Selections against plain sorting."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.transport import (
    features,
)

from saot.transport import select

BLOCKS = {
    "random": torch.randn(50, 700, generator=torch.Generator().manual_seed(1)),
    "float64": features(20, 333, 2),
    "ties": torch.randint(0, 4, (60, 500), generator=torch.Generator().manual_seed(3)).float(),
    "equal": torch.full((7, 300), 0.25),
    "minute": torch.rand(9, 200, generator=torch.Generator().manual_seed(4)) * 1e-36,
    "one": torch.tensor([[0.5]]),
    "ascending": torch.arange(2000.0).expand(3, -1),
}


@pytest.mark.parametrize("name", list(BLOCKS))
@pytest.mark.parametrize("k", [1, 2, 17, 128, 299])
@pytest.mark.parametrize("how", ["torch", "numba"])
def test_selections_equal_plain_sorting(name, k, how):
    block = BLOCKS[name]
    k = min(k, block.shape[1])
    if how == "torch":
        col, values = select.torch_select(block, k)
    else:
        pytest.importorskip("numba")
        with ThreadPoolExecutor(2) as pool:
            col, values = select.numba_select(block, k, pool, 3)
    expected_col, expected = select.plain_select(block, k)
    assert torch.equal(col, expected_col)
    assert torch.equal(values, expected)
    assert col.dtype == torch.int32


def test_plain_selection_prefers_the_lower_index():
    col, values = select.plain_select(torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0]]), 2)
    assert col.tolist() == [[1, 3]]
    assert values.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("elements", [100, 2**18, 2**21])  # each of the three selections
def test_selector_answers_alike_at_every_size(numba, elements, monkeypatch):
    if not numba:
        monkeypatch.setattr(select, "has_numba", lambda: False)
    with select.row_selector(9, elements, torch.device("cpu")) as choose:
        col, values = choose(BLOCKS["ties"])
    assert torch.equal(col, select.plain_select(BLOCKS["ties"], 9)[0])
    assert torch.equal(values, BLOCKS["ties"].gather(1, col.long()))
