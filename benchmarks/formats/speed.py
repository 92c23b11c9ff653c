"""Seconds and memory a picture to write masks in the tools' formats, beside the tools' own encoders.

    python benchmarks/formats/speed.py --count 200 --size 1024x2048

Masks are those of the built-in scenes, enlarged as predictions are. Each writer is a process of its own, and so is each
tool's encoder, in the tool's environment; every one loads a mask, encodes each class and writes a file of JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OURS = ("coco", "cvat", "label-studio")
PEERS = {"coco": "coco", "label-studio": "label_studio"}


def main() -> None:
    """A Markdown table, one line a format."""
    given = _options()
    if given.one:
        write_all(given.one, given.out, given.count)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    draw(given.out, given.count, tuple(map(int, given.size.split("x"))))
    print("| format | ours, s a picture | peak, MiB | the tool's, s a picture | peak, MiB | tool / ours |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in OURS:
        mine = call([sys.executable, __file__, "--one", name], given.out, given.count)
        cells = [name, f"{mine['seconds']:.3f}", f"{mine['memory']:.0f}", "", "", ""]
        if name in PEERS:
            from check import python_of

            python = python_of(PEERS[name], given.environments)
            peer = call([str(python), str(HERE / "speed_peer.py"), PEERS[name]], given.out, given.peers)
            cells[3:] = [f"{peer['seconds']:.3f}", f"{peer['memory']:.0f}", f"{peer['seconds'] / mine['seconds']:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def call(command: list[str], out: Path, count: int) -> dict[str, float]:
    """What a process prints last."""
    done = subprocess.run([*command, "--out", str(out), "--count", str(count)], check=True, capture_output=True)
    return json.loads(done.stdout.splitlines()[-1])


def draw(out: Path, count: int, size: tuple[int, int]) -> None:
    """So many masks, kept as files."""
    import torch
    from torch.nn import functional

    from saot.data import open_labelled
    from saot.tables import ALL_WINGS

    scenes = open_labelled("scenes:game", readers=ALL_WINGS.readers)
    for number in range(count):
        place = out / f"{number}.npy"
        if place.exists() and np.load(place, mmap_mode="r").shape == size:
            continue
        mask = torch.as_tensor(scenes.mask(number % len(scenes.images)))
        shown = functional.one_hot(torch.where(mask == 255, 0, mask).long()).permute(2, 0, 1)[None].float()
        np.save(place, functional.interpolate(shown, size, mode="bilinear")[0].argmax(0).to(torch.uint8).numpy())


def write_all(name: str, out: Path, count: int) -> None:
    """Our file of all masks; prints seconds and memory."""
    from saot.annotate import FORMATS
    from saot.data import folder_class_set
    from saot.report import MaskItem

    classes = folder_class_set([f"class {number}" for number in range(32)])
    begin = time.perf_counter()
    FORMATS[name].write(
        out / f"ours-{name}", (MaskItem(f"{one}.png", np.load(out / f"{one}.npy")) for one in range(count)), classes
    )
    told((time.perf_counter() - begin) / count)


def told(seconds: float) -> None:
    """One line of JSON."""
    status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the process that started this one
    print(json.dumps({"seconds": seconds, "memory": int(status.split("VmHWM:")[1].split()[0]) / 1024}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/formats-speed"))
    parser.add_argument("--environments", type=Path, default=Path(".venv-formats"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--peers", type=int, default=200, help="pictures for the tools' encoders")
    parser.add_argument("--size", default="1024x2048")
    parser.add_argument("--one", choices=OURS, help="used by the program itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
