import json
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import SIZE, TINY, make_folder, open_images, open_labelled, opened, run_job, score_some, tiny_settings
from PIL import Image
from safetensors import safe_open

from saot.data import LabelledSet, class_groups, class_set, folder_class_set, patch_labels, read_points_csv
from saot.label import EvaluationData, RunSettings
from saot.label.data import TokenPoints, draw_tokens
from saot.label.paper import source_weights, transfer_from
from saot.label.scoring import estimated_miou
from saot.label.settings import points_request, store_folder
from saot.recipes import with_words
from saot.runs import Workspace, load_tensors
from saot.runs.folder import first_difference

METHODS = [
    "nearest_neighbor",
    "knn_global",
    "linear_probe",
    "prototypes",
    "ot",
    "uot",
    "rwot",
    "label_propagation",
    "saot",
    "saot_multi",
    "saot_decoder",
    "mlp",
    "mlp_ema",
    "linear_probe_points",
    "mlp_points",
    "mlp_points_ema",
    "semantic_prior",
    "best_no_transport",
    "grid_ceiling",
    "oracle",
]


def test_a_run_folder_holds_what_the_contract_names(finished):
    for name in ("run.json", "metrics.json", "cost.safetensors", "decoder.safetensors", "report.html", "log.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) == {"classes", "split", "images", "methods"}
    assert set(metrics["methods"]) == set(METHODS)
    assert metrics["images"] == 2 and len(metrics["classes"]) == 19
    for entry in metrics["methods"].values():
        assert set(entry["iou"]) == set(metrics["classes"])
        seen = [value for value in entry["iou"].values() if value is not None]
        assert entry["miou"] == pytest.approx(sum(seen) / len(seen), rel=1e-12)
    assert metrics["methods"]["grid_ceiling"]["miou"] == max(e["miou"] for e in metrics["methods"].values())
    run = json.loads((finished / "run.json").read_text())
    for name in ("settings", "versions", "commit", "data", "stages", "label_budget", "trials", "seed"):
        assert name in run, name
    assert all({"seconds", "peak_memory_bytes"} <= set(stage) for stage in run["stages"].values())
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert {"cost", "saot_decoder-1-stage2"} <= {line["stage"] for line in lines}


def test_budgets_count_what_each_method_has_seen(finished):
    methods = json.loads((finished / "metrics.json").read_text())["methods"]
    images = open_images(tiny_settings().target)
    from saot.data import class_set

    points = read_points_csv(finished / "points.csv", images, class_set("cityscapes19"))
    source_only = METHODS[:8] + ["mlp", "mlp_ema"]
    assert {methods[name]["label_budget"] for name in source_only} == {0}
    with_points = ["saot", "saot_multi", "saot_decoder", "mlp_points", "semantic_prior", "linear_probe_points"]
    assert {methods[name]["label_budget"] for name in with_points} == {len(points)}
    assert methods["oracle"]["label_budget"] > 10 * len(points)


def test_the_same_command_again_changes_nothing_and_is_quick(finished):
    before = {p.name: p.stat().st_mtime_ns for p in finished.iterdir() if p.name != ".lock"}
    began = time.perf_counter()
    outcome = run_job(tiny_settings(), finished)
    assert outcome.resumed and time.perf_counter() - began < 20  # the bound; it takes milliseconds
    assert {p.name: p.stat().st_mtime_ns for p in finished.iterdir() if p.name != ".lock"} == before


class Stop:
    """Interrupts a run at the n-th report of progress."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class StopAt:
    """Interrupts a run when a stage first reports progress."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == self.stage:
            raise KeyboardInterrupt


def test_a_run_interrupted_again_and_again_ends_with_the_same_bytes(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("saot.runs.folder.CHECKPOINT_EVERY", 2)  # so that trainings resume in their middle
    out, interrupted = tmp_path / "run", 0
    for after in (2, 9, 11, 14, 16, 10, 5, 23, 17, 31, 45):
        try:
            run_job(tiny_settings(), out, progress=Stop(after))
            break
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted >= 6
    run_job(tiny_settings(), out)
    names = ("metrics.json", "calibration.json", "decoder.safetensors", "cost.safetensors", "points.csv", "log.jsonl")
    for name in names:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_damaged_intermediate_file_is_made_again(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for victim in (
        out / "work" / "scores" / "saot.safetensors",
        next(next((out / "work").glob("pseudo-0-*")).iterdir()),
    ):
        victim.write_bytes(victim.read_bytes()[:40])
    (out / "run.json").unlink()
    run_job(tiny_settings(), out)
    assert (out / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


@pytest.mark.parametrize("change", [None, {"settings": None}, {"settings": {}}, {"compare": "everything"}])
def test_a_run_json_of_other_contents_is_written_again(finished, tmp_path, change):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({} if change is None else run | change))
    outcome = run_job(tiny_settings(), out)
    assert not outcome.resumed and outcome.run["settings"] == run["settings"] and outcome.run["compare"] == "all"
    assert (out / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


@pytest.fixture
def folders(tmp_path):
    """Settings of a run on folders."""
    names = [make_folder(tmp_path / name, seed) for seed, name in enumerate(("source", "target", "eval"))]
    return tiny_settings(source=names[0], target=names[1], eval=names[2])


def test_changed_data_is_noticed_finished_or_not(folders, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_job(folders, out, progress=StopAt("cost"))
    mask = tmp_path / "source" / "masks" / "0.png"
    kept = mask.read_bytes()
    Image.fromarray(np.ones((56, 112), np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"source 0\.png has changed"):
        run_job(folders, out)
    mask.write_bytes(kept)
    run_job(folders, out)
    for part in ("images", "masks"):
        shutil.copy(tmp_path / "eval" / part / "1.png", tmp_path / "eval" / part / "2.png")
    with pytest.raises(ValueError, match=r"eval 2\.png was added"):
        run_job(folders, out)


def test_a_bad_picture_is_mended_and_the_same_command_goes_on(folders, tmp_path):
    out, victim = tmp_path / "run", tmp_path / "target" / "images" / "1.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1\.png"):
        run_job(folders, out)
    victim.write_bytes(whole)
    assert run_job(folders, out).metrics["images"] == 2


def test_a_bad_evaluation_mask_is_found_before_any_training(folders, tmp_path):
    Image.fromarray(np.full((56, 112), 7, np.uint8)).save(tmp_path / "eval" / "masks" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png"):
        run_job(folders, tmp_path / "run")
    assert not (tmp_path / "run" / "cost.safetensors").exists()


def test_a_slip_in_the_command_does_not_lock_the_folder(folders, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        run_job(replace(folders, source="folder:nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_bad_target_mask_costs_the_oracle_alone(folders, tmp_path):
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("image,x,y,class\n0.png,3,3,sky\n1.png,4,50,roof\n")
    Image.fromarray(np.full((56, 112), 7, np.uint8)).save(tmp_path / "target" / "masks" / "1.png")
    outcome = run_job(replace(folders, points=str(clicks)), tmp_path / "run")
    assert "oracle" not in outcome.metrics["methods"]
    assert any("oracle is left out" in note for note in outcome.run["notes"])


def test_scoring_on_the_target_itself_is_said_and_nothing_is_chosen(folders, tmp_path):
    outcome = run_job(replace(folders, eval=folders.target), tmp_path / "run")
    assert any("optimistic" in note for note in outcome.run["notes"])
    assert not outcome.run["adjustment"]


def test_no_labelled_pixel_is_said(folders, tmp_path):
    for number in range(2):
        Image.fromarray(np.full((56, 112), 255, np.uint8)).save(tmp_path / "source" / "masks" / f"{number}.png")
    with pytest.raises(ValueError, match="every patch is 'ignore'"):
        run_job(folders, tmp_path / "run")


def test_a_class_the_source_never_shows_is_noted(folders, tmp_path):
    for number in range(2):
        Image.fromarray(np.zeros((56, 112), np.uint8)).save(tmp_path / "source" / "masks" / f"{number}.png")
    outcome = run_job(folders, tmp_path / "run")
    assert any("roof" in note for note in outcome.run["notes"])


def test_points_requests():
    assert points_request("0") == ("picture", 0)
    assert points_request("resample:20") == ("resample", 20)
    assert points_request("patches:20") == ("patches", 20)
    assert points_request("patches:total:20") == ("patches:total", 20)
    assert points_request("points:20") == points_request("total:patches:20") == ("file", None)


def test_other_settings_are_refused_by_name(finished):
    with pytest.raises(ValueError, match=r"seed is 1 now but was 0.*another --out"):
        run_job(tiny_settings(seed=1), finished)


def test_a_run_of_another_format_is_refused(finished, tmp_path):
    (tmp_path / "work").mkdir()
    kept = json.loads((finished / "work" / "settings.json").read_text())
    (tmp_path / "work" / "settings.json").write_text(json.dumps({**kept, "format": 0}))
    with pytest.raises(ValueError, match="format 0"):
        run_job(tiny_settings(), tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear to me")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        run_job(tiny_settings(), tmp_path)
    file = tmp_path / "thesis.txt"
    with pytest.raises(ValueError, match="is a file"):
        run_job(tiny_settings(), file)


def test_two_processes_do_not_share_a_run(tmp_path):
    space = Workspace(tmp_path / "run", tiny_settings().to_dict())
    with pytest.raises(ValueError, match="another process"):
        run_job(tiny_settings(), tmp_path / "run")
    space.close()


def test_without_points_or_evaluation_labels(tmp_path):
    outcome = run_job(tiny_settings(points="0", eval=None), tmp_path / "run")
    assert outcome.metrics["images"] == 0 and outcome.metrics["split"] is None
    assert "mlp_points" not in outcome.metrics["methods"]
    assert all(entry["miou"] is None for entry in outcome.metrics["methods"].values())
    assert outcome.metrics["methods"]["saot_decoder"]["label_budget"] == 0
    assert not outcome.run["adjustment"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_points_come_from_a_file_and_are_the_budget(tmp_path):
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("image,x,y,class\nstreet/train/00000,3,60,road\nstreet/train/00001,4,60,0\n")
    outcome = score_some(tiny_settings(points=str(clicks)), tmp_path / "run", ["saot_decoder", "mlp_points"])
    assert {result.budget for result in outcome.methods.values()} == {2}


def test_the_papers_resampling_counts_every_labelled_patch(tmp_path):
    outcome = run_job(tiny_settings(points="resample:4"), tmp_path / "run")
    assert outcome.metrics["methods"]["saot"]["label_budget"] > 50


@pytest.mark.parametrize("scope", ["", "total:"])
def test_points_by_patch_have_the_class_of_their_patch(scope, tmp_path):
    with opened(tiny_settings(points=f"patches:{scope}3"), tmp_path / "patches") as contest:
        data, points = contest.data, contest.data.points.pixels
        masks = open_labelled(tiny_settings().target)
        maps = [
            patch_labels(masks.mask(n), data.target.store.grid(key), num_classes=data.classes.num_classes)
            for n, key in enumerate(data.target.images.keys)
        ]
    tokens = data.points.tokens
    places = zip(tokens.picture.tolist(), tokens.token.tolist(), tokens.classes.tolist(), strict=True)
    assert all(int(maps[picture][token]) == label for picture, token, label in places)
    assert data.points.budget == len(tokens) == len(points) > 0
    assert len(set(zip(tokens.picture.tolist(), tokens.token.tolist(), strict=True))) == len(tokens)
    there = [torch.bincount(labels[labels != 255].long(), minlength=256) for labels in maps]
    if scope:
        assert len(tokens) == int(sum(there).clamp(max=3).sum())
    else:
        assert len(tokens) == int(sum(counts.clamp(max=3) for counts in there).sum())
    with opened(tiny_settings(points=f"{scope}3"), tmp_path / "pixels") as contest:
        pixels = contest.data.points.tokens
    places = zip(pixels.picture.tolist(), pixels.token.tolist(), pixels.classes.tolist(), strict=True)
    assert not all(int(maps[picture][token]) == label for picture, token, label in places)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"points": "clicks.cvs"}, "none of them"),
        ({"backbone": "resnet"}, "resnet"),
        ({"source": "nothing:here"}, "nothing"),
        ({"source": "folder:does-not-exist"}, "does-not-exist"),
        ({"size": "big"}, "HEIGHTxWIDTH"),
        ({"eval": "camvid:nowhere:list.txt"}, "nowhere"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(changes, said, tmp_path):
    with pytest.raises(ValueError, match=said) as caught:
        run_job(tiny_settings(**changes), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_the_target_of_a_job_has_no_way_to_its_labels(tmp_path):
    with opened(tiny_settings(), tmp_path / "run") as contest:
        data = contest.data
    assert not hasattr(data.target, "labels") and not hasattr(data.target.images, "mask")
    assert data.points.tokens.dense == ()
    assert not any(isinstance(getattr(data, one.name), LabelledSet | EvaluationData) for one in fields(data))


def test_the_saved_decoder_says_what_it_is(finished):
    with safe_open(finished / "decoder.safetensors", "pt") as file:
        about = json.loads(file.metadata()["saot"])
    assert about["shape"]["num_classes"] == 19 and about["classes"][0] == "road"


def test_first_difference_walks_into_nested_settings():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 1 now but was 2"
    assert first_difference({"a": [1]}, {"a": [1]}) is None


def test_splits_of_a_set_share_a_store_and_sizes_of_scenes_do_not():
    root = Path("store")
    assert store_folder(root, "camvid:/d:a.txt") == store_folder(root, "camvid:/d:b.txt")
    assert store_folder(root, "camvid:/d:a.txt") != store_folder(root, "camvid:/e:a.txt")
    train = store_folder(root, f"scenes:game:train,count=3,{SIZE}")
    assert train == store_folder(root, f"scenes:game:val,count=9,{SIZE}")
    assert train != store_folder(root, "scenes:game:train")


def test_settings_become_plain_json():
    plain = RunSettings(source="a:b", target="c:d", recipe=TINY).to_dict()
    assert json.loads(json.dumps(plain)) == plain


def test_a_step_sees_at_most_so_many_points_of_a_class():
    classes = torch.tensor([0] * 5 + [1] * 2)
    points = TokenPoints(torch.zeros(7, dtype=torch.int64), torch.arange(7), classes, torch.zeros(7, dtype=torch.bool))
    example = points.example(0, torch.zeros(9, 3), torch.Generator().manual_seed(0), 3)
    assert torch.bincount(example.point_classes).tolist() == [3, 2]
    assert all(classes[t] == c for t, c in zip(example.point_tokens, example.point_classes, strict=True))
    assert len(points.example(1, torch.zeros(9, 3), torch.Generator(), 3).point_classes) == 0


def test_tokens_are_drawn_by_class_without_ignored_ones():
    labels = torch.tensor([0, 0, 0, 255, 2], dtype=torch.uint8)
    tokens, classes = draw_tokens(labels, 2, torch.Generator().manual_seed(0))
    assert torch.bincount(classes).tolist() == [2, 0, 1]
    assert labels[tokens].tolist() == classes.tolist()


def test_estimated_miou_weights_rows_by_the_shares():
    classes, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    shares = torch.tensor([4.0, 2.0], dtype=torch.float64)
    # rows become [2, 2] and [0, 2]: IoU 2/4 and 2/4
    assert estimated_miou(classes, predicted, shares) == pytest.approx(0.5)


@pytest.mark.parametrize("structure", ["grid", "features"])
def test_the_structure_term_enters_the_cost_and_the_labels_of_a_run(tmp_path, structure):
    """`--set transport.alpha=...`: the cost is another one, and so are the labels it carries."""
    transport = replace(TINY.transport, alpha=0.5, structure=structure)
    settings = tiny_settings(recipe=replace(TINY, transport=transport))
    made = {}
    for name, each in (("off", tiny_settings()), ("on", settings)):
        assert ("alpha" in each.to_dict()["recipe"]["transport"]) == (name == "on")
        with opened(each, tmp_path / name, tmp_path / "store") as contest:
            bench, data = contest.bench, contest.data
            learned = contest.cost()
            assert data.source.places(0).shape[0] == data.source.labelled(0)[0].shape[0]
            chosen = source_weights(torch.ones(len(data.source)), 1, 0.1)
            how = (bench.recipe.transport, data.num_classes, "uniform")
            probs, _ = transfer_from(data.source, learned.cost, (data.target, 0), chosen, how)
            plain = (TINY.transport, data.num_classes, "uniform")
            without, _ = transfer_from(data.source, learned.cost, (data.target, 0), chosen, plain)
            made[name] = learned.cost.appearance.weight.detach(), probs, without
    assert not torch.equal(made["on"][0], made["off"][0])
    assert float((made["on"][1] - made["on"][2]).abs().max()) > 1e-3
    assert torch.equal(made["off"][1], made["off"][2])


def test_a_run_with_a_multiscale_support_works_and_is_another_run(tmp_path):
    """`--set transport.search=multiscale`; with every cell searched it scores as the exact search, up to rounding."""
    counts = {}
    for name, words in {
        "exact": [],
        "all": ["transport.search=multiscale", "transport.recall=1"],
        "few": ["transport.search=multiscale", "transport.clusters=8", "transport.probes=1"],
    }.items():
        settings = tiny_settings(
            recipe=with_words(TINY, ["cost.steps=2", "transport.k=2", "transport.cover=0", *words])
        )
        found = score_some(settings, tmp_path / name, ["saot"], store=tmp_path / "store").methods["saot"].counts
        assert found is not None
        counts[name] = found
    moved = {name: float((counts[name] - counts["exact"]).abs().sum() / counts["exact"].sum()) for name in counts}
    assert moved["all"] < 0.01 and moved["few"] > 0.01


def test_a_run_with_regions_and_costs_of_class_groups_is_another_run(tmp_path):
    """Appendix P in the job: with all mass followed the regions change nothing, and the kept cost has its groups."""
    counts, kept = {}, {}
    for name, words in {
        "exact": [],
        "all": ["transport.search=hierarchical", "transport.region_share=1"],
        "few": ["transport.search=hierarchical", "transport.region_share=0.05", "transport.clusters=8"],
        "categories": ["cost.groups=categories"],
        "classes": ["cost.groups=classes"],
    }.items():
        settings = tiny_settings(
            recipe=with_words(TINY, ["cost.steps=2", "transport.k=2", "transport.cover=0", *words])
        )
        found = score_some(settings, tmp_path / name, ["saot"], store=tmp_path / "store").methods["saot"].counts
        assert found is not None
        counts[name], kept[name] = found, load_tensors(tmp_path / name / "cost.safetensors") or {}
    moved = {name: float((counts[name] - counts["exact"]).abs().sum() / counts["exact"].sum()) for name in counts}
    assert moved["all"] < 0.01 < moved["few"]
    assert "class_groups" not in kept["exact"]
    assert kept["categories"]["class_groups"].unique().numel() == 7
    assert kept["classes"]["group_scale"].shape[0] == 19
    assert bool((kept["classes"]["group_scale"] != 0).any())


def test_categories_of_classes_without_any_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="groups by category; folder has 'crop': use groups=classes"):
        class_groups(folder_class_set(["crop", "weed"]), "categories")
    assert class_groups(folder_class_set(["crop", "weed"]), "classes") == (0, 1)
    assert len(set(class_groups(class_set("camvid11"), "categories"))) == 7
