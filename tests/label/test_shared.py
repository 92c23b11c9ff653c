import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import TINY, score_some, tiny_settings
from saot.label.job import Job, open_job
from saot.label.shared import adopt, cost_part, pseudo_part

from saot.label import shared as shared_file
from saot.label.inputs import open_inputs
from saot.label.run import PartialOutcome, publish
from saot.runs import Workspace

OTHER_DECODER = tiny_settings(
    recipe=replace(TINY, refine=replace(TINY.refine, steps=0), decoder=replace(TINY.decoder, mlp_widths=(0.5, 0.5)))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the runs of this file and what they share."""
    return tmp_path_factory.mktemp("sharing")


@pytest.fixture(scope="module")
def first(finished, folder) -> PartialOutcome:
    """A run that leaves its cost and pseudo-labels to others."""
    store = finished / "features"
    return score_some(tiny_settings(), folder / "first", ["decoder_stage1"], store=store, shared=folder / "shared")


@pytest.fixture
def job(finished) -> Iterator[Job]:
    """The finished run, opened."""
    space = Workspace(finished, tiny_settings().to_dict())
    yield open_job(tiny_settings(), space, open_inputs(tiny_settings(), "cpu"))
    space.close()


def changed(job: Job, part: str, **changes) -> Job:
    recipe = replace(job.recipe, **{part: replace(getattr(job.recipe, part), **changes)})
    return replace(job, settings=replace(job.settings, recipe=recipe))


def test_a_run_with_another_decoder_takes_the_cost_over(first, finished, folder):
    told = []
    again = score_some(
        OTHER_DECODER,
        folder / "second",
        ["decoder_stage1", "saot"],
        store=finished / "features",
        shared=folder / "shared",
        progress=lambda stage, done, total: told.append(stage),
    )
    assert "cost" not in told and "train saot_decoder-0" in told
    files = ["cost.safetensors", "work/log/cost.jsonl", *(f"work/pseudo-0/{n:06d}.safetensors" for n in range(3))]
    for name in files:
        assert (folder / "second" / name).samefile(folder / "first" / name), name
        assert (folder / "second" / name).read_bytes() == (finished / name).read_bytes(), name
    assert again.stages["cost"] == first.stages["cost"]
    facts = [json.loads((folder / run / "work" / "facts" / "cost.json").read_text()) for run in ("first", "second")]
    assert facts[0] == facts[1] and set(facts[0]) == {"converged_share", "pseudo_uncovered_share"}
    name = "decoder_stage1"
    assert again.methods[name].counts.sum() == first.methods[name].counts.sum() > 0
    kept = json.loads((finished / "metrics.json").read_text())["methods"]["saot"]
    assert again.methods["saot"].budget == kept["label_budget"]


def test_a_run_is_whole_without_what_was_shared(first, finished, folder, tmp_path):
    shutil.copytree(folder / "first", tmp_path / "moved")

    def told(stage: str, done: int, total: int) -> None:
        assert not stage.startswith(("cost", "train")), stage

    names = ["decoder_stage1", "saot"]
    moved = score_some(tiny_settings(), tmp_path / "moved", names, store=finished / "features", progress=told)
    assert torch.equal(moved.methods["decoder_stage1"].counts, first.methods["decoder_stage1"].counts)


def test_a_damaged_part_is_made_again(first, finished, folder, tmp_path):
    shutil.copytree(folder / "shared", tmp_path / "shared")
    (damaged,) = (tmp_path / "shared").glob("cost-*/cost.safetensors")
    damaged.write_bytes(b"half a file")
    told = []
    score_some(
        tiny_settings(),
        tmp_path / "run",
        ["saot"],
        store=finished / "features",
        shared=tmp_path / "shared",
        progress=lambda stage, done, total: told.append(stage),
    )
    assert "cost" in told
    kept = (finished / "cost.safetensors").read_bytes()
    assert (tmp_path / "run" / "cost.safetensors").read_bytes() == kept
    assert damaged.read_bytes() == b"half a file"  # what others may have linked is never changed


@pytest.mark.parametrize("part", ["decoder", "refine", "taught", "baselines", "scores", "interventions"])
def test_decoders_and_scores_do_not_part_costs(job, part):
    fields = {"decoder": "steps", "refine": "steps", "taught": "tau", "baselines": "bank"}
    fields |= {"scores": "upsample", "interventions": "rare_classes"}
    other = changed(job, part, **{fields[part]: "probs" if part == "scores" else 1})
    assert cost_part(other) == cost_part(job)
    assert pseudo_part(other, "pseudo-0") == pseudo_part(job, "pseudo-0")


def others(job: Job) -> dict[str, Job]:
    """Jobs whose cost is another, by what they differ in."""
    points, found = job.points, job.found
    swapped = [job.source_labels[1], job.source_labels[0], *job.source_labels[2:]]
    return {
        "transport": changed(job, "transport", k=11),
        "cost": changed(job, "cost", lambda_sem=0.2),
        "seed": replace(job, settings=replace(job.settings, seed=1)),
        "classes of points": replace(job, points=replace(points, classes=points.classes.flip(0))),
        "held-out points": replace(job, points=replace(points, held_out=~points.held_out)),
        "drawn points": replace(job, points=replace(points, resample=20, dense=tuple(job.source_labels))),
        "source labels": replace(job, source_labels=swapped),
        "source": replace(job, found={**found, "source": found["eval"]}),
        "target": replace(job, found={**found, "target": found["eval"]}),
        "backbone": replace(
            job, inputs=replace(job.inputs, backbone=open_inputs(tiny_settings(size="70x112"), "cpu").backbone)
        ),
        "device": replace(job, source=replace(job.source, device=torch.device("meta"))),
    }


def test_everything_a_cost_depends_on_parts_it(job):
    names = {cost_part(other).name for other in (job, *others(job).values())}
    assert len(names) == 1 + len(others(job))
    other = changed(job, "transfer", pseudo_sources=1)
    assert cost_part(other) == cost_part(job)
    assert pseudo_part(other, "pseudo-0").name != pseudo_part(job, "pseudo-0").name


def test_a_part_is_there_whole_or_not_at_all(job, tmp_path, monkeypatch):
    link, part = shared_file._link, cost_part(job)

    def killed(source: Path, place: Path) -> None:
        if source.suffix == ".safetensors":
            raise KeyboardInterrupt
        link(source, place)

    sharing = replace(job, shared=tmp_path / "shared")
    monkeypatch.setattr(shared_file, "_link", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(sharing, part)
    assert not list((tmp_path / "shared").iterdir())
    monkeypatch.setattr(shared_file, "_link", link)
    publish(sharing, part)
    publish(sharing, part)  # what is there stays
    assert [entry.name for entry in (tmp_path / "shared").iterdir()] == [part.name]
    before = job.space.facts("stages")
    adopt(sharing, part)  # both names are one file already
    assert job.space.facts("stages") == before
    assert not list(job.space.root.rglob("*.tmp-*"))


def test_a_disk_without_links_gets_copies(job, tmp_path, monkeypatch):
    def refuse(source: Path, place: Path) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(shared_file.os, "link", refuse)
    publish(replace(job, shared=tmp_path / "shared"), cost_part(job))
    (copy,) = (tmp_path / "shared").glob("cost-*/cost.safetensors")
    assert copy.read_bytes() == job.space.path("cost.safetensors").read_bytes()
    assert not copy.samefile(job.space.path("cost.safetensors"))


BUDGET = {"points": "total:2"}


@pytest.fixture(scope="module")
def networks(finished, tmp_path_factory) -> tuple[Path, Path]:
    """A run that leaves networks to others, and the folder they lie in."""
    out = tmp_path_factory.mktemp("networks")
    methods = ["mlp_ema", "mlp_points"]
    score_some(tiny_settings(), out / "first", methods, store=finished / "features", shared=out / "shared")
    return out, finished / "features"


def trained(networks: tuple[Path, Path], name: str, **settings) -> set[str]:
    """Stages that a further run beside the first had to do itself."""
    (out, store), told = networks, set[str]()

    def tell(stage: str, done: int, total: int) -> None:
        told.add(stage)

    score_some(
        tiny_settings(**settings),
        out / name,
        ["mlp_ema", "mlp_points"],
        store=store,
        shared=out / "shared",
        progress=tell,
    )
    return {stage for stage in told if stage.startswith(("train", "refine"))}


def test_networks_without_points_are_the_same_for_every_budget(networks):
    assert trained(networks, "budget", **BUDGET) == {"train mlp_points"}
    out, _ = networks
    names = {path.name for path in (out / "first" / "work" / "models").iterdir()}
    models = out / "budget" / "work" / "models"
    same = [path.name for path in models.iterdir() if path.samefile(out / "first" / "work" / "models" / path.name)]
    assert len(same) == 2 and {path.name for path in models.iterdir()} == names  # names say nothing of the points


def test_networks_of_equal_labels_are_shared_whatever_is_done_with_them(networks):
    recipe = replace(TINY, scores=replace(TINY.scores, logit_adjustment=(0.0,)))
    assert trained(networks, "scores", recipe=recipe) == set()


def test_another_seed_or_another_vote_of_patches_shares_no_network(networks):
    everything = {"train mlp_ema", "refine mlp_ema", "train mlp_points"}
    assert trained(networks, "seed", seed=1) == everything
    recipe = replace(TINY, transfer=replace(TINY.transfer, ignored_patches="include"))
    assert trained(networks, "vote", recipe=recipe) == everything
