"""Chunks over processes, with a Ray of one process: what is under way, what an error becomes, what is the same."""

import errno
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cluster import FakeRay, RayTaskError
from helpers.runs import evaluate_run, make_folder, predict_pictures
from PIL import Image

from saot import cli
from saot.data import Fingerprints, extras
from saot.deploy import Cluster, Extraction, cluster, evaluate_on, extract_on, predict_on, spread
from saot.deploy.on_machines import Labelling
from saot.deploy.spread import CHUNK, FIRST, MARKER, Answer, Order, Told, chunk_size, standing, work
from saot.features import FeatureStore
from saot.features.folders import LocalFolder
from saot.label import new_pictures, store_folder
from saot.tables import ALL_WINGS


@pytest.fixture(autouse=True)
def _as_before():
    """A worker takes one thread and forgets other orders; tests after these shall not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    spread._OPEN.clear()


def on(ray: FakeRay | None = None, workers: int | None = None, device: str = "cpu", heard: list | None = None):
    return Cluster(ray or FakeRay(), device, workers, ([] if heard is None else heard).append)


class Adding:
    """A job that adds, and fails where it is asked to."""

    folder = None

    def __init__(self, fails: Exception | None = None, seconds: float = 0.0) -> None:
        self.fails, self.seconds = fails, seconds

    def open(self, device: str):
        def add(chunk):
            time.sleep(self.seconds)
            if self.fails is not None and 7 in chunk:
                raise self.fails
            return sum(chunk)

        return add


def draw(folder: Path, count: int, size: tuple[int, int] = (40, 60)) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("fingerprints.jsonl", ".claims")
    }


@pytest.mark.parametrize("workers", [None, 3])
def test_each_number_comes_once_and_little_is_under_way(workers):
    ray, machines = FakeRay({"CPU": 2}, {"CPU": 1}), []
    ray.last_first = True
    found = list(on(ray, workers, heard=machines).answers(Order.of(Adding(), "cpu"), range(1000), list))
    assert sorted(number for chunk, _ in found for number in chunk) == list(range(1000))
    assert all(value == sum(chunk) for chunk, value in found)
    assert ray.most == (workers or 6) and not ray.tasks and not machines
    sizes = [len(chunk) for chunk, _ in sorted(found)]
    assert sizes[0] == FIRST and max(sizes) == CHUNK and sizes[-1] < FIRST  # small while unknown, and at the end
    assert ray.asked == [{"max_retries": cluster.TRIES, "num_cpus": 1}]


def test_a_slow_picture_makes_small_chunks():
    assert [chunk_size(pace) for pace in (0.0, 0.3125, 1.0, 4.9, 60.0)] == [128, 32, 10, 2, 1]
    order, sizes = Order.of(Adding(), "cpu"), []
    ray = FakeRay()
    ray.get = lambda name: Answer(0, seconds=20.0) if ray.tasks.pop(name) else None
    for chunk, _ in on(ray, 1).answers(order, range(20), list):
        sizes.append(len(chunk))
    assert sizes == [FIRST, 2, *[1] * 14]  # five seconds a picture, then ten, then twenty


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("expected a picture"), ValueError, "expected a picture"),
        (OSError(errno.ENOSPC, "No space", "/data/a.png"), OSError, "/data/a.png did not fit, since the disk is full"),
        (MemoryError("too large"), MemoryError, "too large"),
        (RuntimeError("CUDA out of memory: 3 GiB"), RuntimeError, "CUDA out of memory: 3 GiB"),
    ],
)
def test_an_error_of_the_work_is_told_in_its_sentence_and_nothing_more_is_begun(error, kind, words):
    ray, seen = FakeRay(), []
    with pytest.raises(kind) as raised:
        seen.extend(n for chunk, _ in on(ray).answers(Order.of(Adding(error), "cpu"), range(1000), list) for n in chunk)
    assert type(raised.value) is kind and words in str(raised.value) and ray.begun <= 6
    assert 7 not in seen and ray.cancelled == list(ray.tasks) and len(ray.cancelled) >= 1
    if isinstance(error, OSError):
        assert raised.value.errno == errno.ENOSPC


def test_a_mistake_of_the_program_comes_as_it_is():
    assert Told.of(TypeError("no number")) is None
    with pytest.raises(TypeError, match="no number"):
        work(Order.of(Adding(TypeError("no number")), "cpu"), [7])


def test_whoever_listens_no_more_leaves_nothing_under_way():
    ray = FakeRay()
    answers = on(ray).answers(Order.of(Adding(), "cpu"), range(1000), list)
    next(answers)
    answers.close()
    assert ray.cancelled == list(ray.tasks) and ray.cancelled


def test_a_chunk_that_workers_die_of_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"ended with its worker 11 times \(the worker died\): look for the cause"):
        list(on(FakeRay(dies=(2,))).answers(Order.of(Adding(), "cpu"), range(100), list))
    ray = FakeRay()
    ray.get = lambda name: (_ for _ in ()).throw(RayTaskError("Traceback\nNo module named 'saot'"))
    with pytest.raises(ValueError, match=r"libraries on all machines of the cluster \(No module named 'saot'\)"):
        list(on(ray).answers(Order.of(Adding(), "cpu"), range(100), list))
    ray.get = lambda name: (_ for _ in ()).throw(RayTaskError("Traceback\nTypeError"))
    with pytest.raises(RayTaskError):
        list(on(ray).answers(Order.of(Adding(), "cpu"), range(100), list))


def test_machines_that_come_and_go_are_told_and_used(monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 0.0)
    ray, heard = FakeRay({"CPU": 2}), []
    answers = on(ray, heard=heard).answers(Order.of(Adding(), "cpu"), range(500), list)
    next(answers)
    assert ray.most == 4 and not heard
    ray.machines.append({"CPU": 4})
    next(answers)
    assert ray.most == 12 and heard == ["the Ray cluster has 2 machines now, and had 1"]
    del ray.machines[0]
    list(answers)
    assert heard[1:] == ["the Ray cluster has 1 machines now, and had 2"]
    ray.machines[0] = {"memory": 1}
    list(on(ray, heard=heard).answers(Order.of(Adding(), "cpu"), range(50), list))
    assert heard[2:] == ["no machine of the Ray cluster has a CPU; its work waits until one joins"]


def test_workers_with_a_gpu_take_it_and_some_cpus():
    ray = FakeRay({"CPU": 16, "GPU": 2}, {"CPU": 8})
    made = on(ray, device="cuda")
    made.warm()
    assert ray.begun == 2 and ray.asked == [{"max_retries": 0, "num_cpus": 4, "num_gpus": 1}]
    ray.tasks.clear()
    list(made.answers(Order.of(Adding(), "cuda"), range(100), list))
    assert ray.most == 4 and ray.asked[1] == {"max_retries": cluster.TRIES, "num_cpus": 4, "num_gpus": 1}


class Writing(Adding):
    """A job that writes into a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


