"""A thousand spoilt inputs, each given to the command that reads it: no traceback, no hang, no code run.

    python benchmarks/reliability/mutations.py --out runs/mutations --count 1000 --seed 0

Sound inputs of every kind are made once (`inputs.py`). Case number n takes the kinds in turn, copies what its command
needs, and spoils one file in one way; the draw hangs on the seed and n alone. A command must end by itself within 10
seconds of processor time and 2 GiB, without a traceback, without running what stands in a file, and with a right exit
code: 0, or 2 and one sentence (`predict` may also end with 1: some pictures failed). A file that is certainly broken
must not be taken for sound. Where a command goes on from files of its own, it must refuse them or end with the bytes of
an undisturbed run. What is done is kept in OUT/cases-SEED.jsonl (cases-SEED-ONLY.jsonl with --only), and the same
command goes on there.

A new reader joins by a line in `SUBJECTS`.
"""

import argparse
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from child import MEMORY, Children, Outcome, load_libraries
from inputs import ADAPT, LONG, RUN, code, differing, digest, environment, lines, make_inputs, prepare
from spoil import BYTES, JSON, NPZ, SAFETENSORS, TEXT, TORCH, WRONG_PLACE, Spoil
from spoil_pictures import PICTURE

FILE = (*WRONG_PLACE, *BYTES)
MATCH = ["match", "src/images/0.png", "src/images/1.png", "--size", "28x56", "--out", "out", "--device", "cpu"]
EXTRACT = ["--size", "28x56", "--out", "out", "--device", "cpu"]
PREDICT = ["predict", "run", "src/images", "--out", "out", "--format", "png,color,coco", "--device", "cpu"]
FOLDERS = {"labelme": "labelme", "fiftyone": "fiftyone", "yolo": "yolo"}
EXPORTS = {"cvat": "cvat.xml", "cvat-mask": "cvat-mask.zip", "label-studio": "label-studio.json",
           "coco": "instances_default.json", **FOLDERS}  # fmt: skip
WORK = ("run/work/**/*.safetensors", "run/work/**/*.json", "run/work/**/*.jsonl")


@dataclass(frozen=True)
class Subject:
    """A kind of input, and the command that reads it.

    Attributes:
        name: As the table calls it.
        spoilt: Globs of the files of which one is spoilt.
        needs: What is copied for the command: names of sound inputs.
        command: The command line; its working directory holds the copies.
        spoils: Ways to spoil.
        own: Files of saot's own, from which the command goes on: it may refuse them, or what it makes has the bytes of
            an undisturbed run.
        made: Globs of what the command makes, for `own`.
        heals: Whether it has to go on.
        partly: Whether it may end with 1, with a part done.
        clear: Files removed first.
        spare: Whether the file may be absent or broken: nothing hangs on it.
    """

    name: str
    spoilt: tuple[str, ...]
    needs: tuple[str, ...]
    command: list[str]
    spoils: tuple[Spoil, ...]
    own: bool = False
    made: tuple[str, ...] = ()
    heals: bool = False
    partly: bool = False
    clear: tuple[str, ...] = ()
    spare: bool = False


def _set(name: str) -> tuple[str, ...]:
    return (f"{name}/images/0.png", f"{name}/images/1.png")


def _masks(name: str) -> tuple[str, ...]:
    return (f"{name}/masks/0.png", f"{name}/masks/1.png")


def _export(kind: str, spoilt: str, spoils: tuple[Spoil, ...], *more: str) -> Subject:
    """A tool's export, imported."""
    words = ["import", f"exports/annotations/{EXPORTS[kind]}", "--from", kind, "--images", "src/images", "--out", "out"]
    name = f"export, {kind}" + (f", {Path(spoilt).name}" if kind in FOLDERS else "")
    place = (f"exports/annotations/{spoilt}",)
    return Subject(name, place, ("src", "exports"), [*words, "--accept", *more], (*spoils, *FILE))


