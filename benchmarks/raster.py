"""Large rasters: time and peak memory beside a plain loop over blocks, and what is left of seams.

    python benchmarks/raster.py run --out runs/for-rasters                  # a small run, once: a minute or two
    python benchmarks/raster.py size 10000 --run runs/for-rasters --work /tmp/rasters
    python benchmarks/raster.py seams --run runs/for-rasters --work /tmp/rasters

`size` makes a raster of four 16-bit bands, labels it with `saot predict` and with a loop that cuts blocks side by side,
each in a process of its own, and prints a table. `seams` compares both with one look at the whole, at the same scale.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

TILE = 448  # pixels, a multiple of the filterbank's patch of 14
BANDS, STRETCH = "3,2,1", "200..3800"
SOURCE, TARGET = "scenes:game:train,count=8", "scenes:street:train,count=8"


def make(path: Path, side: int, rows: int = 512) -> None:
    """Four bands of 16 bits: fields, a river, roads, noise, and a corner without data; written strip by strip."""
    import rasterio

    if path.exists():
        return
    rng = np.random.default_rng(0)
    tones = rng.integers(400, 3600, (4096, 4), dtype=np.uint16)
    about = {"driver": "GTiff", "height": side, "width": side, "count": 4, "dtype": "uint16", "nodata": 0}
    about |= {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(5e5, 5.6e6, 0.2, 0.2)}
    about |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    temporary = path.with_suffix(".making")
    x = np.arange(side)
    with rasterio.open(temporary, "w", bigtiff="IF_SAFER", **about) as file:
        for top in range(0, side, rows):
            y = np.arange(top, min(top + rows, side))[:, None]
            field = ((x + y // 3) // 230 * 31 + (y - x // 5) // 170 * 57) % 4096
            field = np.where(abs(y - side / 2 - 300 * np.sin(x / 700)) < 60, 7, field)
            field = np.where((x + 2 * y) % 1900 < 18, 9, field)
            noise = rng.integers(0, 200, field.shape, dtype=np.uint16)
            strip = tones[field].transpose(2, 0, 1) + noise
            strip[:, (x + y) < side // 10] = 0
            file.write(strip, window=rasterio.windows.Window(0, top, side, len(y)))
    temporary.replace(path)


def labelled_run(out: Path) -> None:
    """A run whose network sees pictures of a tile's size, with few steps."""
    from saot.label import RunSettings, run_job
    from saot.recipes import CostRecipe, DecoderRecipe, Recipe, RefineRecipe, TransferRecipe, TransportRecipe
    from saot.tables import ALL_WINGS, run_rivals

    recipe = Recipe(
        name="for-rasters",
        transport=TransportRecipe(k=16, cover=1),
        cost=CostRecipe(dim=32, steps=20),
        transfer=TransferRecipe(multi_sources=2, pseudo_sources=2),
        decoder=DecoderRecipe(hidden=32, blocks=1, steps=200, batch=256, rounds=1, points_weight=1.0),
        refine=RefineRecipe(steps=20, batch=256, regenerate=10, source_weight=1.0, points_weight=1.0),
    )
    asked = RunSettings(source=SOURCE, target=TARGET, points="20", size=f"{TILE}x{TILE}", recipe=recipe)
    run_job(asked, out, wings=ALL_WINGS, rivals=run_rivals, compare="none")


def plain(run: Path, path: Path, out: Path) -> None:
    """Blocks side by side, each labelled alone: what a first script does."""
    import rasterio

    from saot.deploy import raster
    from saot.label import open_run
    from saot.tables import ALL_WINGS

    labeller = open_run(run, ALL_WINGS)
    look = raster.choose_look([path], raster.parse_bands(BANDS), raster.parse_stretch(STRETCH))
    with raster.open_raster(path) as source:
        profile = {"driver": "GTiff", "height": source.height, "width": source.width, "count": 1, "dtype": "uint8"}
        profile |= {"crs": source.crs, "transform": source.transform, "nodata": 255, "bigtiff": "IF_SAFER"}
        with rasterio.open(out, "w", compress="deflate", **profile) as file:
            for top in range(0, source.height, TILE):
                for left in range(0, source.width, TILE):
                    rows, columns = (
                        slice(top, min(top + TILE, source.height)),
                        slice(left, min(left + TILE, source.width)),
                    )
                    rgb, valid = raster.read_rgb(source, look, rows, columns)
                    mask = np.full(valid.shape, 255, np.uint8)
                    if valid.any():
                        mask[valid] = labeller.mask(rgb, "").numpy()[valid]
                    file.write(mask, 1, window=rasterio.windows.Window.from_slices(rows, columns))