def test_a_worker_opens_once_and_makes_sure_that_it_is_the_same_world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spread, "LOOKS", (0.0,))
    order = Order.of(Writing(tmp_path / "out"), "cpu")
    told = work(order, [1]).told
    assert told is not None and f"expected {tmp_path / 'out'} to be one folder for all machines" in told.sentence
    opened = []
    monkeypatch.setattr(Writing, "open", lambda self, device: opened.append(device) or sum)
    with standing(order):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{MARKER}{order.token}"]
        torch.set_num_threads(2)
        assert [work(order, chunk).value for chunk in ([1], [2, 3])] == [1, 5] and opened == ["cpu"]
        assert torch.get_num_threads() == 1
    assert not list((tmp_path / "out").iterdir())
    for changed, words in (({"code": "other"}, "same version of saot"), ({"here": "/nowhere"}, "folder /nowhere, in")):
        told = work(replace(order, token="new", **changed), [1]).told
        assert told is not None and words in told.sentence


def test_markers_of_commands_that_were_killed_long_ago_go(tmp_path):
    for name, age in (("old", spread.STALE + 9), ("young", 9)):
        (tmp_path / f"{MARKER}{name}").touch()
        os.utime(tmp_path / f"{MARKER}{name}", (time.time() - age,) * 2)
    with standing(Order.of(Writing(tmp_path), "cpu")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [f"{MARKER}young"]


def extraction(spec: str, out: Path, **changes) -> tuple[Extraction, FeatureStore]:
    place = store_folder(out, spec)
    job = Extraction(spec, out, place, "filterbank", None, "56", "float32", "half", ALL_WINGS)
    key = ALL_WINGS.backbone("filterbank", size=56).key
    return replace(job, **changes), FeatureStore(place, key)


@pytest.mark.parametrize("kind", ["files", "scenes"])
def test_features_are_those_of_one_process_and_what_is_there_stays(tmp_path, kind):
    spec = "scenes:street:train,count=7,height=64,width=128"
    if kind == "files":
        spec = f"folder:{draw(tmp_path / 'set' / 'images', 7).parent}"
    images, backbone = ALL_WINGS.images(spec), ALL_WINGS.backbone("filterbank", size=56)
    assert (images.files is not None) == (kind == "files")
    FeatureStore(store_folder(tmp_path / "local", spec), backbone.key).ensure(images, backbone)
    job, store = extraction(spec, tmp_path / "ray")
    told, seen = [], Fingerprints(tmp_path / "ray" / "fingerprints.jsonl")
    assert extract_on(on(), job, store, images, seen, lambda *said: told.append(said)) == 7
    assert told == [(done, 7) for done in range(1, 8)]
    assert contents(tmp_path / "ray") == contents(tmp_path / "local") and len(contents(tmp_path / "ray")) == 8
    store.file(images.keys[3]).unlink()
    job, store = extraction(spec, tmp_path / "ray")
    assert extract_on(on(), job, store, images, seen, lambda *said: None) == 1
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_workers_share_a_store_at_an_address(tmp_path):
    """There is no disk that they have to have in common."""
    spec, out = f"folder:{draw(tmp_path / 'set' / 'images', 5).parent}", Path("memory://of-workers/features")
    images, (job, store) = ALL_WINGS.images(spec), extraction(spec, out)
    assert job.folder is None and extract_on(on(), job, store, images, Fingerprints(), lambda *said: None) == 5
    assert store.keys() == tuple(sorted(images.keys))
    assert extract_on(on(), job, store, images, Fingerprints(), lambda *said: None) == 0


def test_workers_are_told_what_is_known_of_files_and_tell_what_they_find_out(tmp_path, monkeypatch):
    spec = f"folder:{draw(tmp_path / 'set' / 'images', 5).parent}"
    for path in (tmp_path / "set" / "images").iterdir():
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr("saot.data.fingerprints.SETTLED_NS", -(2**62))
    seen = Fingerprints(tmp_path / "out" / "fingerprints.jsonl")
    images, (job, store) = replace(ALL_WINGS, seen=seen).images(spec), extraction(spec, tmp_path / "out")
    assert extract_on(on(), job, store, images, seen, lambda *said: None) == 5
    seen.save()
    seen = Fingerprints(tmp_path / "out" / "fingerprints.jsonl")
    assert images.files is not None
    assert len(seen.some([*images.files, *map(store.file, images.keys)])) == 10
    monkeypatch.setattr("saot.data.fingerprints.sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    monkeypatch.setattr("saot.features.store.read_payload", lambda *_: pytest.fail("tokens were read again"))
    monkeypatch.setattr(LocalFolder, "names", lambda self: iter(()))  # as of a worker: it looks at no folder
    assert store.ensure(images, ALL_WINGS.backbone("filterbank", size=56), seen=seen, only=range(5)) == 0
    monkeypatch.undo()
    assert extract_on(on(), job, store, images, seen, lambda *said: None) == 0


def test_the_folder_is_listed_once_and_what_is_missing_comes_first(tmp_path, monkeypatch):
    spec = f"folder:{draw(tmp_path / 'set' / 'images', 40, (28, 28)).parent}"
    images, (job, store) = ALL_WINGS.images(spec), extraction(spec, tmp_path / "out")
    store.ensure(images, ALL_WINGS.backbone("filterbank", size=56), only=range(30))
    listed, looked = [], LocalFolder.names
    monkeypatch.setattr(LocalFolder, "names", lambda self: listed.append(self) or looked(self))
    assert store.begin(images) == [*range(30, 40), *range(30)]
    assert extract_on(on(), job, store, images, Fingerprints(), lambda *said: None) == 10
    assert len(listed) == 2


def test_masks_are_those_of_one_process(finished, tmp_path):
    new = draw(tmp_path / "new", 9)
    (new / "004.png").write_text("no picture")
    formats = ("png", "color", "coco")
    alone = predict_pictures(finished, [new], tmp_path / "local", formats)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "006.png").write_bytes((new / "006.png").read_bytes())  # somebody else's
    told: list[tuple[int, int]] = []
    asked = ([new], tmp_path / "ray", formats, lambda *said: told.append(said), None, ALL_WINGS)
    first = predict_on(on(), finished, *asked)
    assert first.left_alone == (tmp_path / "ray" / "006.png",) and first.made == 7 and told[-1] == (9, 9)
    (tmp_path / "ray" / "006.png").unlink()
    (tmp_path / "ray" / "002_color.png").unlink()
    again = predict_on(on(), finished, *asked)
    assert again.made == 2 and again.failed == first.failed == alone.failed
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    strip = [{key: value for key, value in one.items() if key in ("image", "height")} for one in again.records()]
    assert strip == [{"image": one["image"], "height": one["height"]} for one in alone.records()]


def test_masks_that_are_missing_come_first_and_another_run_is_refused(finished, tmp_path):
    new = draw(tmp_path / "new", 6)
    predict_pictures(finished, [new / f"{number:03d}.png" for number in range(4)], tmp_path / "out")
    plan = new_pictures.plan_masks(finished, [new], tmp_path / "out", wings=ALL_WINGS)
    assert plan.order() == [4, 5, 0, 1, 2, 3]
    job = Labelling(finished, tmp_path / "out", ("png",), None, "another", ALL_WINGS)
    with pytest.raises(ValueError, match="expected the same run on all machines"):
        list(on().answers(Order.of(job, "cpu"), [0], lambda some: [plan.pictures[0]]))


def test_scores_are_those_of_one_process_and_bad_masks_are_known_first(finished, tmp_path, monkeypatch):
    spec = "scenes:street:val,count=3,height=64,width=128"
    told: list[tuple[int, int]] = []
    found = evaluate_on(on(), finished, spec, lambda *said: told.append(said), ALL_WINGS)
    assert json.dumps(found) == json.dumps(evaluate_run(finished, spec)) and told[-1] == (3, 3)
    classes = json.loads((finished / "metrics.json").read_text())["classes"]
    root = tmp_path / "set"
    make_folder(root, 0)
    (root / "classes.txt").write_text("\n".join(classes))
    Image.new("L", (9, 9)).save(root / "masks" / "1.png")
    told.clear()
    with pytest.raises(ValueError, match=r"1 of folder:.*the first being that of 1\.png, 9x9 for a picture of 112x56"):
        evaluate_on(on(), finished, f"folder:{root}", lambda *said: told.append(said), ALL_WINGS)
    assert not told


def test_a_set_that_is_another_on_a_machine_is_refused(tmp_path):
    small = "height=64,width=128"
    images = ALL_WINGS.images(f"scenes:street:train,count=4,{small}")
    job, store = extraction(f"scenes:street:train,count=2,{small}", tmp_path)
    with pytest.raises(ValueError, match=r"the same pictures on all machines; .* has no .* in scenes:street"):
        extract_on(on(), job, store, images, Fingerprints(), lambda *said: None)


@pytest.fixture
def fake(monkeypatch):
    ray = FakeRay()
    monkeypatch.setattr(cluster, "library", lambda: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ray


def test_which_cluster_is_connected_to(fake, monkeypatch):
    for address, variable, asked in (
        ("local", None, ["local"]),
        ("here:1", "there:1", ["here:1"]),
        (None, "here:1", ["here:1"]),
        (None, None, ["auto", "local"]),
    ):
        fake.connected.clear()
        if variable is not None:
            monkeypatch.setenv("RAY_ADDRESS", variable)
        with cluster.connected(address, None, "auto", print) as made:
            assert made.device == "cpu" and fake.up and fake.begun == 2  # workers are warm
        assert [one["address"] for one in fake.connected] == asked and not fake.up
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        fake.begun = 0
    with (
        pytest.raises(ValueError, match=r"a Ray cluster at there:1; none answers \(nobody\): start it with `ray start"),
        cluster.connected("there:1", None, "auto", print),
    ):
        pass
    assert [one["address"] for one in fake.connected][-1] == "there:1"
    fake.up = True
    with cluster.connected(None, None, "auto", print):
        pass
    assert fake.up  # whoever connected it goes on with it


def test_what_ray_prints_of_its_workers_is_not_the_result(fake, capsys):
    with cluster.connected("local", None, "auto", print):
        sys.stdout.write("a worker died")
    sys.stdout.write("the result")
    assert capsys.readouterr().out == "the result"


@pytest.mark.parametrize(
    ("workers", "device", "words"),
    [
        (0, "auto", "--workers of at least 1; got 0"),
        (None, "cuda:1", "auto, cpu or cuda with --engine ray, which gives out GPUs; got cuda:1"),
        (None, "cuda", "a Ray cluster with GPUs for --device cuda; this one has none"),
    ],
)
def test_what_does_not_fit_a_cluster_is_refused(fake, workers, device, words):
    with pytest.raises(ValueError, match=words), cluster.connected("local", workers, device, print):
        pass
    assert not fake.up


def test_gpus_are_taken_where_there_are_any(fake):
    fake.machines.append({"CPU": 4, "GPU": 1})
    for device, wanted in (("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")):
        with cluster.connected("local", None, device, print) as made:
            assert made.device == wanted


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(extras, "requires", lambda name: ['ray>=2.60; extra == "ray"'])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ValueError, match=r"needs Ray, which is not installed; install what the extra 'ray' needs: .*ray"
    ):
        cluster.library()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def call(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_commands_take_an_engine(fake, finished, tmp_path, capsys):
    new = draw(tmp_path / "set" / "images", 3).parent
    engine = ("--engine", "ray", "--address", "here:1", "--json")
    there = ("--backbone", "filterbank", "--size", "56", "--out", str(tmp_path / "store"))
    code, out, _ = call(capsys, "extract", f"folder:{new}", *there, *engine)
    assert code == 0 and json.loads(out)["made"] == 3 and fake.connected[-1]["address"] == "here:1"
    code, out, _ = call(capsys, "predict", str(finished), str(new), "--out", str(tmp_path / "masks"), *engine)
    assert code == 0 and json.loads(out)["made"] == 3
    spec = "scenes:street:val,count=2,height=64,width=128"
    code, out, _ = call(capsys, "evaluate", str(finished), spec, *engine, "--workers", "1")
    assert code == 0 and len(fake.connected) == 3
    assert json.dumps(json.loads(out)) == json.dumps(evaluate_run(finished, spec))


def test_an_engine_that_does_not_fit_is_refused(finished, tmp_path, capsys):
    spec = "scenes:street:val,count=2,height=64,width=128"
    code, _, err = call(capsys, "evaluate", str(finished), spec, "--address", "here:1")
    assert code == 2 and "--address is for --engine ray; got here:1 without it" in err
    code, _, err = call(capsys, "evaluate", str(finished), spec, "--workers", "0")
    assert code == 2 and "--workers of at least 1; got 0" in err
    words = ("predict", str(finished), "big.tif", "--out", str(tmp_path / "labels.tif"), "--engine", "ray")
    code, _, err = call(capsys, *words)
    assert code == 2 and "--engine ray is for pictures; got big.tif" in err
