"""The Python that the README and the docs show runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def _run(page: Path) -> tuple[int, dict[str, Any]]:
    """Runs the page's blocks one after another, in one namespace; how many there were, and what they left."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    return len(blocks), names


def test_the_readme_code_carries_a_mask_over():
    count, names = _run(ROOT / "README.md")
    assert count == 1
    mask, truth = names["mask"], names["street"].labels
    assert mask.shape == names["street"].image.shape[:2] == truth.shape
    assert mask.dtype == np.uint8 and mask.max() < 19
    labelled = truth != 255
    right = (mask == truth)[labelled].mean()
    majority = np.bincount(truth[labelled]).max() / labelled.sum()  # 0.34: the best that ignores the picture
    assert right > majority + 0.2, f"{right:.2f} of the pixels right, one class everywhere: {majority:.2f}"


def test_the_code_of_the_solver_s_page_runs(capsys):
    torch.manual_seed(0)
    assert _run(ROOT / "docs" / "transport.md")[0] == 3
    out = capsys.readouterr().out
    assert "converged=True" in out
    assert "tensor(2500) targets have candidates" in out


def test_the_solver_is_there_once_the_package_is_imported():
    command = "import saot; print(saot.transport.topk_candidates.__name__)"  # as the page begins
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "topk_candidates", done.stderr


@pytest.mark.parametrize(("name", "blocks"), [("matching.md", 1), ("scenes.md", 2)])
def test_the_code_of_other_pages_runs(name, blocks):
    assert _run(ROOT / "docs" / name)[0] == blocks


def test_the_imports_of_the_tables_page_exist():
    text = (ROOT / "docs" / "reproduce.md").read_text()
    lines = re.findall(r"^from saot.*$", text, flags=re.MULTILINE)
    assert lines
    exec("\n".join(lines), {})