SETS = ("src", "tgt", "evl")
AGAIN = [*RUN, "--points", "clicks.csv", "--out", "run"]
SUBJECTS = (
    Subject("picture, predict", _set("src"), ("src", "run"), PREDICT, (*PICTURE, *FILE), partly=True),
    Subject("picture, predict by a trained encoder", _set("src"), ("src", "adapted"),
            ["predict", "adapted", "src/images", "--out", "out", "--device", "cpu"], (*PICTURE, *FILE), partly=True),
    _export("cvat", "cvat.xml", TEXT),
    _export("cvat-mask", "cvat-mask.zip", ()),
    _export("label-studio", "label-studio.json", JSON),
    _export("coco", "instances_default.json", JSON),
    _export("labelme", "labelme/0.json", JSON),
    _export("fiftyone", "fiftyone/mask_targets.json", JSON),
    _export("fiftyone", "fiftyone/labels/0.png", PICTURE),
    _export("yolo", "yolo/data.yaml", TEXT),
    _export("yolo", "yolo/masks/0.png", PICTURE),
    Subject("export, cvat, beside what was predicted", ("exports/.masks/0.png",), ("src", "exports"),
            ["import", "exports/annotations/cvat.xml", "--from", "cvat", "--images", "src/images", "--out", "out",
             "--before", "exports"], (*PICTURE, *FILE)),
    Subject("picture, extract", _set("src"), ("src",), ["extract", "folder:src", "--backbone", "filterbank", *EXTRACT],
            (*PICTURE, *FILE)),
    Subject("picture, match", _set("src"), ("src",), MATCH, (*PICTURE, *FILE)),
    Subject("mask, evaluate", _masks("evl"), ("evl", "run"), ["evaluate", "run", "folder:evl", "--device", "cpu"],
            (*PICTURE, *FILE)),
    Subject("mask, run", (*_masks("src"), *_masks("evl")), SETS + ("clicks.csv",), [*RUN, "--points", "clicks.csv",
            "--out", "out"], (*PICTURE, *FILE)),
    Subject("mask of a CamVid", ("cam/labels/0.png",), ("cam",), [*RUN[:1], "--source", "camvid:cam:list.txt",
        "--target",
            "camvid:cam:list.txt", *RUN[7:], "--points", "4", "--out", "out"], (*PICTURE, *FILE)),
    Subject("mask carried by match", ("src/masks/0.png",), ("src",), [*MATCH, "--labels", "src/masks/0.png"],
            (*PICTURE, *FILE)),
    Subject("object mask of match", ("src/masks/0.png",), ("src",), [*MATCH, "--masks", "src/masks/0.png,-"],
            (*PICTURE, *FILE)),
    Subject("scribble", ("strokes/0.png",), (*SETS, "strokes"), [*RUN, "--points", "strokes", "--out", "out"],
            (*PICTURE, *FILE)),
    Subject("class names", ("src/classes.txt", "evl/classes.txt"), (*SETS, "clicks.csv"),
            [*RUN, "--points", "clicks.csv", "--out", "out"], (*TEXT, *FILE), spare=True),
    Subject("list of a folder", ("src/some.txt",), ("src",),
            ["extract", "folder:src:some.txt", "--backbone", "filterbank", *EXTRACT], (*TEXT, *FILE)),
    Subject("list of a CamVid", ("cam/list.txt",), ("cam",),
            ["extract", "camvid:cam:list.txt", "--backbone", "filterbank", *EXTRACT], (*TEXT, *FILE)),
    Subject("list of a VOC", ("voc/ImageSets/Segmentation/train.txt",), ("voc",),
            ["extract", "voc:voc:train", "--backbone", "filterbank", *EXTRACT], (*TEXT, *FILE)),
    Subject("points, run", ("clicks.csv",), (*SETS, "clicks.csv"), [*RUN, "--points", "clicks.csv", "--out", "out"],
            (*TEXT, *FILE)),
    Subject("key points, match", ("keys.csv",), ("src", "keys.csv"), [*MATCH, "--points", "keys.csv"], (*TEXT, *FILE)),
    Subject("weights, .pt", ("sam.pt",), ("src", "sam.pt"),
            ["extract", "folder:src", "--backbone", "mobile-sam", "--weights", "sam.pt", "--size", "64", "--out", "out",
             "--device", "cpu"], (*TORCH, *FILE)),
    Subject("weights, a ViT's folder", ("vit/model.safetensors",), ("src", "vit"),
            ["extract", "folder:src", "--backbone", "dinov2-small", "--weights", "vit", *EXTRACT],
            (*SAFETENSORS, *FILE)),
    Subject("configuration of a ViT", ("vit/config.json",), ("src", "vit"),
            ["extract", "folder:src", "--backbone", "dinov2-small", "--weights", "vit", *EXTRACT], (*JSON, *FILE)),
    Subject("weights of an encoder", ("mit/model.safetensors",), (*SETS, "mit"), [*ADAPT, "--out", "out"],
            (*SAFETENSORS, *FILE)),
    Subject("configuration of an encoder", ("mit/config.json",), (*SETS, "mit"), [*ADAPT, "--out", "out"],
            (*JSON, *FILE)),
    Subject("features as files, .npz", ("a.npz",), ("src", "a.npz", "b.npz"), [*MATCH, "--features", "a.npz,b.npz"],
            (*NPZ, *FILE)),
    Subject("features as files, safetensors", ("a.safetensors",), ("src", "a.safetensors", "b.safetensors"),
            [*MATCH, "--features", "a.safetensors,b.safetensors"], (*SAFETENSORS, *FILE)),
    Subject("adapter of match", ("adapter-1.safetensors",), ("src", "adapter-1.safetensors"),
            [*MATCH, "--adapter", "adapter-1.safetensors"], (*SAFETENSORS, *FILE), own=True,
            made=("out/matches.json",)),
    Subject("features in a store", ("store/*/*.safetensors",), ("src", "store"),
            ["extract", "folder:src", "--backbone", "filterbank", "--size", "28x56", "--out", "store", "--device",
            "cpu"],
            (*SAFETENSORS, *FILE), own=True, made=("store/*/*.safetensors",), heals=True),
    Subject("features in a store, run", ("store/*/*.safetensors",), (*SETS, "clicks.csv", "store"),
            [*RUN, "--points", "clicks.csv", "--store", "store", "--out", "out"], (*SAFETENSORS, *FILE), own=True,
            made=("store/*/*.safetensors", "out/metrics.json", "out/decoder.safetensors"), heals=True),
    Subject("store.json", ("store/*/store.json",), ("src", "store"),
            ["extract", "folder:src", "--backbone", "filterbank", "--size", "28x56", "--out", "store", "--device",
            "cpu"],
            (*JSON, *FILE), own=True, made=("store/*/*.safetensors",)),
    Subject("what is remembered of files", ("store/fingerprints.jsonl",), ("src", "store"),
            ["extract", "folder:src", "--backbone", "filterbank", "--size", "28x56", "--out", "store", "--device",
            "cpu"],
            (*TEXT, *FILE), own=True, made=("store/*/*.safetensors",)),
    Subject("network of a run", ("run/decoder.safetensors",), ("src", "run"), PREDICT, (*SAFETENSORS, *FILE), own=True,
            made=("out/*.png", "out/annotations/instances_default.json"), partly=True),
    Subject("run.json, predict", ("run/run.json",), ("src", "run"), PREDICT, (*JSON, *FILE), partly=True),
    Subject("calibration.json", ("run/calibration.json",), ("src", "run"), [*PREDICT, "--abstain", "0.1"],
            (*JSON, *FILE), partly=True, spare=True),
    Subject("a finished run, again", ("run/run.json", "run/metrics.json", "run/report.html", "run/points.csv",
            "run/log.jsonl", "run/work/settings.json", "run/work/data.json"), (*SETS, "clicks.csv", "run"), AGAIN,
            (*JSON[2:], *FILE), spare=True),
    Subject("a run without its end, again", WORK, (*SETS, "clicks.csv", "run"), AGAIN, (*SAFETENSORS[5:], *JSON[2:],
            *FILE), own=True, made=("run/metrics.json", "run/decoder.safetensors"), clear=("run/run.json",)),
    Subject("settings and facts of a run, again", WORK[1:2], (*SETS, "clicks.csv", "run"), AGAIN, JSON, own=True,
            made=("run/metrics.json", "run/decoder.safetensors"), clear=("run/run.json",)),
    Subject("checkpoint of a run", ("stopped/work/checkpoints/*.pt",), (*SETS, "stopped"),
            [*RUN, *LONG, "--points", "4", "--out", "stopped"], (*TORCH, *FILE), own=True,
            made=("stopped/metrics.json", "stopped/decoder.safetensors"), heals=True),
    Subject("records of a checkpoint", ("stopped/work/checkpoints/*.records",), (*SETS, "stopped"),
            [*RUN, *LONG, "--points", "4", "--out", "stopped"], (*TEXT, *FILE), own=True,
            made=("stopped/metrics.json", "stopped/decoder.safetensors"), heals=True),
    Subject("checkpoint of adapt", ("adapting/work/checkpoints/*.pt",), (*SETS, "mit", "adapting"),
            [*ADAPT, "--out", "adapting"], (*TORCH, *FILE), own=True, made=("adapting/metrics.json",), heals=True),
    Subject("facts of adapt", ("adapting/work/**/*.json", "adapting/work/*.safetensors"), (*SETS, "mit", "adapting"),
            [*ADAPT, "--out", "adapting"], (*JSON[2:], *FILE), own=True, made=("adapting/metrics.json",)),
    Subject("network of adapt", ("adapted/network.safetensors", "adapted/encoder.safetensors"), ("src", "adapted"),
            ["predict", "adapted", "src/images", "--out", "out", "--device", "cpu"], (*SAFETENSORS, *FILE), own=True,
            made=("out/*.png",), partly=True),
    Subject("encoder of adapt as backbone", ("adapted/encoder.safetensors",), ("src", "adapted"),
            ["extract", "folder:src", "--backbone", "adapted", "--weights", "adapted", "--size", "32x64", "--out",
            "out"],
            (*SAFETENSORS[5:], *FILE)),
    Subject("--config", ("mine.toml",), (*SETS, "mine.toml"), ["run", "--config", "mine.toml", "--print-config"],
            (*TEXT, *FILE)),
    Subject("annotations of SPair-71k", ("spair/*Annotation/*/*.json",), ("spair",),
            ["reproduce", "gwot-cost", "--source", "spair:spair:test", "--size", "28x56", "--out", "out"],
            (*JSON, *FILE)),
    Subject("pictures and lists of SPair-71k", ("spair/JPEGImages/*/*", "spair/Layout/large/test.txt"), ("spair",),
            ["reproduce", "gwot-cost", "--source", "spair:spair:test", "--size", "28x56", "--out", "out"], FILE,
            spare=True),
    Subject("flow and masks of TSS", ("tss/JODS/one/*",), ("tss",),
            ["reproduce", "gwot-tss", "--source", "tss:tss:JODS", "--size", "28x56", "--out", "out"], FILE),
)  # fmt: skip


