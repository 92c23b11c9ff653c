"""`saot reproduce` through its front door, the joining of sizes, and small parts on their own."""

import json

import numpy as np
import pytest
import torch

from saot import cli
from saot.data import PatchGrid
from saot.tables.adapting.presets import ADAPT_EXPERIMENTS
from saot.tables.engine import with_columns
from saot.tables.fusion import centres, fit_weights, join, on_grid
from saot.tables.matching.presets import MATCH_EXPERIMENTS
from saot.tables.model import PictureGrid
from saot.tables.pieces import rank_correlation
from saot.tables.presets import EXPERIMENTS, experiment_named
from saot.tables.qualitative import best_picture, spread_pictures
from saot.tables.results import cell_of


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["reproduce", *arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_list(capsys):
    code, out, _ = call(capsys, "--list")
    assert code == 0 and out.split() == [*EXPERIMENTS, *MATCH_EXPERIMENTS, *ADAPT_EXPERIMENTS]
    code, out, _ = call(capsys, "--list", "--json")
    listed = json.loads(out)
    assert code == 0 and set(listed) == {*EXPERIMENTS, *MATCH_EXPERIMENTS, *ADAPT_EXPERIMENTS}
    assert set(listed["saot-table-5"]) == {"title", "rows", "columns", "needs", "location"}
    assert listed["saot-table-5"]["rows"][0] == "Full SAOT"


def test_a_table_as_text_and_as_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "saot-table-11", "--counts", "tiny")
    assert code == 0 and "Training steps" in out and "(paper 14,000)" in out
    assert (tmp_path / "runs" / "reproduce" / "saot-table-11" / "table.html").exists()
    code, out, _ = call(capsys, "saot-table-11", "--counts", "small", "--json", "--out", "table")
    table = json.loads(out)
    assert code == 0 and table["table"] == "saot-table-11" and table["out"] == "table"
    kept = json.loads((tmp_path / "table" / "table.json").read_text())
    assert {key: value for key, value in table.items() if key != "out"} == kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["saot-table-99"], "saot-table-99"),
        ([], "--list"),
        (["saot-table-1", "--source", "folder:a"], "--target"),
        (["saot-table-1", "--counts", "huge"], "huge"),
        (["saot-table-1", "--seeds", "0;1"], "0;1"),
        (["saot-table-1", "--size", "big"], "big"),
        (["saot-best", "--columns", "0,total:5"], "total:5"),
        (["saot-table-1", "--backbone", "filterbonk"], "filterbank"),
        (["saot-table-1", "--source", "folder:a", "--target", "folder:b", "--eval", "folder:c"], "missing"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_code_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == ""
    assert said in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_weights_go_to_the_size_that_is_right():
    """Two constant answers are balanced; a right one outweighs a wrong one."""
    first = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    second = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    mixed = torch.stack([first, second])
    weights = fit_weights(mixed, torch.arange(2), 2)
    assert torch.allclose(weights.sum(0), torch.ones(2))
    fused = (weights.unsqueeze(1) * mixed).sum(0)
    assert torch.allclose(fused[:, 0], fused[:, 1], atol=1e-3)  # neither can be right about both: balanced
    sure, unsure = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    assert bool((fit_weights(torch.stack([sure, unsure]), torch.arange(2), 2)[0] > 0.8).all())


def test_without_points_every_size_weighs_the_same():
    weights = fit_weights(torch.zeros(3, 0, 5), torch.zeros(0, dtype=torch.int64), 5)
    assert torch.equal(weights, torch.full((3, 5), 1 / 3))


def test_grids_of_two_sizes_lie_over_each_other():
    """A ramp over the picture is the same ramp on either grid, away from the border."""
    coarse, fine = PatchGrid(112, 112, 56, 56, 14, 4, 4), PatchGrid(112, 112, 112, 112, 14, 8, 8)
    ramp = centres(coarse)[1].float().unsqueeze(1)
    moved = on_grid(ramp, coarse, fine).reshape(8, 8)
    expected = centres(fine)[1].float().reshape(8, 8)
    torch.testing.assert_close(moved[:, 1:-1], expected[:, 1:-1], atol=1.0, rtol=0)  # a pixel: centres are rounded
    assert torch.equal(on_grid(ramp, coarse, coarse), ramp)


def test_joined_sizes_keep_the_cells_of_the_finest():
    """Cells are finer than the tokens of a larger input: the sum lies on them, and each class has its own weights."""
    grids = [PatchGrid(112, 112, 56, 56, 14, 4, 4), PatchGrid(112, 112, 112, 112, 14, 8, 8)]
    cells, tokens = torch.zeros(16 * 16, 2), torch.zeros(64, 2)
    cells[7 * 16 + 5, 1] = 9.0  # one cell is sure of class 1
    tokens[:, 0] = 2.0  # the tokens prefer class 0
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # class 0 from the tokens, class 1 from the cells
    scores, grid = join(grids, [cells, tokens], weights)
    assert grid == grids[0].subdivide(4) and scores.shape == (256, 2)
    assert torch.allclose(scores[:, 0], torch.sigmoid(torch.tensor(2.0)))
    assert torch.allclose(scores[:, 1], cells.softmax(1)[:, 1])


def test_rank_correlation_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.integers(0, 6, 20), rng.integers(0, 6, 20)
        ours = rank_correlation(torch.tensor(first).double(), torch.tensor(second).double())
        assert ours == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-9)
    assert rank_correlation(torch.ones(4).double(), torch.arange(4).double()) is None


def test_figures_that_share_an_evaluation_set_show_different_pictures():
    four, eight = PictureGrid((), pictures=4), PictureGrid((), pictures=8, skip=4)
    last = PictureGrid((), pictures=8, skip=12)
    shown = [*spread_pictures(500, four), *spread_pictures(500, eight), *spread_pictures(500, last)]
    assert len(set(shown)) == 20 and min(shown) > 0 and max(shown) < 500
    assert spread_pictures(1, last) == [0]


def test_the_best_picture_of_a_class():
    counts = torch.tensor([[[1, 3], [0, 4]], [[3, 1], [0, 4]], [[0, 0], [0, 8]]])
    assert best_picture(counts, 0) == 1
    assert best_picture(torch.zeros(2, 2, 2, dtype=torch.int64), 0) == 0


def test_cells_in_words():
    assert cell_of(None, [None], 1).words() == "–"
    assert cell_of("~11", [10.0, 12.0], 1).words() == "11.0 ± 1.4"
    assert cell_of(886_000, [1234.0], 0).words() == "1,234" and cell_of(886_000, [], 0).paper_words() == "886,000"


def test_some_columns_alone():
    table = experiment_named("saot-best")
    assert [column.key for column in with_columns(table, ["20", "0"]).columns] == ["0", "20"]
    assert with_columns(table, []) is table
    with pytest.raises(ValueError, match=r"saot-best among 0, total:20, 20; got 'total:5'"):
        with_columns(table, ["total:5"])
