"""Options of `saot run` from a file, from the command line and from both."""

import json
import math
import subprocess
import sys
import tomllib

import pytest

from saot import cli
from saot.cli.config import KINDS, run_options
from saot.recipes import PAPER, setting_paths

GIVEN = {"source": "folder:a", "target": "folder:b"}


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", *arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("preset", ["paper", "paper-small", "best"])
def test_what_is_printed_asks_for_the_same_again(capsys, tmp_path, preset):
    words = ["transport.tau=inf", "cost.spectral_norm=false", "scores.logit_adjustment=[0, 0.5]", "refine.pseudo=soft"]
    given = ["--source", 'folder:"a"\\ü', "--target", "folder:b\x7f\t", "--out", "runs/x", "--preset", preset]
    given += ["--points", "total:20", "--source-pictures", "7", "--seed", "3", "--weights", "w.pt", "--size", "56x84"]
    given += [part for word in words for part in ("--set", word)]
    code, printed, err = call(capsys, *given, "--print-config")
    assert code == 0, err
    file = tmp_path / "mine.toml"
    file.write_text(printed)
    code, again, _ = call(capsys, "--config", str(file), "--print-config")
    assert code == 0 and again == printed
    asked = {"source": 'folder:"a"\\ü', "target": "folder:b\x7f\t", "out": "runs/x", "preset": preset}
    asked |= {"points": "total:20", "source_pictures": 7, "seed": 3, "weights": "w.pt", "size": "56x84"}
    options = run_options({}, config=file)
    assert options == run_options(asked, words)
    recipe = options.settings.recipe
    assert recipe.name == preset and recipe.transport.tau == math.inf and recipe.scores.logit_adjustment == (0, 0.5)
    tables = {name: table for name, table in tomllib.loads(printed).items() if isinstance(table, dict)}
    assert [f"{part}.{name}" for part, table in tables.items() for name in table] == list(setting_paths(PAPER))


def test_preset_paper_asks_for_what_the_paper_has(monkeypatch):
    given = {"source": "scenes:game:train,count=1200", "target": "scenes:street:train,count=30", "preset": "paper"}
    given["backbone"] = "filterbank"
    settings = run_options(given).settings
    assert (settings.points, settings.source_pictures, settings.target_pictures) == ("resample:20", 1000, None)
    assert settings.size == "504x1008"  # whole patches of 14
    mine = run_options({**given, "points": "0", "size": "56x112", "source_pictures": 3}).settings
    assert (mine.points, mine.size, mine.source_pictures) == ("0", "56x112", 3)
    other = run_options({**given, "preset": "best"}).settings
    assert (other.points, other.size, other.source_pictures) == ("0", None, None)
    missing = run_options({**given, "source": "folder:nowhere"}).settings  # the run itself says why
    assert missing.source_pictures is None and missing.points == "resample:20"


def test_the_command_line_goes_before_the_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'source = "folder:a"\ntarget = "folder:b"\npoints = 20\nseed = 5\nsource-pictures = 4\ndevice = "cuda"\n'
        '[set]\ntransport.k = 64\n"cost.steps" = 10\n[transport]\ntau = 1\n[decoder]\nmlp_widths = [1, 1]\n'
    )
    from_file = run_options({}, config=file)
    assert (from_file.settings.points, from_file.settings.seed, from_file.settings.source_pictures) == ("20", 5, 4)
    recipe = from_file.settings.recipe
    assert (recipe.transport.k, recipe.transport.tau, recipe.cost.steps) == (64, 1.0, 10)
    assert recipe.decoder.mlp_widths == (1.0, 1.0) and recipe.name == "best" and from_file.device == "cuda"
    both = run_options({"seed": 6, "target": "folder:c", "device": None}, ["transport.k=32"], file)
    assert (both.settings.seed, both.settings.target, both.settings.points) == (6, "folder:c", "20")
    assert (both.settings.recipe.transport.k, both.settings.recipe.transport.tau, both.device) == (32, 1.0, "cuda")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('sorce = "x"', "got sorce: the nearest is source"),
        ("[transport]\nepsilom = 0.1", "got transport.epsilom: the nearest is transport.epsilon"),
        ("[set]\nseed = 1", "got set.seed"),
        ("[transprot]\nk = 1", "got transprot.k: the nearest is transport.k"),
        ("transport = 3", "got transport: the nearest is transport"),
        ("seed = 1.5", "expected a whole number for seed in FILE; got 1.5"),
        ("seed = true", "expected a whole number for seed in FILE; got True"),
        ("points = 2.5", "expected a text in quotes for points in FILE; got 2.5"),
        ("[transport]\nk = 1.5", "expected a whole number of 1 or more for transport.k; got 1.5"),
        ("[decoder]\nmlp_widths = [1]", "for decoder.mlp_widths; got [1]"),
        ('preset = "quick"', "expected a preset among paper, paper-small, fast, best; got 'quick'"),
        ("seed = ", "expected TOML in FILE; Invalid value (at end of document)"),
    ],
)
def test_a_slip_in_a_file_is_one_sentence(capsys, tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    given = ["--source", "folder:a", "--target", "folder:b", "--out", str(tmp_path / "run"), "--config", str(file)]
    code, out, err = call(capsys, *given)
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert said.replace("FILE", str(file)) in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--seed", "1.5"], "expected a whole number, such as 3; got '1.5'"),
        (["--source-pictures", "20.5"], "expected a whole number, such as 3; got '20.5'"),
        (["--points", "total:2.5"], "expected points as a whole number, such as 20 or total:20; got 'total:2.5'"),
        (["--points", "-3"], "expected points as a whole number"),
        (["--size", "100.5"], "expected a size as HEIGHTxWIDTH, a long side in pixels or pad:SIDE; got '100.5'"),
        (["--set", "cost.steps=10.5"], "expected a whole number of 0 or more for cost.steps; got '10.5'"),
        (["--set", "taught.teachers=0"], "expected taught.teachers of 1 or more with decoder.architecture=fine"),
        (["--set", "name=mine"], "expected --preset"),
        (["--config", "nowhere.toml"], "expected a TOML file for --config; nowhere.toml: No such file"),
    ],
)
def test_a_slip_in_an_option_is_found_before_anything_is_read(capsys, given, said):
    code, out, err = call(capsys, "--source", "folder:a", "--target", "folder:b", *given, "--print-config")
    assert code == 2 and out == "" and said in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["source", "target", "out"])
def test_what_is_needed_may_stand_in_either_place(capsys, tmp_path, name):
    given = {"source": "folder:a", "target": "folder:b", "out": str(tmp_path / "run")}
    words = [part for key, value in given.items() if key != name for part in (f"--{key}", value)]
    code, _, err = call(capsys, *words)
    assert code == 2 and f"expected --{name}" in err and f"`{name}` in a --config file" in err


def test_every_option_is_one_a_file_may_have():
    arguments = {each.field_info.name for each in cli.app["run"].assemble_argument_collection()}
    assert arguments - set(KINDS) == {"set", "config", "print_config", "json"}
    assert run_options(GIVEN).toml().splitlines()[0] == 'source = "folder:a"'


def test_a_run_with_settings_of_its_own(tmp_path):
    """Through the front door: what is set is written down, and a run is not gone on with under other settings."""
    size = "height=64,width=128"
    file = tmp_path / "mine.toml"
    file.write_text(
        f'source = "scenes:game:train,count=2,{size}"\ntarget = "scenes:street:train,count=3,{size}"\n'
        f'out = "{tmp_path / "run"}"\nbackbone = "filterbank"\nsize = "56x112"\npreset = "paper-small"\n'
        "[cost]\nsteps = 2\ndim = 8\n[decoder]\nsteps = 2\nhidden = 8\nbatch = 16\n[refine]\nsteps = 2\nbatch = 16\n"
        "[baselines]\nbank = 200\npropagation_bank = 100\nprobe_iterations = 2\nprobe_weight_decays = [1e-3]\n"
    )
    words = [sys.executable, "-m", "saot.cli", "run", "--config", str(file), "--target-pictures", "2"]
    done = subprocess.run([*words, "--set", "transport.tau=inf", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settings"]["recipe"]["transport"]["tau"] == "inf" and run["settings"]["target_pictures"] == 2
    other = subprocess.run(words, capture_output=True, text=True, check=False)
    assert other.returncode == 2 and "recipe.transport.tau is 0.3 now but was 'inf'" in other.stderr
