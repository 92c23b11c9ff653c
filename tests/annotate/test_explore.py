import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from helpers.runs import run_job, tiny_settings
from PIL import Image

from saot.annotate import explore, write_explorer
from saot.annotate.explore import PATCHES, evidence
from saot.evaluate import predict_mask
from saot.label import reopened
from saot.tables import ALL_WINGS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("explore") / "run"
    run_job(tiny_settings(), out, compare="none")
    return out


@pytest.fixture
def made(run):
    with reopened(run, ALL_WINGS) as both:
        yield both


def read(page):
    """What a page holds: its head, and each picture's values by number."""
    text = page.read_text()
    head = json.loads(re.search(r"const RUN = (\{.*?\});\n", text)[1].replace("<\\/", "</"))
    found = re.findall(r"picture\((\d+),(\{.*?\})\);", text)
    return head, {int(number): json.loads(about) for number, about in found}


def grey(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_evidence_is_that_of_dense_plans(made):
    _, contest = made
    domain = contest.data.target
    found = evidence(contest, domain, 0, [1, 0])
    count, total = (
        len(domain.tokens(0)),
        torch.zeros(contest.data.num_classes, len(domain.tokens(0)), dtype=torch.float64),
    )
    every = []
    for source in (1, 0):
        plan, labels = explore.plan_from(contest, domain, 0, source)
        dense = plan.plan.double()
        total.index_add_(0, labels.long(), dense)
        kept = (contest.data.source.labels[source] != 255).nonzero().squeeze(-1)
        every += [(dense[row], source, int(kept[row])) for row in range(len(dense))]
        if source == 1:
            assert np.allclose(found.unmatched, (1 - plan.marginals[1] * count).clamp(0, 1), atol=1e-6)
    received = total.sum(0)
    shares = (total / received.clamp_min(1e-300)).T.numpy()
    assert np.allclose(found.votes, shares, atol=1e-6)
    masses = torch.stack([mass for mass, _, _ in every])
    tokens = domain.tokens(0)
    for token in (0, count // 2, count - 1):
        best = masses[:, token].sort(descending=True).values[:PATCHES] / received[token]
        assert np.allclose(found.share[token], best.numpy(), atol=1e-6)
        for place in range(PATCHES):
            if found.source[token, place] < 0:
                continue
            source, patch = int(found.source[token, place]), int(found.token[token, place])
            mine = next(mass for mass, one, two in every if (one, two) == (source, patch))
            assert float(mine[token] / received[token]) == pytest.approx(found.share[token, place], abs=1e-6)
            apart = (contest.data.source.domain.tokens(source)[patch] - tokens[token]).square().sum()
            assert found.cost[token, place] == pytest.approx(float(apart), abs=1e-5)


def test_the_page_holds_the_masks_that_the_run_gives(made, tmp_path):
    finished, contest = made
    done = []
    page = write_explorer(finished, contest, tmp_path / "explore.html", progress=lambda *one: done.append(one))
    head, pictures = read(page)
    domain = contest.data.target
    assert head["names"] == list(domain.images.keys) and sorted(pictures) == [0, 1, 2] and done[-1] == (3, 3)
    assert [name for name, _ in head["classes"]] == list(finished.classes.names) and head["truth"] is False
    assert 0 <= head["agree"] <= 1 and "/*HEAD*/" not in page.read_text()
    for number, about in pictures.items():
        logits, grid = domain.logits(finished.decoder, number), domain.grid(number)
        assert np.array_equal(grey(about["mask"]), predict_mask(logits, grid, finished.bias).numpy())
        tokens = grid.height * grid.width
        assert (about["rows"], about["columns"]) == (grid.height, grid.width)
        for name, kind, each in (("source", "<u2", PATCHES), ("cost", "<u2", PATCHES), ("share", "u1", PATCHES)):
            assert len(np.frombuffer(base64.b64decode(about[name]), kind)) == each * tokens
        places = np.frombuffer(base64.b64decode(about["source"]), "<u2")
        assert set(places.tolist()) <= {*range(len(head["sources"])), 65535}
        assert grey(about["unmatched"]).shape == (grid.height, grid.width) and "truth" not in about


def test_scored_pictures_bring_their_truth(made, tmp_path):
    finished, contest = made
    head, pictures = read(write_explorer(finished, contest, tmp_path / "e.html", "eval"))
    assert head["truth"] and head["names"] == list(contest.evaluation.domain.images.keys)
    for number, about in pictures.items():
        assert np.array_equal(grey(about["truth"]), contest.evaluation.truth.mask(number))


def test_many_pictures_lie_in_a_folder_of_scripts(made, tmp_path, monkeypatch):
    finished, contest = made
    monkeypatch.setattr(explore, "ONE_FILE", 2)
    whole, _ = read(write_explorer(finished, contest, tmp_path / "look.html"))
    assert whole["apart"] == "look" and len([*(tmp_path / "look").iterdir()]) == 3
    text = (tmp_path / "look" / "000002.js").read_text()
    assert text.startswith("picture(2,{") and text.endswith("});")


def test_names_cannot_end_the_script(made, tmp_path):
    assert explore._script({"a": "</script>"}) == '{"a":"<\\/script>"}'


def test_what_is_wrong_is_said(made, tmp_path):
    finished, contest = made
    with pytest.raises(ValueError, match="expected pictures of target or eval; got all"):
        write_explorer(finished, contest, tmp_path / "e.html", "all")


def test_a_run_that_was_not_scored_has_no_scored_pictures(tmp_path):
    out = tmp_path / "run"
    run_job(tiny_settings(eval=None), out, compare="none")
    with (
        reopened(out, ALL_WINGS) as (finished, contest),
        pytest.raises(ValueError, match="expected a run with --eval"),
    ):
        write_explorer(finished, contest, tmp_path / "e.html", "eval")
