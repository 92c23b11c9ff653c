"""Sound inputs of every kind, small, made by saot's own commands and by the libraries that write such files; copies."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
OF_PLACE = re.compile("-[0-9a-f]{8}/")  # a store's folder is named after the place of its pictures, too
SMALL = [
    "--backbone", "filterbank", "--size", "28x56", "--compare", "none", "--device", "cpu",
    *(word for setting in (
        "transport.k=8", "transport.cover=1", "cost.steps=4", "decoder.hidden=8", "decoder.blocks=1", "decoder.steps=6",
        "decoder.batch=32", "decoder.rounds=1", "taught.teachers=1", "taught.rounds=1", "taught.steps=6",
        "refine.steps=4", "refine.batch=32", "refine.regenerate=2",
    ) for word in ("--set", setting)),
]  # fmt: skip
RUN = ["run", "--source", "folder:src", "--target", "folder:tgt", "--eval", "folder:evl", *SMALL]
LONG = ["--set", "decoder.steps=120", "--set", "taught.steps=120"]  # past a checkpoint, every 100 steps
ADAPT = [
    "adapt", "--source", "folder:src", "--target", "folder:tgt", "--eval", "folder:evl", "--preset", "small",
        "--encoder",
    "mit-b0", "--weights", "mit", "--steps", "6", "--crop", "32x32", "--set", "network.channels=8",
    "--checkpoint-every", "2", "--workers", "1", "--device", "cpu",
]  # fmt: skip


def environment() -> dict[str, str]:
    """What commands run under: one thread, no network, no progress bars."""
    return {
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SAOT_PROGRESS": "0", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))),
    }  # fmt: skip


def saot(*words: str, folder: Path) -> None:
    """Run a command that has to succeed."""
    command = [sys.executable, "-m", "saot.cli", *words]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"saot {' '.join(words)} failed on sound inputs:\n{done.stderr}")


def make_set(root: Path, seed: int, pictures: int = 2, height: int = 56, width: int = 112) -> None:
    """A `folder:` set, blue above and red below."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("sky\nroof\n")
    (root / "some.txt").write_text("".join(f"{number}.png\n" for number in range(pictures)))
    for number in range(pictures):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 3 + 3 * (number % 4) :] = 1
        colours = np.where(mask[..., None] == 1, (200, 60, 40), (30, 90, 200))
        pixels = (colours + rng.integers(-20, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")


def make_lists(root: Path) -> None:
    """A CamVid of two pictures and a VOC of one, and scribbles."""
    from PIL import Image

    for number in range(2):
        for part in ("cam/pictures", "cam/labels", "voc/JPEGImages", "voc/SegmentationClass", "strokes"):
            (root / part).mkdir(parents=True, exist_ok=True)
        with Image.open(root / "src" / "images" / f"{number}.png") as picture:
            picture.save(root / "cam" / "pictures" / f"{number}.png")
            picture.save(root / "voc" / "JPEGImages" / f"{number}.jpg")
        with Image.open(root / "src" / "masks" / f"{number}.png") as mask:
            mask.save(root / "cam" / "labels" / f"{number}.png")
            mask.save(root / "voc" / "SegmentationClass" / f"{number}.png")
            strokes = np.full((56, 112), 255, np.uint8)
            strokes[5, 10:40], strokes[45, 10:40] = 0, 1
            Image.fromarray(strokes).save(root / "strokes" / f"{number}.png")
    (root / "cam" / "list.txt").write_text("".join(f"pictures/{n}.png labels/{n}.png\n" for n in range(2)))
    lists = root / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n")


def make_points(root: Path) -> None:
    """What a person clicked on the target, and key points of a picture."""
    with (root / "clicks.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "x", "y", "class"))
        for number in range(2):
            for x in (5, 30, 70, 100):
                table.writerows(((f"{number}.png", x, 4, "sky"), (f"{number}.png", x, 50, "roof")))
    (root / "keys.csv").write_text("x,y,name\n20,10,a\n60,40,b\n")


def make_weights(root: Path) -> None:
    """MobileSAM's names and shapes, a tiny DINOv2, a tiny SegFormer: with random numbers."""
    import torch

    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.adapt import save_segformer
    from helpers.mobile_sam import published_state

    torch.save(
        {name: value.half() if value.ndim else value for name, value in published_state().items()}, root / "sam.pt"
    )
    save_segformer(root / "mit")
    import transformers

    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=6, patch_size=14, image_size=28
    )
    transformers.Dinov2Model(config).save_pretrained(root / "vit")


def make_matching(root: Path) -> None:
    """An adapter for the filter bank's features, and features that come as files."""
    import torch
    from safetensors.torch import save_file

    from saot.features import load_backbone
    from saot.match import Adapter, save_adapter

    torch.manual_seed(0)
    network = load_backbone("filterbank", size=(28, 56))
    save_adapter(root / "adapter-1.safetensors", Adapter((network.dim,), out=8).eval(), network.key)
    rng = np.random.default_rng(0)
    for name in "ab":
        features = rng.normal(size=(4, 8, 6))
        with (root / f"{name}.npz").open("wb") as file:
            np.savez(file, features=features)
        save_file({"features": torch.from_numpy(features).float()}, root / f"{name}.safetensors")


def make_pairs(root: Path) -> None:
    """SPair-71k and TSS of one pair each."""
    from PIL import Image

    key, names = "000007-2008_000001-2008_000002:cat", ("2008_000001", "2008_000002")
    spair = root / "spair"
    points = [[14, 15], [58, 15], [46, 35]]
    for number, name in enumerate(names):
        kps = {str(n): dict(zip((2, 3, 9), points, strict=True)).get(n) for n in range(30)}
        _write(spair / "ImageAnnotation" / "cat" / f"{name}.json", json.dumps({"kps": kps}))
        (spair / "JPEGImages" / "cat").mkdir(parents=True, exist_ok=True)
        with Image.open(root / "src" / "images" / f"{number}.png") as picture:
            picture.save(spair / "JPEGImages" / "cat" / f"{name}.jpg")
    side = {"imsize": [112, 56, 3], "bndbox": [2, 3, 100, 50], "kps": points}
    pair = {f"{role}_{name}": value for role in ("src", "trg") for name, value in side.items()}
    pair |= {f"{role}_imname": f"{name}.jpg" for role, name in zip(("src", "trg"), names, strict=True)}
    pair |= {"kps_ids": ["2", "3", "9"], "category": "cat", "pair_id": 7}
    pair |= dict.fromkeys(("mirror", "viewpoint_variation", "scale_variation", "truncation", "occlusion"), 0)
    _write(spair / "PairAnnotation" / "test" / f"{key}.json", json.dumps(pair))
    _write(spair / "Layout" / "large" / "test.txt", f"{key}\n")
    folder = root / "tss" / "JODS" / "one"
    folder.mkdir(parents=True)
    for number in (1, 2):
        with Image.open(root / "src" / "images" / f"{number - 1}.png") as picture:
            picture.save(folder / f"image{number}.png")
        with Image.open(root / "src" / "masks" / f"{number - 1}.png") as mask:
            mask.point(lambda value: 255 * value).save(folder / f"mask{number}.png")
        head = np.array([202021.25], "<f4").tobytes() + np.array([112, 56], "<i4").tobytes()
        (folder / f"flow{number}.flo").write_bytes(head + np.ones((56, 112, 2), "<f4").tobytes())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


STOP = """
import sys
from saot.runs.training import Checkpoint
keep = Checkpoint.keep
def stopping(self, *rest):
    keep(self, *rest)
    raise KeyboardInterrupt
Checkpoint.keep = stopping
from saot.cli import main
main(sys.argv[1:])
"""


def stop_at_a_checkpoint(*words: str, folder: Path) -> None:
    """Run a command up to its first checkpoint."""
    command = [sys.executable, "-c", STOP, *words]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment(), capture_output=True, text=True)
    if done.returncode != 130:
        raise SystemExit(f"saot {' '.join(words)} did not stop at a checkpoint:\n{done.stderr}")


def make_exports(root: Path) -> None:
    """What annotation tools give back: our own predictions, as annotations where the tool tells them apart."""
    formats = "cvat,cvat-mask,label-studio,coco,labelme,fiftyone,yolo"
    saot("predict", "run", "src/images", "--out", "exports", "--format", formats, "--device", "cpu", folder=root)
    saot("predict", "run", "many/images", "--out", "corrected", "--format", "cvat", "--device", "cpu", folder=root)
    path = root / "exports" / "annotations" / "label-studio.json"
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    path.write_text(json.dumps(tasks))


def allow_abstention(path: Path) -> None:
    """Put a threshold into a calibration that has too few points for one."""
    record = json.loads(path.read_text())
    record["methods"]["saot_decoder"]["abstain"]["0.1"]["threshold"] = 0.5
    path.write_text(json.dumps(record))


def make_inputs(root: Path) -> None:
    """All of them, in a folder; nothing is done where they are complete and of this code, which runs hang on."""
    complete = root / "complete"
    if complete.exists() and complete.read_text() == code():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for seed, name in enumerate(("src", "tgt", "evl")):
        make_set(root / name, seed)
    make_set(root / "many", 3, pictures=40)
    make_lists(root)
    make_points(root)
    make_weights(root)
    make_matching(root)
    make_pairs(root)
    saot(*RUN, "--points", "clicks.csv", "--out", "run", folder=root)
    allow_abstention(root / "run" / "calibration.json")
    make_exports(root)
    saot("extract", "folder:src", "--backbone", "filterbank", "--size", "28x56", "--out", "store", folder=root)
    stop_at_a_checkpoint(*RUN, *LONG, "--points", "4", "--out", "stopped", folder=root)
    saot(*ADAPT, "--out", "adapted", folder=root)
    stop_at_a_checkpoint(*ADAPT, "--out", "adapting", folder=root)
    with (root / "mine.toml").open("w") as file:
        command = [sys.executable, "-m", "saot.cli", *RUN, "--points", "4", "--out", "again", "--print-config"]
        subprocess.run(command, cwd=root, env=os.environ | environment(), stdout=file, check=True)
    complete.write_text(code())


def code() -> str:
    """A name for the code under test."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "src" / "saot").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def prepare(base: Path, needs: tuple[str, ...], folder: Path, clear: tuple[str, ...] = ()) -> None:
    """A new folder with copies of sound inputs, of which some files are removed.

    What hangs on a place moves along: a store's folder is named after the place of its pictures, and what is remembered
    of files stands under their places and times.
    """
    from saot.label import store_folder

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = {str(base): str(folder)}
    for name in needs:
        if (base / name).is_dir():
            shutil.copytree(base / name, folder / name)
        else:
            shutil.copy2(base / name, folder / name)
    for old in sorted(folder.glob("**/folder-*-????????")):
        new = store_folder(old.parent, f"folder:{folder / old.name.split('-')[1]}")
        names[old.name] = new.name
        old.rename(new)
    for path in folder.glob("**/fingerprints.jsonl"):
        path.write_text("".join(_remembered(line, names, folder) for line in path.read_text().splitlines()))
    for one in clear:
        (folder / one).unlink()


def _remembered(line: str, names: dict[str, str], folder: Path) -> str:
    """A line about a file, as it is about the copy; nothing if that is not there."""
    for old, new in names.items():
        line = line.replace(old, new)
    name, *_, said, _ = json.loads(line)
    path = Path(name.partition("#")[0])
    if not path.is_relative_to(folder) or not path.exists():
        return ""
    state = path.stat()
    about = [name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, said]
    return json.dumps([*about, zlib.crc32(json.dumps(about).encode())]) + "\n"


def digest(folder: Path, globs: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of all these files, by names that do not hang on the place."""
    found = sorted({path for glob in globs for path in folder.glob(glob) if path.is_file()})
    named = ((path.relative_to(folder).as_posix(), path) for path in found)
    return {OF_PLACE.sub("/", name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named}


def differing(found: dict[str, str], known: dict[str, str]) -> list[str]:
    """Names of the files that are other ones, missing or more."""
    return [name for name in sorted({*found, *known}) if found.get(name) != known.get(name)]


def lines(path: Path) -> Iterator[dict]:
    """The whole lines of a record."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue
