"""Our formats against the tools' own packages, each in an environment of its own: `make test-formats`.

Random masks are written by `saot.annotate` and read by the tool; the tool writes them and `saot.annotate` reads. Ends
with 1 where a pixel differs that is not known to.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from saot.annotate import FORMATS, READERS
from saot.data import folder_class_set
from saot.report import MaskItem

HERE = Path(__file__).resolve().parent
CLASSES = folder_class_set([*(f"class {number}" for number in range(17)), "a & b", "sky <1>"])
TOOLS = {  # program, what it leaves in theirs/: format, file
    "cvat": {"cvat": "cvat.xml"},
    "coco": {"coco": "coco.json"},
    "label_studio": {"label-studio": "label-studio.json"},
    "labelme": {"labelme": "labelme"},
    "fiftyone_": {"fiftyone": "fiftyone"},
    "ultralytics_": {},
    "datumaro_": {"cvat": "datumaro.xml"},
}


def drawn(count: int, seed: int):
    """Holes, islands, lines, single pixels, one class, nothing, noise, odd sizes."""
    rng = np.random.default_rng(seed)
    yield "none.png", np.full((12, 14), 255, np.uint8)
    yield "all.png", np.full((300, 401), 3, np.uint8)
    ring = np.full((19, 11), 255, np.uint8)
    ring[2:17, 2:9], ring[8, 4] = 0, 18
    yield "ring.png", ring
    for number in range(count - 3):
        height, width = rng.integers(1, 70, 2)
        coarse = rng.choice([*range(19), 255], (-(-height // 6), -(-width // 6)))
        mask = np.kron(coarse, np.ones((6, 6), int))[:height, :width].astype(np.uint8)
        noise = rng.random(mask.shape) < rng.choice([0, 0.05, 0.5])
        yield f"sub/{number}.png", np.where(noise, rng.integers(0, 19, mask.shape), mask).astype(np.uint8)


def fill(folder: Path, masks: dict[str, np.ndarray]) -> None:
    """Pictures, truth, and what we write."""
    items = []
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    for number, (name, mask) in enumerate(masks.items()):
        place = folder / "pictures" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*mask.shape, 3), 90, np.uint8)).save(place)
        np.save(folder / "truth" / f"{number}.npy", mask)
        items.append(MaskItem(name, mask, picture=place))
    about = {"names": [*masks], "classes": [*CLASSES.names], "colors": [*CLASSES.colors]}
    (folder / "truth" / "truth.json").write_text(json.dumps(about))
    for one in FORMATS.values():
        place = folder / "ours" / one.place
        place.parent.mkdir(parents=True, exist_ok=True)
        one.write(place, items, CLASSES)


def python_of(tool: str, environments: Path) -> Path:
    """The interpreter of a tool's environment, made on first use from its pins."""
    pins, place = HERE / f"{tool.rstrip('_')}.txt", environments / tool.rstrip("_")
    python, ready = place / "bin" / "python", place / ".ready"
    if not ready.exists() or ready.read_text() != pins.read_text():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
        subprocess.run([*pip, "-r", str(pins)], check=True)
        ready.write_text(pins.read_text())
    return python


def read_back(folder: Path, kind: str, place: str, masks: dict[str, np.ndarray]) -> int:
    """How many of the tool's masks we read pixel for pixel."""
    classes = CLASSES if kind == "fiftyone" else None
    found = {one.name: one for one in READERS[kind](folder / "theirs" / place, classes)}
    stems = {name.rpartition(".")[0]: one for name, one in found.items()} | found
    count = 0
    for name, mask in masks.items():
        one = stems.get(name, stems.get(name.rpartition(".")[0]))
        if one is None or not one.regions:
            count += bool((mask == 255).all())
        else:
            count += one.size == mask.shape and bool(np.array_equal(one.mask(CLASSES), mask))
    return count


def keep(made: Path, place: Path) -> None:
    """A file or folder that a tool wrote, in place of the one before."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if made.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made, place)
    else:
        shutil.copyfile(made, place)


def main() -> None:
    """One line a tool; ends with 1 if a mask differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/formats"))
    parser.add_argument("--environments", type=Path, default=Path(".venv-formats"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--golden", type=Path, help="keep what the tools wrote here, for tests without them")
    parser.add_argument("--tools", default=",".join(TOOLS), help="some of them, with commas")
    given = parser.parse_args()
    masks, rows, wrong = dict(drawn(given.count, given.seed)), [], False
    for tool in given.tools.split(","):
        python, folder = python_of(tool, given.environments), given.out / tool.rstrip("_")
        fill(folder, masks)
        done = subprocess.run(
            [str(python), str(HERE / f"{tool}.py"), str(folder)], capture_output=True, text=True, check=False
        )
        line = next((one for one in done.stdout.splitlines() if one.startswith("ANSWER ")), None)
        if line is None:
            print(f"{tool}: {done.stderr.strip()[-2000:]}", file=sys.stderr)
            wrong = True
            continue
        found = json.loads(line.removeprefix("ANSWER "))
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        for kind, one in found["reads"].items():
            rows.append((kind, versions, one["how"], f"{one['equal']} of {one['of']}"))
            wrong |= one["equal"] < one["of"]
        for kind, place in TOOLS[tool].items():
            equal = read_back(folder, kind, place, masks)
            rows.append((kind, versions, "what it writes, read by us", f"{equal} of {len(masks)}"))
            wrong |= equal < len(masks)
            if given.golden:
                keep(folder / "theirs" / place, given.golden / place)
    if given.golden:
        np.savez_compressed(given.golden / "masks.npz", **masks)  # type: ignore[arg-type]
    lines = ["| format | package | how | equal masks |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    (given.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