# What stands on the command line itself


def _spec(draw: random.Random) -> str:
    fixed = (
        "", ":", "::", "folder", "folder:", "folder:nowhere", "folder:src/images/0.png", "folder:src:nothing.txt",
        "folder:src:../src/some.txt", "folder:src:/etc/passwd", "folder:~nobody", "folder:/", "gta5:src", "voc:src:val",
        "camvid:cam", "camvid:cam:/dev/zero", "cityscapes:src:train", "synthia:src", "warps:src", "scenes", "scenes:",
        "scenes:nothing", "scenes:game:train,count=0", "scenes:game:train,count=-1", "scenes:game:train,count=x",
        "scenes:game:train,count=1,height=0", "scenes:game:train,count=1,height=7,width=9999999999",
        "scenes:game:train,count=1,height=100000,width=100000", "scenes:game:train,count=999999999", "scenes:game:x",
        "scenes:game:train,,", "scenes:game:train,seed=1,seed=2", "folder:" + "x" * 300, "folder:" + "x/" * 5000,
        "folder:src\n", "FOLDER:src", "folder: src", "folder:src:", "folder:src::", "folder:\u202esrc",
            "$(touch x):src",
    )  # fmt: skip
    if draw.random() < 0.75:
        return draw.choice(fixed)
    text = list(draw.choice(("folder:src", "camvid:cam:list.txt", "scenes:game:train,count=1", "voc:voc:train")))
    for _ in range(draw.choice((1, 1, 3))):
        text[draw.randrange(len(text))] = draw.choice("abz:/,=.-~* \t%é0")
    return "".join(text)


WORDS = ("", "0", "-1", "nan", "inf", "1e999", "9" * 400, "x", "None", "true", "0x10", "../..", "/dev/null", "\u00e9",
    "1,2",
         "56x", "x56", "0x0", "1x1", "99999999x1", "-28x56", "28x56x3", "total:", "total:-1", "patches:",
         "resample:x", "9" * 20,
         "cuda:99", "meta", "vulkan", "cpu:0", "dinov2-small", "mobile-sam", "a/b", "filterbank+", "+", "+filterbank",
         "transport.k=0", "transport.k", "=", "transport=1", "name=x", "cost.steps=1e9",
         "transport.tau=nan")  # fmt: skip


def _option(draw: random.Random) -> list[str]:
    name = draw.choice(("--size", "--points", "--set", "--preset", "--seed", "--backbone", "--weights", "--device",
                        "--compare", "--precision", "--source-pictures", "--store", "--nothing"))  # fmt: skip
    return [f"{name}={draw.choice(WORDS)}"]


def _typed(draw: random.Random) -> tuple[list[str], str]:
    way = draw.choice(("spec", "spec", "source", "option", "pairs"))
    if way == "spec":
        spec = _spec(draw)
        return ["extract", "--backbone", "filterbank", *EXTRACT, "--", spec], f"extract {spec!r:.70}"
    if way == "source":
        spec = _spec(draw)
        words = ["run", f"--source={spec}", "--target", "folder:tgt", *RUN[7:], "--points", "0", "--out", "out"]
        return words, f"run --source {spec!r:.60}"
    if way == "pairs":
        spec = draw.choice(
            (
                _spec(draw),
                "spair:spair:x",
                "spair:spair:test,layout=none",
                "tss:tss:X",
                "ap10k:spair",
                "warps:src:tps,count=x",
                "warps:src:projective,points=-1",
                "scenes-pairs:game:val,count=-3",
            )
        )
        words = ["reproduce", "gwot-cost", f"--source={spec}", "--limit", "1", "--size", "28x56", "--out", "out"]
        return words, f"reproduce --source {spec!r:.60}"
    option = _option(draw)
    return [*RUN, "--points", "4", "--out", "out", *option], f"run {option[0]:.70}"


