"""The Python that the README and the docs show runs as it stands."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def _run(page: Path) -> int:
    """Runs the page's blocks one after another, in one namespace; how many there were."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    return len(blocks)


def test_the_readme_code_runs(capsys):
    assert _run(ROOT / "README.md"), "the README shows no Python"
    assert "torch.Size([500, 19])" in capsys.readouterr().out


def test_the_code_of_the_solver_s_page_runs(capsys):
    torch.manual_seed(0)
    assert _run(ROOT / "docs" / "transport.md") == 2
    out = capsys.readouterr().out
    assert "converged=True" in out
    assert "tensor(2500) targets have candidates" in out


def test_every_link_of_the_docs_leads_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"
