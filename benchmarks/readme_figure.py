"""The README's picture, from a finished run with an evaluation set.

python benchmarks/readme_figure.py RUN docs/figures/main.jpg [--shown 1] [--commit HASH]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file

from saot.data import IGNORE_INDEX, open_labelled
from saot.report import overlay
from saot.scenes import READERS

WIDTH, GAP, CAPTION = 640, 8, 26
INK, PAPER, RIGHT, WRONG = (40, 40, 40), (255, 255, 255), (225, 225, 225), (200, 30, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shown", type=int, default=0, help="which of the six pictures that the run shows, from 0 on")
    parser.add_argument("--source", type=int, default=0, help="which picture of the source")
    parser.add_argument("--commit", help="of the code that made the run, where run.json has none")
    options = parser.parse_args()
    run, shown_source = options.run, options.source
    record = json.loads((run / "run.json").read_text())
    settings = record["settings"]
    source, test = (open_labelled(settings[name], readers=READERS) for name in ("source", "eval"))
    masks = load_file(run / "work" / "scores" / "saot_decoder.safetensors")
    shown = sorted(int(name.removeprefix("mask-")) for name in masks if name.startswith("mask-"))
    number, classes = shown[options.shown], source.classes
    mask, truth, given = masks[f"mask-{number:06d}"].numpy(), test.mask(number), source.mask(shown_source)
    labelled = truth != IGNORE_INDEX
    wrong = labelled & (mask != truth)
    share = 100 * wrong.sum() / max(1, labelled.sum())
    errors = np.empty((*mask.shape, 3), np.uint8)
    errors[:] = RIGHT
    errors[wrong], errors[~labelled] = WRONG, PAPER
    picture, street = source.image(shown_source), test.image(number)
    parts = [
        ("labelled", picture),
        ("its labels", overlay(picture, given, classes.colors, 0.75)),
        ("not labelled", street),
        ("labels carried over", overlay(street, mask, classes.colors, 0.75)),
        ("the truth, which was not used", overlay(street, truth, classes.colors, 0.75)),
        (f"errors: {share:.0f} % of the pixels", errors),
    ]
    font = ImageFont.load_default(15)
    height = round(WIDTH * picture.shape[0] / picture.shape[1])
    present = [c for c in range(len(classes.names)) if any((one == c).any() for one in (given, mask, truth))]
    legend = legend_of([(classes.names[c], classes.colors[c]) for c in present], 2 * WIDTH + GAP, font)
    sheet = Image.new("RGB", (2 * WIDTH + GAP, 3 * (height + CAPTION) + 2 * GAP + legend.height + CAPTION), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (caption, part) in enumerate(parts):
        x, y = (place % 2) * (WIDTH + GAP), (place // 2) * (height + CAPTION + GAP)
        drawn = Image.fromarray(np.asarray(part)).resize((WIDTH, height), Image.Resampling.LANCZOS)
        sheet.paste(drawn, (x, y + CAPTION))
        draw.text((x + 2, y + 4), caption, fill=INK, font=font)
    sheet.paste(legend, (0, sheet.height - legend.height - CAPTION))
    told = f"{settings['source']} {shown_source}, {settings['eval']} {number}; preset {record['preset']}, "
    told += f"points {record['points']}, seed {record['seed']}, commit {(options.commit or str(record['commit']))[:7]}"
    draw.text((2, sheet.height - CAPTION + 4), told, fill=INK, font=ImageFont.load_default(12))
    sheet.save(options.out, quality=88)


def legend_of(entries: list[tuple[str, tuple[int, int, int]]], width: int, font: ImageFont.ImageFont) -> Image.Image:
    """Swatches and names, in as many lines as they need."""
    line, swatch = 24, 14
    places, x, y = [], 2, 4
    for name, color in entries:
        length = swatch + 6 + round(font.getlength(name)) + 16
        if x + length > width:
            x, y = 2, y + line
        places.append((x, y, name, color))
        x += length
    sheet = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, y, name, color in places:
        draw.rectangle((x, y + 2, x + swatch, y + 2 + swatch), fill=tuple(color), outline=INK)
        draw.text((x + swatch + 6, y), name, fill=INK, font=font)
    return sheet


if __name__ == "__main__":
    main()