@dataclass(frozen=True)
class Case:
    """One spoilt input."""

    number: int
    subject: str
    spoil: str
    said: str
    breaks: bool


TYPED = "command line"


def kinds(only: str) -> list[str]:
    """Names of the subjects, those that hold a word if one is given."""
    return [name for name in (*(subject.name for subject in SUBJECTS), TYPED, TYPED) if only in name]


def set_up(number: int, seed: int, names: list[str], base: Path, folder: Path) -> tuple[Case, list[str]]:
    """The folder of a case, with its file spoilt, and the command line."""
    draw = random.Random(f"{seed} {number}")
    turn, place = divmod(number, len(names))
    name = names[place]
    if name == TYPED:
        prepare(base, ("src", "tgt", "evl", "cam", "voc", "spair", "tss"), folder)
        words, said = _typed(draw)
        return Case(number, name, "words", said, False), words
    subject = next(one for one in SUBJECTS if one.name == name)
    prepare(base, subject.needs, folder, subject.clear)
    files = sorted(path for glob in subject.spoilt for path in folder.glob(glob) if path.is_file())
    path = draw.choice(files)
    # ways in turn, from a place that hangs on the seed, so that few are left out
    ways = [one for one in subject.spoils if fits(one, path)]
    way = ways[(turn + random.Random(f"{seed} {name}").randrange(len(ways))) % len(ways)]
    sound = path.read_bytes()
    try:
        done = way.do(path, draw, canary(folder))
    except (ValueError, OSError, KeyError, RuntimeError) as error:  # not one for this file
        path.write_bytes(sound)
        way, done = BYTES[0], BYTES[0].do(path, draw, canary(folder)) + f" ({way.name}: {error})"[:60]
    said = f"{path.relative_to(folder)}: {done}"
    return Case(number, name, way.name, said, way.breaks), subject.command


