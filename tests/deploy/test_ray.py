"""A Ray cluster of several machines in one: the bytes of one process, whoever is killed. `make test-ray`."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.cluster import COUNTED, Deadly, lines
from PIL import Image

from saot.data import Fingerprints
from saot.deploy import Extraction, connected, extract_on, predict_on
from saot.features import FeatureStore
from saot.label import store_folder

pytestmark = pytest.mark.ray
COUNT = 36
SMALL = {"object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def machines() -> Iterator[object]:
    """A head without a CPU; machines of one each are added by `two`."""
    cluster = pytest.importorskip("ray.cluster_utils", reason="needs Ray: `make test-ray` installs it")
    here = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])  # has the helpers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", here)
        made = cluster.Cluster(
            initialize_head=True, head_node_args={**SMALL, "num_cpus": 0, "include_dashboard": False}
        )
        yield made
        made.shutdown()


@pytest.fixture
def two(machines) -> list:
    """Two machines of one CPU, those of the test before where they are left."""
    while len(machines.worker_nodes) < 2:
        machines.add_node(num_cpus=1, **SMALL)
    return list(machines.worker_nodes)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Pictures that are seen as they are: no two alike, of the size of the input."""
    folder = tmp_path_factory.mktemp("set") / "images"
    folder.mkdir()
    for number in range(COUNT):
        values = np.random.default_rng(number).integers(0, 256, (56, 112, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def opened(machines, two):
    """The cluster, connected."""
    with connected(machines.address, None, "auto", print) as cluster:
        yield cluster


def contents(folder: Path) -> dict[str, bytes]:
    """Without what a killed worker was writing, which the next command sweeps when it is old."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("fingerprints.jsonl", ".claims") and ".tmp-" not in path.name
    }


def extract(cluster, pictures: Path, out: Path, log: Path) -> tuple[int, list[int]]:
    """How many were made, as workers say, and what was told."""
    spec = f"folder:{pictures.parent}"
    job = Extraction(spec, out, store_folder(out, spec), "counted", log, "56x112", "float32", "half", COUNTED)
    store = FeatureStore(job.place, COUNTED.backbone("counted", log, size=(56, 112)).key)
    told: list[int] = []
    images = COUNTED.images(spec)
    made = extract_on(cluster, job, store, images, Fingerprints(), lambda done, total: told.append(done))
    return made, told


@pytest.fixture
def counted(finished, tmp_path) -> tuple[Path, Path]:
    """The tiny run, with a backbone that writes down what it is asked; and where."""
    import json
    import shutil

    run, log = tmp_path / "run", tmp_path / "masks.log"
    shutil.copytree(finished, run)
    said = json.loads((run / "run.json").read_text())
    said["settings"] |= {"backbone": "counted", "weights": str(log)}
    (run / "run.json").write_text(json.dumps(said))
    return run, log


def local_features(pictures: Path, out: Path) -> dict[str, bytes]:
    spec = f"folder:{pictures.parent}"
    backbone = COUNTED.backbone("filterbank", size=(56, 112))
    FeatureStore(store_folder(out, spec), backbone.key).ensure(COUNTED.images(spec), backbone)
    return contents(out)


def local_masks(run: Path, pictures: Path, out: Path) -> dict[str, bytes]:
    from saot.label import predict_pictures

    predict_pictures(run, [pictures], out, ("png", "coco"), wings=COUNTED)
    return contents(out)


class Meanwhile:
    """Does things when a log has so many lines; what went wrong is raised at the end."""

    def __init__(self, log: Path, *steps: tuple[int, Callable[[], None]]) -> None:
        self.log, self.steps, self.done, self.over = log, steps, 0, False
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.over = True  # a step whose moment has not come will not be taken any more
        self.thread.join(60)
        assert kind is not None or self.done == len(self.steps)

    def _watch(self) -> None:
        for count, act in self.steps:
            while len(lines(self.log)) < count:
                if self.over:
                    return
                time.sleep(0.02)
            act()
            self.done += 1


def kill_last(log: Path) -> Callable[[], None]:
    return lambda: os.kill(lines(log)[-1][0], signal.SIGKILL)


def twice(log: Path) -> int:
    """How often a picture was made that had been made, or begun, before."""
    counts = Counter(name for _, name in lines(log))
    assert len(counts) == COUNT
    return sum(counts.values()) - COUNT


def test_features_are_those_of_one_process_while_a_worker_and_a_machine_die(machines, two, opened, pictures, tmp_path):
    log = tmp_path / "log"
    gone = lambda: machines.remove_node(two[0], allow_graceful=False)  # noqa: E731
    with Meanwhile(log, (6, kill_last(log)), (16, gone)):
        made, told = extract(opened, pictures, tmp_path / "ray", log)
    assert contents(tmp_path / "ray") == local_features(pictures, tmp_path / "local")
    assert told == list(range(1, COUNT + 1))
    assert twice(log) <= 4  # two a worker: one that is written, one that is made
    assert made <= COUNT  # what a worker made before it died, nobody tells of


def test_masks_are_those_of_one_process_while_a_worker_and_a_machine_die(
    machines, two, opened, pictures, counted, tmp_path
):
    run, log = counted
    gone = lambda: machines.remove_node(two[1], allow_graceful=False)  # noqa: E731
    with Meanwhile(log, (6, kill_last(log)), (16, gone)):
        asked = ([pictures], tmp_path / "ray", ("png", "coco"), lambda done, total: None, None, COUNTED)
        labelled = predict_on(opened, run, *asked)
    assert len(labelled.sizes) == COUNT and not labelled.failed and twice(log) <= 4
    log.unlink()
    assert contents(tmp_path / "ray") == local_masks(run, pictures, tmp_path / "local")


def test_what_a_killed_command_has_made_is_not_made_again(opened, pictures, tmp_path):
    log = tmp_path / "log"
    spec = f"folder:{pictures.parent}"
    images, backbone = COUNTED.images(spec), COUNTED.backbone("filterbank", size=(56, 112))
    FeatureStore(store_folder(tmp_path / "ray", spec), backbone.key).ensure(images, backbone, only=range(20))
    made, told = extract(opened, pictures, tmp_path / "ray", log)
    assert made == COUNT - 20 == len(lines(log)) and told[-1] == COUNT


def test_a_picture_that_cannot_be_read_is_told_in_one_sentence(opened, pictures, tmp_path):
    import shutil

    shutil.copytree(pictures, tmp_path / "set" / "images")
    (tmp_path / "set" / "images" / "011.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"^.*011\.png is no picture") as raised:
        extract(opened, tmp_path / "set" / "images", tmp_path / "out", tmp_path / "log")
    assert "\n" not in str(raised.value) and type(raised.value) is ValueError


def test_a_chunk_that_kills_its_workers_is_not_begun_for_ever(opened, monkeypatch):
    monkeypatch.setattr("saot.deploy.cluster.TRIES", 1)
    with pytest.raises(ValueError, match="a chunk of pictures ended with its worker 2 times"):
        list(opened.answers(opened.order(Deadly()), [1], list))


def test_a_command_on_the_cluster(machines, two, pictures, tmp_path, capsys):
    """Through the front door, with the result alone on standard output."""
    import json

    from saot import cli

    words = ["extract", f"folder:{pictures.parent}", "--backbone", "filterbank", "--size", "56x112", "--json"]
    words += ["--out", str(tmp_path / "ray"), "--engine", "ray", "--address", machines.address]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    said = capsys.readouterr()
    assert not ended.value.code and json.loads(said.out)["made"] == COUNT
    assert f"features: {COUNT}/{COUNT} done" in said.err
    assert contents(tmp_path / "ray") == local_features(pictures, tmp_path / "local")