def blended(run: Path, path: Path, out: Path) -> None:
    """`saot predict`, as from the command line."""
    from saot.deploy import RasterSettings, predict_raster
    from saot.tables import ALL_WINGS

    predict_raster(run, path, out, RasterSettings(BANDS, STRETCH, str(TILE)), wings=ALL_WINGS)


def alone(way: str, run: Path, path: Path, out: Path) -> dict[str, float]:
    """Seconds and peak memory of a way, in a process of its own."""
    out.unlink(missing_ok=True)
    words = [sys.executable, __file__, "one", way, "--run", str(run), "--raster", str(path), "--out", str(out)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def sizes(side: int, run: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{side}.tif"
    make(path, side)
    print("| side | way | minutes | pixels a second | peak memory, GB |\n| ---: | --- | ---: | ---: | ---: |")
    for way in ("plain", "blended"):
        found = alone(way, run, path, work / f"{side}-{way}.tif")
        speed = side * side / found["seconds"]
        print(
            f"| {side:,} | {way} | {found['seconds'] / 60:.1f} | {speed:,.0f} | {found['peak'] / 1e9:.2f} |", flush=True
        )


def seams(run: Path, work: Path, side: int = 4 * TILE) -> None:
    """Scores of blocks, and of blended tiles, against one look at the whole at the same scale."""
    from saot.deploy import raster, tiles
    from saot.features import Picture, load_backbone
    from saot.label import open_run
    from saot.tables import ALL_WINGS

    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{side}.tif"
    make(path, side)
    labeller = open_run(run, ALL_WINGS)
    look = raster.choose_look([path], raster.parse_bands(BANDS), raster.parse_stretch(STRETCH))
    with raster.open_raster(path) as source:
        rgb, valid = raster.read_rgb(source, look, slice(0, side), slice(0, side))
    rgb = raster.filled(rgb, valid)

    def scores(run, picture):
        return next(run.probabilities([Picture("", lambda: picture, "")])).numpy()

    truth = scores(replace(labeller, backbone=load_backbone("filterbank", size=(side, side))), rgb)

    def joined(overlap: int) -> np.ndarray:
        axis = tiles.axis_of(side, TILE, overlap)
        blend, found = tiles.Blend(axis, axis, len(truth)), np.empty_like(truth)
        for row, top in enumerate(axis.starts):
            parts = (scores(labeller, rgb[top : top + TILE, left : left + TILE]) for left in axis.starts)
            for columns, values in blend.row(row, parts):
                found[:, axis.done(row), columns] = values
        return found

    print(
        "| way | step at borders / elsewhere | difference at borders, mean (largest) | elsewhere | other class at borders | elsewhere |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, overlap in (("blocks side by side", 0), ("blended over a quarter", TILE // 4)):
        found = joined(overlap)
        axis = tiles.axis_of(side, TILE, overlap)
        middles = [axis.join(number) + overlap // 2 for number in range(len(axis.starts) - 1)]
        near = np.zeros(side, bool)
        for middle in middles:
            near[middle - 8 : middle + 8] = True
        border = (near[:, None] | near[None]) & valid
        rest = ~border & valid
        away = np.abs(found - truth).max(0)
        other = found.argmax(0) != truth.argmax(0)
        step = np.abs(np.diff(found, axis=2)).max(0)
        ratio = step[:, [m - 1 for m in middles]].mean() / step.mean()
        print(
            f"| {name} | {ratio:.2f} | {away[border].mean():.3f} ({away[border].max():.2f}) | {away[rest].mean():.3f} | "
            f"{100 * other[border].mean():.1f} % | {100 * other[rest].mean():.1f} % |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "size", "seams", "one"])
    parser.add_argument("value", nargs="?", default="10000")
    for name in ("run", "work", "raster", "out"):
        parser.add_argument(f"--{name}", type=Path)
    asked = parser.parse_args()
    if asked.what == "run":
        labelled_run(asked.out)
    elif asked.what == "size":
        sizes(int(asked.value), asked.run, asked.work)
    elif asked.what == "seams":
        seams(asked.run, asked.work)
    else:
        began = time.monotonic()
        {"plain": plain, "blended": blended}[asked.value](asked.run, asked.raster, asked.out)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": time.monotonic() - began, "peak": peak}))


if __name__ == "__main__":
    main()