def fits(way: Spoil, path: Path) -> bool:
    """Whether a way to spoil is for a file of this ending."""
    if way in JSON:
        return path.suffix == ".json"
    if way in SAFETENSORS:
        return path.suffix == ".safetensors"
    return True


def canary(folder: Path) -> Path:
    """A file that comes to be where what stands in a file is run."""
    return folder.absolute() / "canary"


def faults(case: Case, outcome: Outcome, folder: Path, sound: dict[str, dict]) -> list[str]:
    """What is wrong with how a command ended; nothing where all is right."""
    subject = next((one for one in SUBJECTS if one.name == case.subject), None)
    found = []
    if "Traceback (most recent call last)" in outcome.said:
        found.append("traceback")
    if outcome.hung:
        found.append("hang")
    if outcome.memory > MEMORY or "out of memory" in outcome.said:
        found.append("memory")
    if canary(folder).exists() or any(b"<script>canary" in path.read_bytes() for path in folder.glob("out/*.html")):
        found.append("code run")
    right = (0, 1, 2) if subject is not None and subject.partly else (0, 2)
    if outcome.code not in right and not found:
        found.append(f"exit code {outcome.code}")
    if outcome.code == 2 and not any(line.startswith("saot: ") for line in outcome.said.splitlines()):
        found.append("no sentence")
    if subject is None or found:
        return found
    if subject.own and outcome.code == 0 and differing(digest(folder, subject.made), sound[subject.name]):
        found.append("other bytes")
    spared = case.spoil == "a folder in its place"  # what is in it is not ours to remove
    if subject.heals and outcome.code != 0 and not spared:
        found.append("refused what it can make again")
    if case.breaks and outcome.code == 0 and not subject.own and not subject.spare:
        found.append("broken, and taken")
    return found


def check_sound(base: Path, out: Path, children: Children, fresh: bool, names: list[str]) -> dict[str, dict]:
    """Every command on sound inputs: what it makes, by subject.

    Raises:
        SystemExit: If one fails; then the cases would say nothing.
    """
    found: dict[str, dict] = {}
    waiting = [one for one in SUBJECTS if one.name in names]
    while waiting or children.running:
        while waiting and not children.full():
            subject = waiting.pop()
            folder = out / "sound" / subject.name.replace(" ", "-")
            prepare(base, subject.needs, folder, subject.clear)
            children.start((subject, folder), subject.command, folder, child_environment(out), fresh)
        (subject, folder), outcome = children.take()
        if outcome.code != 0:
            raise SystemExit(f"{subject.name}: code {outcome.code} on sound inputs\n{outcome.said}")
        found[subject.name] = digest(folder, subject.made)
    return found


