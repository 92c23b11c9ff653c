import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import TINY, opened, score_some, tiny_settings

from saot.label import Bench, TrainingData, learned_cost
from saot.label.run import PartialOutcome
from saot.runs import read_kept

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
    (place,) = (folder / "first" / "work").glob("pseudo-0-*")
    files = ["cost.safetensors", "work/log/cost.jsonl", *(f"work/{place.name}/{n:06d}.safetensors" for n in range(3))]
    for name in files:
        assert (folder / "second" / name).samefile(folder / "first" / name), name
        assert (folder / "second" / name).read_bytes() == (finished / name).read_bytes(), name
    assert again.stages["cost"] == first.stages["cost"]
    facts = [read_kept(folder / run / "cost.safetensors").facts for run in ("first", "second")]
    assert facts[0] == facts[1] and set(facts[0]) == {"converged_share"}
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
    (damaged,) = (tmp_path / "shared").glob("*/cost.safetensors")
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


def changed(bench: Bench, part: str, **changes) -> Bench:
    return replace(bench, recipe=replace(bench.recipe, **{part: replace(getattr(bench.recipe, part), **changes)}))


def cost_identity(bench: Bench, data: TrainingData, monkeypatch) -> str:
    """The identity under which a run would look for its cost."""
    seen = []

    class Seen(Exception):
        pass

    def once(self, name, identity, make, **options):
        seen.append((name, identity))
        raise Seen

    monkeypatch.setattr("saot.runs.folder.Workspace.once", once)
    with pytest.raises(Seen):
        learned_cost(bench, data)
    ((name, identity),) = seen
    assert name == "cost"
    return identity


@pytest.fixture
def stand(finished) -> Iterator[tuple[Bench, TrainingData]]:
    """The finished run, opened."""
    with opened(tiny_settings(), finished) as contest:
        yield contest.bench, contest.data


@pytest.mark.parametrize("part", ["decoder", "refine", "taught", "baselines", "scores", "interventions"])
def test_decoders_and_scores_do_not_part_costs(stand, part, monkeypatch):
    fields = {"decoder": "steps", "refine": "steps", "taught": "tau", "baselines": "bank"}
    fields |= {"scores": "upsample", "interventions": "rare_classes"}
    bench, data = stand
    other = changed(bench, part, **{fields[part]: "probs" if part == "scores" else 1})
    assert cost_identity(other, data, monkeypatch) == cost_identity(bench, data, monkeypatch)


def others(bench: Bench, data: TrainingData) -> dict[str, tuple[Bench, TrainingData]]:
    """Runs whose cost is another, by what they differ in."""
    source, points, target = data.source, data.points, data.target
    swapped = (source.labels[1], source.labels[0], *source.labels[2:])

    def with_points(**changes) -> TrainingData:
        return replace(data, points=replace(points, tokens=replace(points.tokens, **changes)))

    def with_source(**changes) -> TrainingData:
        return replace(data, source=replace(source, **changes))

    return {
        "transport": (changed(bench, "transport", k=11), data),
        "cost": (changed(bench, "cost", lambda_sem=0.2), data),
        "seed": (replace(bench, seed=1), data),
        "classes of points": (bench, with_points(classes=points.tokens.classes.flip(0))),
        "held-out points": (bench, with_points(held_out=~points.tokens.held_out)),
        "drawn points": (bench, with_points(resample=20, dense=source.labels)),
        "source labels": (bench, with_source(labels=swapped)),
        "source": (bench, with_source(domain=replace(source.domain, identity="another"))),
        "target": (bench, replace(data, target=replace(target, identity="another"))),
    }


def test_everything_a_cost_depends_on_parts_it(stand, monkeypatch):
    bench, data = stand
    found = [cost_identity(*run, monkeypatch) for run in ((bench, data), *others(bench, data).values())]
    assert len(set(found)) == len(found)
    other = changed(bench, "transfer", pseudo_sources=1)
    assert cost_identity(other, data, monkeypatch) == found[0]


def test_a_domain_is_named_by_its_pictures_its_backbone_and_the_kind_of_device(finished, tmp_path):
    names = []
    for folder, changes in (("same", {}), ("size", {"size": "70x112"}), ("set", {"target": tiny_settings().eval})):
        with opened(tiny_settings(points="0", **changes), tmp_path / folder) as contest:
            names.append(contest.data.target.identity)
    with opened(tiny_settings(), finished) as contest:
        assert contest.data.target.identity == names[0]
    assert len(set(names)) == 3


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
    models = out / "budget" / "work" / "models"
    first = {path.name: path for path in (out / "first" / "work" / "models").iterdir()}
    same = [path.name for path in models.iterdir() if path.name in first and path.samefile(first[path.name])]
    assert len(same) == 2 and len(list(models.iterdir())) == 3


def test_networks_of_equal_labels_are_shared_whatever_is_done_with_them(networks):
    recipe = replace(TINY, scores=replace(TINY.scores, logit_adjustment=(0.0,)))
    assert trained(networks, "scores", recipe=recipe) == set()


def test_another_seed_shares_no_network(networks):
    everything = {"train mlp_ema", "refine mlp_ema", "train mlp_points"}
    assert trained(networks, "seed", seed=1) == everything
