"""Large rasters: time and peak memory beside a plain loop over blocks, and what is left of seams.

    python benchmarks/raster.py run --work runs/rasters              # a small run on two small rasters, a minute
    python benchmarks/raster.py seams --work runs/rasters
    python benchmarks/raster.py size 10000 --work runs/rasters

The rasters are made: four bands of 16 bits, fields of four crops, a river, roads, a corner without data. `size` labels
one as `saot predict` does and with a loop that cuts blocks side by side, each in a process of its own. `seams` compares
both with one look at the whole at the same scale, and with the truth.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

TILE = 448  # pixels, a multiple of the filterbank's patch of 14
BANDS, STRETCH = "3,2,1", "200..3800"
CLASSES = ("wheat", "maize", "meadow", "soil", "river", "road")
NEAR = 16  # pixels to both sides of a border


def make(path: Path, side: int, seed: int = 0, mask: Path | None = None, rows: int = 512) -> None:
    """A raster, and its mask, written strip by strip."""
    import rasterio

    if path.exists():
        return
    rng = np.random.default_rng(0)
    tones = rng.integers(700, 3300, (len(CLASSES), 4))
    own = rng.integers(-250, 250, (4096, 4))  # every field is a little different
    about = {"driver": "GTiff", "height": side, "width": side, "count": 4, "dtype": "uint16", "nodata": 0}
    about |= {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(5e5, 5.6e6, 0.2, 0.2)}
    about |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".making")
    labels = None if mask is None else np.empty((side, side), np.uint8)
    with rasterio.open(temporary, "w", bigtiff="IF_SAFER", **about) as file:
        for top in range(0, side, rows):
            y, x = np.arange(top, min(top + rows, side))[:, None], np.arange(side) + 1000 * seed
            field = ((x + y // 3) // 230 * 31 + (y - x // 5) // 170 * 57) % 4093
            kind = field % 4
            kind = np.where(abs(y - side / 2 - 300 * np.sin(x / 700)) < 60, 4, kind)
            kind = np.where((x + 2 * y) % 1900 < 40, 5, kind)
            noise = np.random.default_rng((seed, top)).integers(0, 400, kind.shape)
            values = (tones[kind] + own[field]).transpose(2, 0, 1) + noise
            empty = (x - 1000 * seed + y) < side // 10
            values[:, empty] = 0
            file.write(values.astype(np.uint16), window=rasterio.windows.Window(0, top, side, len(y)))
            if labels is not None:
                labels[top : top + len(y)] = np.where(empty, 255, kind)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(mask, "w", **{**about, "count": 1, "dtype": "uint8", "nodata": 255}) as file:
            file.write(labels, 1)
    temporary.replace(path)


def labelled_run(work: Path) -> None:
    """A run on two small rasters, whose network sees tiles as they are, with few steps."""
    from saot.label import RunSettings, run_job
    from saot.recipes import CostRecipe, DecoderRecipe, Recipe, RefineRecipe, TransferRecipe, TransportRecipe
    from saot.tables import ALL_WINGS, run_rivals

    specs = []
    for seed, name in enumerate(("source", "target"), 1):
        root = work / name
        make(root / "images" / "a.tif", 3 * TILE, seed, root / "masks" / "a.tif")
        (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        specs.append(f"geotiff:{root}:tile={TILE},bands={BANDS.replace(',', '-')},stretch={STRETCH}")
    recipe = Recipe(
        name="for-rasters",
        transport=TransportRecipe(k=16, cover=1),
        cost=CostRecipe(dim=32, steps=20),
        transfer=TransferRecipe(multi_sources=2, pseudo_sources=2),
        decoder=DecoderRecipe(hidden=32, blocks=1, steps=300, batch=256, rounds=1, points_weight=1.0),
        refine=RefineRecipe(steps=20, batch=256, regenerate=10, source_weight=1.0, points_weight=1.0),
    )
    asked = RunSettings(source=specs[0], target=specs[1], points="20", size=f"{TILE}x{TILE}", recipe=recipe)
    run_job(asked, work / "run", wings=ALL_WINGS, rivals=run_rivals, compare="none")


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


def sizes(side: int, work: Path) -> None:
    """The table of `size`."""
    path = work / f"{side}.tif"
    make(path, side)
    print("| side | way | minutes | pixels a second | peak memory, GB |\n| ---: | --- | ---: | ---: | ---: |")
    for way in ("plain", "blended"):
        found = alone(way, work / "run", path, work / f"{side}-{way}.tif")
        cells = [f"{side:,}", way, f"{found['seconds'] / 60:.1f}", f"{side * side / found['seconds']:,.0f}"]
        print(f"| {' | '.join(cells)} | {found['peak'] / 1e9:.2f} |", flush=True)


def seams(work: Path, side: int = 4 * TILE) -> None:
    """The table of `seams`."""
    import rasterio

    from saot.deploy import raster, tiles
    from saot.features import Picture, load_backbone
    from saot.label import open_run
    from saot.tables import ALL_WINGS

    path, mask = work / f"{side}.tif", work / f"{side}-mask.tif"
    make(path, side, mask=mask)
    labeller = open_run(work / "run", ALL_WINGS)
    look = raster.choose_look([path], raster.parse_bands(BANDS), raster.parse_stretch(STRETCH))
    with raster.open_raster(path) as source, rasterio.open(mask) as file:
        rgb, valid = raster.read_rgb(source, look, slice(0, side), slice(0, side))
        truth = file.read(1)
    rgb = raster.filled(rgb, valid)

    def scores(run, picture):
        return next(run.probabilities([Picture("", lambda: picture, "")])).numpy()

    def joined(axis) -> np.ndarray:
        blend, found = tiles.Blend(axis, axis, len(CLASSES)), np.empty_like(whole)
        for row, top in enumerate(axis.starts):
            parts = (scores(labeller, rgb[top : top + TILE, left : left + TILE]) for left in axis.starts)
            for columns, values in blend.row(row, parts):
                found[:, axis.done(row), columns] = values
        return found

    whole = scores(replace(labeller, backbone=load_backbone("filterbank", size=(side, side))), rgb)
    heads = ["way", "step at borders / elsewhere"]
    for what in ("largest difference of scores", "other class than at once", "wrong class"):
        heads += [f"{what}, borders", "elsewhere"]
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
    ways = {"side by side": tiles.axis_of(side, TILE, 0), "blended": tiles.axis_of(side, TILE, TILE // 4)}
    for name, axis in {**ways, "at once": None}.items():
        found = whole if axis is None else joined(axis)
        shown = axis or ways["side by side"]
        middles = [shown.join(number) + shown.overlap // 2 for number in range(len(shown.starts) - 1)]
        near = (abs(np.arange(side)[:, None] - np.array(middles) + 0.5) < NEAR).any(1)
        border = near[:, None] | near[None]
        step = np.abs(np.diff(found, axis=2)).max(0)
        cells = [name, f"{step[:, [middle - 1 for middle in middles]].mean() / step.mean():.2f}"]
        away = np.abs(found - whole).max(0)
        cells += [f"{away[part & valid].max():.2f}" for part in (border, ~border)]
        for other in (whole.argmax(0), truth):
            differs = found.argmax(0) != other
            cells += [f"{100 * differs[part & valid].mean():.1f} %" for part in (border, ~border)]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "size", "seams", "one"])
    parser.add_argument("value", nargs="?", default="10000")
    for name in ("work", "run", "raster", "out"):
        parser.add_argument(f"--{name}", type=Path)
    asked = parser.parse_args()
    if asked.what == "run":
        labelled_run(asked.work)
    elif asked.what == "size":
        sizes(int(asked.value), asked.work)
    elif asked.what == "seams":
        seams(asked.work)
    else:
        from saot.runs import peak_bytes

        began = time.monotonic()
        {"plain": plain, "blended": blended}[asked.value](asked.run, asked.raster, asked.out)
        print(json.dumps({"seconds": time.monotonic() - began, "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
