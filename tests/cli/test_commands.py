"""Every command through its front door: results on standard output, trouble in one sentence with exit code 2."""

import errno
import json
import platform
import re
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from saot import cli
from saot.features import load_backbone, token_count


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def pictures(tmp_path):
    """A labelled folder, an unlabelled one and one to score on."""
    rng = np.random.default_rng(0)
    for name, masked in (("source", True), ("target", False), ("check", True)):
        (tmp_path / name / "images").mkdir(parents=True)
        if masked:
            (tmp_path / name / "masks").mkdir()
        for number in range(2):
            mask = np.zeros((56, 84), np.uint8)
            mask[:, 30 + 5 * number :] = 1
            picture = np.where(mask[..., None] == 1, (200, 60, 40), (30, 90, 200)) + rng.integers(-20, 20, (56, 84, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / name / "images" / f"{number}.png")
            if masked:
                Image.fromarray(mask).save(tmp_path / name / "masks" / f"{number}.png")
        (tmp_path / name / "classes.txt").write_text("sky\nroof\n")
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """The best preset with the step counts of a test."""
    from helpers.runs import TINY

    from saot import recipes

    monkeypatch.setitem(recipes.PRESETS, "best", TINY)


def test_help_has_an_example_for_every_command(capsys):
    for command in (
        "demo",
        "run",
        "check",
        "extract",
        "compact",
        "predict",
        "import",
        "suggest",
        "push",
        "explore",
        "serve",
        "export",
        "evaluate",
        "completion",
    ):
        code, out, err = call(capsys, command, "--help")
        assert code == 0
        assert f"saot {command}" in out + err, command
        assert "xample" in out + err, command


def test_check_says_what_a_set_holds(capsys, pictures):
    code, out, _ = call(capsys, "check", f"folder:{pictures / 'source'}")
    assert code == 0 and "2 pictures, 2 masks, 2 classes" in out and "84x56 (2)" in out
    assert "features with filterbank" in out and "MB of disk" in out
    _, out, _ = call(capsys, "check", f"folder:{pictures / 'source'}", "--json")
    found = json.loads(out)
    assert found["pixels"] == {"sky": 2 * 56 * 30 + 56 * 5, "roof": 2 * 56 * 54 - 56 * 5}
    assert found["features"]["seconds"] > 0 and found["features"]["bytes"] > 0


def test_check_knows_sizes_from_its_one_look_at_each_picture(capsys, pictures, monkeypatch):
    for part, kind in (("images", "RGB"), ("masks", "L")):
        Image.new(kind, (84, 28)).save(pictures / "source" / part / "2.png")
    monkeypatch.setattr("saot.data.datasets.image_size", lambda path: pytest.fail(f"{path} was opened again"))
    spec = f"folder:{pictures / 'source'}"
    found = json.loads(call(capsys, "check", spec, "--size", "56", "--json")[1])
    network = load_backbone("filterbank", size=56)
    tokens = 2 * token_count(network, (56, 84)) + token_count(network, (28, 84))
    assert found["features"]["bytes"] == tokens * network.key.dim * 2


def test_check_lists_bad_files_and_ends_with_1(capsys, pictures):
    root = pictures / "source"
    (root / "masks" / "1.png").write_bytes(b"junk")
    (root / "classes.txt").write_text("Sky,\nroof\n")
    code, out, err = call(capsys, "check", f"folder:{root}")
    assert code == 1 and "bad: mask" in out and "1.png is no picture" in out and "warning: line 1 of" in out
    code, out, err = call(capsys, "check", f"folder:{root}", "--json")
    found = json.loads(out)
    assert code == 1 and len(found["bad"]) == 1 and found["features"]["bytes"] is None
    code, out, err = call(capsys, "check", f"folder:{pictures / 'none'}")
    assert code == 2 and err.strip().count("\n") == 0


def test_check_and_run_take_a_mask_map(capsys, pictures, quick):
    for path in (pictures / "source" / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    code, out, err = call(capsys, "check", f"folder:{pictures / 'source'}", "--mask-map", "0=sky,255=roof", "--json")
    assert code == 0 and min(json.loads(out)["pixels"].values()) > 0
    for words in (["--mask-map", "0=sky,255=door"], ["--mask-map", "sky"]):
        code, out, err = call(
            capsys,
            *("run", "--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}"),
            *("--out", str(pictures / "run"), "--backbone", "filterbank", *words),
        )
        assert (
            code == 2
            and "mask-map" in err.replace("VALUE=CLASS", "mask-map")
            and not (pictures / "run" / "features").exists()
        )


def test_run_predict_evaluate_and_extract(capsys, pictures, quick):
    request = [
        *("run", "--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}"),
        *("--eval", f"folder:{pictures / 'check'}", "--backbone", "filterbank", "--size", "56x84"),
        *("--out", str(pictures / "run"), "--store", str(pictures / "store"), "--json"),
    ]
    code, out, _ = call(capsys, *request)
    assert code == 0
    result = json.loads(out)
    assert result["methods"]["nearest_neighbor"]["miou"] > 0.8
    assert "oracle" not in result["methods"]  # the target has no masks
    code, out, _ = call(capsys, *request[:-1])
    assert code == 0 and "Nearest neighbour" in out and "report.html" in out

    code, out, _ = call(
        capsys, "predict", str(pictures / "run"), str(pictures / "target" / "images"),
        "--out", str(pictures / "masks"), "--format", "png,coco", "--json",
    )  # fmt: skip
    assert code == 0 and len(json.loads(out)["pictures"]) == 2
    assert np.asarray(Image.open(pictures / "masks" / "0.png")).shape == (56, 84)

    code, out, _ = call(capsys, "evaluate", str(pictures / "run"), f"folder:{pictures / 'check'}", "--json")
    assert code == 0
    assert json.loads(out)["methods"]["saot_decoder"] == result["methods"]["saot_decoder"]

    code, out, _ = call(
        capsys, "extract", f"folder:{pictures / 'target'}", "--backbone", "filterbank", "--size", "56x84",
        "--out", str(pictures / "store"), "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["images"] == 2


def test_a_packed_store_in_eight_bits_serves_a_run(capsys, pictures, quick):
    network, store, packed = ["--backbone", "filterbank", "--size", "56x84"], pictures / "store", pictures / "packed"
    for name in ("source", "target"):
        code, out, _ = call(
            capsys, "extract", f"folder:{pictures / name}", *network, "--out", str(store), "--form", "int8", "--json"
        )
        assert code == 0 and json.loads(out)["made"] == 2
    code, out, _ = call(capsys, "compact", str(store), "--out", str(packed), "--json")
    found = json.loads(out)
    assert code == 0 and (found["pictures"], found["files"], found["made"], found["left_out"]) == (4, 4, 2, [])
    assert found["bytes"] == sum(
        path.stat().st_size for path in packed.rglob("*.*") if path.suffix in (".pack", ".index")
    )
    code, out, _ = call(capsys, "compact", str(store), "--out", str(packed))
    assert code == 0 and out.startswith("4 pictures in 4 files of ")
    request = [
        *("run", "--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}", *network),
        *("--out", str(pictures / "run"), "--store", str(packed), "--json"),
    ]
    code, _, err = call(capsys, *request)
    assert code == 2 and "this run has form 'half'" in err.strip().splitlines()[-1] and "Traceback" not in err
    code, out, err = call(capsys, *request, "--store-form", "int8")
    assert code == 0 and "more in" not in err  # nothing is missing
    assert not list(packed.rglob("*.safetensors"))
    harmed = next(store.rglob("*.safetensors"))
    harmed.write_bytes(harmed.read_bytes()[:-1])
    code, out, err = call(capsys, "compact", str(store), "--out", str(pictures / "again"))
    assert code == 0 and out.startswith("3 pictures") and "1 files are damaged or were made otherwise" in err
    assert harmed.name in err


def test_extract_keeps_the_projection_that_a_run_takes(capsys, pictures, quick):
    network, store = ["--backbone", "filterbank", "--size", "56x84"], pictures / "store"
    code, _, err = call(
        capsys, "extract", f"folder:{pictures / 'source'}", *network, "--out", str(store), "--form", "projected"
    )
    assert code == 2 and "got 256: give projected:50, or int8" in err and not store.exists()
    for name in ("source", "target"):
        words = [
            "extract",
            f"folder:{pictures / name}",
            *network,
            "--out",
            str(store),
            "--form",
            "projected:8",
            "--json",
        ]
        code, out, _ = call(capsys, *words)
        assert code == 0 and json.loads(out)["dim"] == 8
    assert len(list(store.glob("projection-8-*.safetensors"))) == 1


def test_extract_in_a_shell_of_another_launch_makes_everything_and_says_so(capsys, pictures, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    words = ["extract", f"folder:{pictures / 'target'}", "--backbone", "filterbank", "--size", "56x84"]
    words += ["--out", str(pictures / "store")]
    code, out, _ = call(capsys, *words)
    assert code == 0 and out.startswith("2 pictures in ")
    assert len(list((pictures / "store").rglob("*.safetensors"))) == 2
    code, out, _ = call(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["made"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--source", "folder:nowhere", "--target", "folder:nowhere", "--out", "RUN"], "nowhere"),
        (["run", "--source", "folder:a", "--target", "folder:b", "--out", "RUN", "--preset", "quick"], "paper-small"),
        (["run", "--source", "folder:a", "--out", "RUN"], "target"),
        (["run", "--sauce", "folder:a"], "--sauce"),
        (["predict", "nowhere", "x.png", "--out", "RUN"], "nowhere"),
        (["predict", "nowhere", "--out", "RUN"], "IMAGES"),
        (["evaluate", "nowhere", "folder:x"], "nowhere"),
        (["extract", "folder:nowhere", "--out", "RUN"], "nowhere"),
        (["extract", "scenes:game", "--backbone", "filterbonk", "--out", "RUN"], "filterbank"),
        (["extract", "scenes:game", "--backbone", "filterbank", "--precision", "bf16", "--out", "RUN"], "float32 al"),
        (["extract", "scenes:game", "--backbone", "filterbank", "--device", "abacus", "--out", "RUN"], "auto, cpu or"),
        (["predict", "nowhere", "x.png", "--device", "abacus", "--out", "RUN"], "abacus"),
        (["predict", "nowhere", "x.png", "--workers", "0", "--out", "RUN"], "--workers of at least 1; got 0"),
        (["extract", "scenes:game", "--backbone", "filterbank", "--form", "int4", "--out", "RUN"], "half, int8, pro"),
        (["run", "--source", "a:b", "--target", "c:d", "--store-form", "tiny", "--out", "RUN"], "half, int8, pro"),
        (["compact", "nowhere", "--out", "RUN"], "nowhere"),
        (["demo", "--seed", "x", "--out", "RUN"], "seed"),
        (["demmo"], "demmo"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_code_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert said.lower() in err.lower()
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there(capsys, pictures):
    code, _, err = call(
        capsys, "run", "--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}",
        "--out", str(pictures / "run"), "--device", "cuda:77",
    )  # fmt: skip
    assert code == 2 and "cuda:77" in err


@pytest.mark.parametrize("command", ["run", "extract"])
def test_a_place_that_cannot_be_used_is_told_in_plain_words(capsys, pictures, command):
    spec = f"folder:{pictures / 'source'}"
    specs = ("--source", spec, "--target", spec) if command == "run" else (spec,)
    file = pictures / "source" / "classes.txt"
    for out in (file, file / "deep"):
        code, _, err = call(capsys, command, *specs, "--backbone", "filterbank", "--out", str(out))
        assert code == 2 and "is a file: choose another --out" in err and "Errno" not in err


def test_errors_of_the_system_come_without_numbers(capsys, pictures, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(pictures / "run" / "a.npz.tmp-77-host"))

    monkeypatch.setattr("saot.label.run.open_inputs", full)
    spec = f"folder:{pictures / 'source'}"
    code, _, err = call(capsys, "run", "--source", spec, "--target", spec, "--out", str(pictures / "run"))
    place = pictures / "run" / "a.npz"
    assert code == 2 and err == f"saot: {place} lies on a disk that can only be read: choose another place\n"


def test_weights_that_are_cut_off_are_told_without_inner_words(capsys, tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    (tmp_path / "junk.pt").write_bytes(b"no weights at all")
    for name in ("cut.pt", "junk.pt"):
        code, _, err = call(
            capsys, "extract", "scenes:game:train,count=1", "--backbone", "mobile-sam",
            "--weights", str(tmp_path / name), "--out", str(tmp_path / "store"),
        )  # fmt: skip
        assert code == 2 and f"{name} cannot be read as plain weights (it is cut off, damaged or no such file)" in err
    assert not (tmp_path / "store").exists()


def test_warnings_come_without_the_line_of_the_program(capsys, monkeypatch, pictures):
    def warn(*_: object, **__: object) -> None:
        warnings.warn("the plan did not converge", stacklevel=1)
        warnings.warn("inner", DeprecationWarning, stacklevel=1)
        raise ValueError("expected another picture")

    monkeypatch.setattr("saot.label.evaluate_run", warn)
    code, _, err = call(capsys, "evaluate", "run", "folder:x")
    assert code == 2 and err == "note: the plan did not converge\nsaot: expected another picture\n"


def test_notes_are_told_as_they_are_a_line_each(capsys, monkeypatch):
    notes = [
        "2 of the pictures in folder:/d/[old] have masks of another size and were left out, [/new] among them",
        "b",
    ]
    run = {"notes": notes, "estimate": {"miou": None, "why": "no point is declared"}, "compare": "none"}
    outcome = SimpleNamespace(run=run, metrics={"images": 0})
    monkeypatch.setattr("saot.api.run_settings", lambda *_: outcome)
    code, _, err = call(capsys, "demo")
    assert code == 0 and err == f"note: {notes[0]}\nnote: b\n"


def test_warnings_are_told_as_notes_are(capsys, monkeypatch):
    sentence = (
        "Balanced OT of folder:train: [old] met its marginals at no picture (or did not reach it in its iterations)"
    )

    def warn(*_: object, **__: object) -> None:
        warnings.warn(sentence, stacklevel=1)
        raise ValueError("expected another picture")

    monkeypatch.setattr("saot.label.evaluate_run", warn)
    _, _, err = call(capsys, "evaluate", "run", "folder:x")
    assert err.splitlines()[0] == f"note: {sentence}"


def test_version_says_what_a_report_of_a_fault_needs(capsys):
    code, out, err = call(capsys, "--version")
    assert code == 0 and err == ""
    assert re.fullmatch(
        rf"saot \S+ .*Python {platform.python_version()}, torch {re.escape(torch.__version__)}, device \w+ \(.+\)\n",
        out,
    )
    code, out, _ = call(capsys, "--version", "--json")
    assert code == 0 and {"saot", "commit", "python", "torch", "device", "device_name"} == set(json.loads(out))


def test_version_of_a_torch_that_cannot_be_loaded(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, _ = call(capsys, "--version")
    assert code == 0 and "device None (" in out and "torch" in out.split("device None")[1]


COMPLETE = """
source /dev/stdin
COMP_WORDS=({words}) COMP_CWORD={last}
_saot
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [("saot ext", "extract"), ("saot extract scenes:game --back", "--backbone"), ("saot run --compare po", "points")],
)
def test_bash_completes_commands_options_and_choices(capsys, words, found):
    code, script, _ = call(capsys, "completion", "bash")
    assert code == 0
    asked = COMPLETE.format(words=words, last=len(words.split()) - 1)
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash here")
    answer = subprocess.run([bash, "-c", asked], input=script, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [found]


def test_a_reader_that_has_enough_ends_it_without_a_word():
    command = [sys.executable, "-m", "saot.cli", "completion", "bash"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_of_their_own(capsys, shell):
    code, out, _ = call(capsys, "completion", shell, "--json")
    assert code == 0 and json.loads(out)["shell"] == shell and "extract" in json.loads(out)["script"]


def test_importing_saot_stays_light():
    code = (
        "import saot, sys; print([m for m in ('PIL', 'transformers', 'matplotlib', 'safetensors') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import saot

    for name in saot.__all__:
        assert getattr(saot, name).__name__.removeprefix("saot.") == name  # a room can be called: saot.label
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = saot.nonsense


def test_a_refusal_stays_short_whatever_word_of_the_users_it_names(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("x" * 1_000_000)
    code, _, err = call(capsys, "extract", "camvid:.:list.txt", "--backbone", "filterbank", "--out", "store")
    assert code == 2 and err.startswith("saot: ") and " ... " in err and len(err) < 4000
