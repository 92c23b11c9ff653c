import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from saot.runs import (
    Checkpoint,
    Kept,
    Shared,
    Workspace,
    code_version,
    identity_of,
    read_kept,
    write_kept,
)
from saot.runs import once as once_file


@pytest.fixture
def space(tmp_path):
    made = Workspace(tmp_path / "run", {"format": 2})
    yield made
    made.close()


class Maker:
    """Counts how often it is asked."""

    def __init__(self, value: float = 1.0) -> None:
        self.value, self.asked = value, 0

    def __call__(self, making) -> Kept:
        self.asked += 1
        return Kept({"value": torch.tensor([self.value])}, {"why": "asked"}, {"for": ["readers"]})


def test_what_is_made_once_is_kept(space):
    make = Maker()
    for _ in range(3):
        kept = space.once("work/a", identity_of(1), make)
        assert kept.tensors["value"].tolist() == [1.0] and kept.facts == {"why": "asked"}
        assert kept.about == {"for": ["readers"]}
    assert make.asked == 1


def test_of_two_who_ask_at_once_one_makes_it(space):
    made: list[int] = []

    def slow(making) -> Kept:
        made.append(1)
        time.sleep(0.05)
        return Kept(facts={"number": len(made)})

    found: list[Kept] = []
    asking = [
        threading.Thread(target=lambda: found.append(space.once("work/a", identity_of(1), slow))) for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert made == [1] and [one.facts for one in found] == [{"number": 1}] * 4


def test_other_contents_are_made_anew(space):
    make = Maker()
    for parts in ((1,), (2,), (2,), (1,)):
        space.once("work/a", identity_of(*parts), make)
    assert make.asked == 3


def test_other_code_is_made_anew_and_its_checkpoint_left_alone(space, monkeypatch):
    make, places = Maker(), []

    def watched(making):
        places.append(making.checkpoint.path)
        return make(making)

    space.once("work/a", identity_of(1), watched)
    monkeypatch.setattr("saot.runs.folder.code_version", lambda *rooms: "an upgrade")
    space.once("work/a", identity_of(1), watched)
    space.once("work/a", identity_of(1), watched)
    assert make.asked == 2 and len(set(places)) == 2


def test_a_damaged_file_is_made_anew(space):
    make = Maker()
    space.once("work/a", identity_of(1), make)
    path = space.work("a.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    space.once("work/a", identity_of(1), make)
    assert make.asked == 2


def test_a_stopped_maker_finds_its_checkpoint_and_a_finished_one_leaves_none(space):
    def stopped(making):
        making.checkpoint.save({"history": [{"loss": 1.0}]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        space.once("work/a", identity_of(1), stopped, title="train a")
    assert not space.work("a.safetensors").exists()

    def finished(making):
        assert making.checkpoint.load() == {"history": [{"loss": 1.0}]}
        making.log([{"loss": 1.0}])
        return Kept()

    space.once("work/a", identity_of(1), finished, title="train a", log="a")
    assert not list(space.work("checkpoints").iterdir())
    assert json.loads(space.log_path("a").read_text()) == {"stage": "a", "step": 0, "loss": 1.0}
    assert space.facts("stages")["train a"]["seconds"] >= 0


def test_equal_contents_have_equal_names_and_others_have_others():
    x = torch.arange(6.0)
    assert identity_of(x, {"a": 1, "b": (2.0, None)}) == identity_of(x.clone(), {"b": [2.0, None], "a": 1})
    names = [identity_of(part) for part in (x, x.double(), x.view(2, 3), x + 1, 1, "1", [1], {"1": 1}, float("inf"))]
    assert len(set(names)) == len(names)
    with pytest.raises(TypeError, match="something with an identity; got object"):
        identity_of(object())


def test_code_is_named_by_what_it_does_not_by_what_it_says(tmp_path, monkeypatch):
    root = tmp_path / "saot"
    (root / "room").mkdir(parents=True)
    (root / "runs").mkdir()
    monkeypatch.setattr(once_file, "__file__", str(root / "runs" / "once.py"))

    def version(text: str) -> str:
        (root / "room" / "a.py").write_text(text)
        once_file._code_version.cache_clear()
        return code_version("room")

    plain = version("def f():\n    return 1\n")
    assert version('"""What it is."""\n\n\ndef f():  # why\n    """One."""\n    return 1\n') == plain
    assert version("def f():\n    return 2\n") != plain
    once_file._code_version.cache_clear()


def test_code_is_named_by_several_threads_at_once():
    once_file._code_version.cache_clear()
    rooms = ("transport", "decoder", "adapt", "match", "tables", "features")
    with ThreadPoolExecutor(len(rooms)) as pool:
        found = list(pool.map(code_version, rooms))
    assert len(set(found)) == len(rooms) and found == [code_version(room) for room in rooms]


def test_runs_leave_each_other_what_is_equal(tmp_path):
    make, shared = Maker(), Shared(tmp_path / "shared")
    stages = []
    for name in ("first", "second"):
        space = Workspace(tmp_path / name, {"format": 2}, shared=shared)
        space.once("work/a", identity_of(1), make, title="train a", log="", shared="a")
        stages.append(space.facts("stages")["train a"])
        space.close()
    assert make.asked == 1 and stages[0] == stages[1]
    assert (tmp_path / "first/work/a.safetensors").samefile(tmp_path / "second/work/a.safetensors")
    other = Workspace(tmp_path / "third", {"format": 2}, shared=shared)
    other.once("work/a", identity_of(1), make, title="train b", shared="b")  # another name: its time is its own
    assert make.asked == 2
    other.close()


def left(tmp_path):
    run = tmp_path / "run"
    write_kept(run / "a.safetensors", Kept({"value": torch.ones(1)}), "me")
    return run, [run / "a.safetensors"]


def test_a_part_is_left_whole_or_not_at_all(tmp_path, monkeypatch):
    (run, files), shared, link = left(tmp_path), Shared(tmp_path / "shared"), once_file._link

    def killed(source, place):
        raise KeyboardInterrupt

    monkeypatch.setattr(once_file, "_link", killed)
    with pytest.raises(KeyboardInterrupt):
        shared.leave("me", run, files, None)
    assert not list((tmp_path / "shared").glob("*"))
    monkeypatch.setattr(once_file, "_link", link)
    for _ in range(2):  # what is there stays
        shared.leave("me", run, files, {"seconds": 1.0})
    assert [entry.name for entry in (tmp_path / "shared").iterdir()] == ["me"]
    assert shared.adopt("me", run) == {"seconds": 1.0}  # both names are one file already
    assert shared.adopt("nobody", run) is None
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_disk_without_links_gets_copies(tmp_path, monkeypatch):
    def refuse(source, place):
        raise OSError("links are not supported")

    monkeypatch.setattr(once_file.os, "link", refuse)
    run, files = left(tmp_path)
    Shared(tmp_path / "shared").leave("me", run, files, None)
    copy = tmp_path / "shared" / "me" / "a.safetensors"
    assert copy.read_bytes() == files[0].read_bytes() and not copy.samefile(files[0])
    assert read_kept(copy, "me") is not None and read_kept(copy, "you") is None


def test_a_checkpoint_is_named_by_what_it_is_of(space):
    seen = []

    def make(making):
        assert isinstance(making.checkpoint, Checkpoint)
        seen.append(making.checkpoint.path.name)
        return Kept()

    space.once("work/a", identity_of(1), make)
    space.once("work/a", identity_of(2), make)
    assert len(set(seen)) == 2 and all(name.startswith("a-") for name in seen)


def test_equal_values_are_equal_bytes(tmp_path):
    kept = Kept({"b": torch.ones(2), "a": torch.zeros(1)}, {"x": 1, "y": [2.0]}, {"for": "readers", "shape": {"k": 3}})
    for number in range(6):
        write_kept(tmp_path / f"{number}", kept, "me")
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(6)}) == 1


def test_a_flipped_bit_is_noticed(tmp_path):
    """safetensors has no check sum of its own."""
    path, weights = tmp_path / "a.safetensors", torch.arange(6, dtype=torch.float32).reshape(2, 3)
    kept = Kept(
        {"w": weights, "n": torch.tensor(3), "b": torch.tensor([True])}, {"a": {10: 1, 9: (2, 3)}}, {"of": ["x"]}
    )
    write_kept(path, kept, "i")
    found = read_kept(path, "i")
    assert torch.equal(found.tensors["w"], weights) and (found.facts, found.about) == (
        {"a": {"10": 1, "9": [2, 3]}},
        {"of": ["x"]},
    )
    whole = path.read_bytes()
    for place in (-1, -30, whole.index(b"2, 3")):  # two tensors, a fact
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        assert read_kept(path, "i") is None


def test_files_of_earlier_versions_have_no_check_sum_and_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2)}, path, {"saot": json.dumps({"facts": {"a": 1}, "identity": "i", "of": "x"})})
    found = read_kept(path, "i")
    assert (dict(found.facts), dict(found.about), found.tensors["w"].tolist()) == ({"a": 1}, {"of": "x"}, [1, 1])