def child_environment(out: Path) -> dict[str, str]:
    """Beside the usual: a Ghostscript that does nothing but leave a canary in the working directory."""
    tools = out.absolute() / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    if not (tools / "gs").exists():
        (tools / "gs").write_text('#!/bin/sh\ntouch "$SAOT_CANARY" ./canary\n')
        (tools / "gs").chmod(0o755)
    return environment() | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONFAULTHANDLER": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="take subjects with this word alone")
    parser.add_argument("--case", type=int, help="run this one again and keep its folder")
    parser.add_argument("--fresh", action="store_true", help="start an interpreter for each command, seconds more each")
    parser.add_argument("--again", action="store_true", help="forget what was done")
    options = parser.parse_args()
    out = options.out.absolute()
    base = out / "inputs"
    make_inputs(base)
    os.environ.update(environment())
    load_libraries()
    children = Children(options.workers)
    names = kinds(options.only)
    record = out / f"cases-{options.seed}{'-' + options.only.replace(' ', '-') if options.only else ''}.jsonl"
    if options.again:
        record.unlink(missing_ok=True)
    build = code()
    sound_file = out / f"sound-{build}.json"
    sound = json.loads(sound_file.read_text()) if sound_file.exists() else {}
    if options.again or not set(names) - {TYPED} <= set(sound):
        sound |= check_sound(base, out, children, options.fresh, names)
        sound_file.write_text(json.dumps(sound))
    done = {one["number"]: one for one in lines(record) if one["build"] == build}
    numbers = [options.case] if options.case is not None else [n for n in range(options.count) if n not in done]
    waiting = iter(numbers)
    with record.open("a") as file:
        for number, case, outcome, folder in cases(waiting, options, names, base, out, children):
            wrong = faults(case, outcome, folder, sound)
            one = {**vars(case), "build": build, "code": outcome.code, "seconds": round(outcome.seconds, 2),
            "faults": wrong,
                   "waited": round(outcome.waited, 1), "memory": outcome.memory,
                   "said": outcome.said[-3000:]}  # fmt: skip
            if options.case is None:
                file.write(json.dumps(one) + "\n")
                file.flush()
            done[number] = one
            if wrong:
                print(f"{number}: {case.subject}: {case.spoil}: {case.said}: {', '.join(wrong)}: "
                      f"{(outcome.said.strip().splitlines() or [''])[-1][:200]}", flush=True)  # fmt: skip
            if options.case is not None:
                print(case, outcome.code, wrong, f"{outcome.seconds:.1f} s, {outcome.memory >> 20} MiB", folder)
                print(outcome.said)
            elif not wrong:
                shutil.rmtree(folder, ignore_errors=True)
    if options.case is not None:
        return 0
    print_table([done[n] for n in sorted(done) if n < options.count])
    return 1 if any(one["faults"] for n, one in done.items() if n < options.count) else 0


def cases(
    numbers: Iterator[int], options: argparse.Namespace, names: list[str], base: Path, out: Path, children: Children
) -> Iterator[tuple[int, Case, Outcome, Path]]:
    """Every case, set up and run."""
    finished = False
    while not finished or children.running:
        while not finished and not children.full():
            number = next(numbers, None)
            if number is None:
                finished = True
                break
            folder = out / "cases" / str(number)
            case, words = set_up(number, options.seed, names, base, folder)
            extra = {**child_environment(out), "SAOT_CANARY": str(canary(folder))}
            children.start((number, case, folder), words, folder, extra, options.fresh)
        if children.running:
            (number, case, folder), outcome = children.take()
            yield number, case, outcome, folder


def print_table(done: list[dict]) -> None:
    """Faults by kind of input, and the mutations with how often each was drawn."""
    count: Callable[[list[dict], str], int] = lambda some, fault: sum(  # noqa: E731
        any(one.startswith(fault) for one in each["faults"]) for each in some
    )
    columns = ("traceback", "hang", "memory", "code run", "exit code")
    print(f"\n| input | cases | {' | '.join(columns)} | other | refused | taken |")
    print("| --- |" + " ---: |" * (len(columns) + 4))
    for name in [*dict.fromkeys(one["subject"] for one in done), "all"]:
        some = [one for one in done if name in (one["subject"], "all")]
        wrong = [count(some, fault) for fault in columns]
        other = sum(any(not fault.startswith(columns) for fault in one["faults"]) for one in some)
        codes = Counter(one["code"] for one in some)
        cells = [len(some), *wrong, other, codes[2] + codes[1], codes[0]]
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    drawn = Counter(one["spoil"].removesuffix(" (2)") for one in done)
    print("\n" + ", ".join(f"{name} {number}" for name, number in sorted(drawn.items())))
    most = max(done, key=lambda one: one["seconds"])
    largest = max(done, key=lambda one: one["memory"])
    print(f"\nlongest: {most['seconds']} s ({most['subject']}, {most['spoil']}); most memory: "
          f"{largest['memory'] / 2**20:.0f} MiB ({largest['subject']}, {largest['spoil']})")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
