"""The README's picture, from a finished run on the built-in scenes.

python benchmarks/readme_figure.py runs/demo docs/figures/main.jpg
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from saot.data import open_labelled
from saot.report import overlay
from saot.scenes import READERS

WIDTH, GAP, CAPTION = 504, 8, 22
WHITE = (255, 255, 255)


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    record = json.loads((run / "run.json").read_text())
    settings = record["settings"]
    source, test = (open_labelled(settings[name], readers=READERS) for name in ("source", "eval"))
    masks = load_file(run / "work" / "scores" / "saot_decoder.safetensors")
    shown = sorted(int(name.removeprefix("mask-")) for name in masks if name.startswith("mask-"))
    number = shown[int(sys.argv[3]) if len(sys.argv) > 3 else 0]
    colors = source.classes.colors
    mask = masks[f"mask-{number:06d}"].numpy()
    parts = [
        ("labelled: a game", source.image(0)),
        ("its labels", overlay(source.image(0), source.mask(0), colors, 0.7)),
        ("unlabelled: a street", test.image(number)),
        ("labels carried over", overlay(test.image(number), mask, colors, 0.7)),
    ]
    height = round(WIDTH * parts[0][1].shape[0] / parts[0][1].shape[1])
    sheet = Image.new("RGB", (2 * WIDTH + GAP, 2 * (height + CAPTION) + GAP + CAPTION), WHITE)
    draw = ImageDraw.Draw(sheet)
    for place, (caption, picture) in enumerate(parts):
        x, y = (place % 2) * (WIDTH + GAP), (place // 2) * (height + CAPTION + GAP)
        sheet.paste(Image.fromarray(np.asarray(picture)).resize((WIDTH, height)), (x, y + CAPTION))
        draw.text((x + 2, y + 5), caption, fill=(40, 40, 40))
    told = f"{settings['source']} 0 (above), {settings['eval']} {number} (below); preset {record['preset']}"
    told += f", points {record['points']}, seed {record['seed']}, commit {str(record['commit'])[:7]}"
    draw.text((2, sheet.height - CAPTION + 5), told, fill=(40, 40, 40))
    sheet.save(out, quality=88)


if __name__ == "__main__":
    main()