@pytest.mark.parametrize("said", ["[]", "null", "3", "[" * 100_000, "{"])
def test_a_file_that_says_nonsense_of_itself_is_damaged(tmp_path, said):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"saot": said})
    assert read_kept(tmp_path / "a.safetensors") is None


@pytest.mark.parametrize("said", ["null", '{"seconds": 1.0, "peak_memory_bytes": null}', '{"seconds": 1.0}', "[1]"])
def test_a_stage_that_goes_on_after_a_damaged_record_is_refused_before_it_begins(tmp_path, said):
    space = Workspace(tmp_path / "run", {"format": 2})
    space.set_facts("stages", {})
    space.work("facts/stages.json").write_text(f'{{"train": {said}}}')
    told = r"facts/stages\.json is damaged.*put it back from a copy, or delete the run"
    with pytest.raises(ValueError, match=told), space.stage("train"):
        raise AssertionError("the work was begun")
    with pytest.raises(ValueError, match=r"facts/stages\.json is damaged"):
        space.all_stages()
    space.close()


@pytest.mark.parametrize("name", ["work/settings.json", "work/facts/stages.json"])
def test_a_damaged_record_of_a_run_is_refused_in_a_sentence(tmp_path, name):
    space = Workspace(tmp_path / "run", {"format": 2})
    space.set_facts("stages", {})
    space.path("points.csv").write_text("image,x,y,class\n")  # a folder without anything is taken away
    space.close()
    (tmp_path / "run" / name).write_text('{"format"')

    def go_on() -> None:
        again = Workspace(tmp_path / "run", {"format": 2})
        try:
            again.facts("stages")
        finally:
            again.close()

    with pytest.raises(
        ValueError, match=f"{name} is damaged, it is no JSON: put it back from a copy, or delete the run"
    ):
        go_on()
