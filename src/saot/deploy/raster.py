"""Rasters: windows of files of any size as 8-bit RGB, by bands and a stretch that are chosen once."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Num, UInt8

from saot.data import how_to_install

SAMPLE_SIDE, SAMPLE_WINDOWS = 256, 256  # pixels a side of the windows a stretch is measured in; how many of them
PIECE = 1 << 23  # bytes of raw values that are read at once
CACHE_MB = 64  # of GDAL, for blocks that two windows share


@dataclass(frozen=True)
class Band:
    """One band of bytes that is not held in memory.

    Attributes:
        height, width: Pixels.
        rows: Its rows from one on and up to another.
    """

    height: int
    width: int
    rows: Callable[[int, int], UInt8[np.ndarray, "rows w"]]


@dataclass(frozen=True)
class Stretch:
    """How the ends of a band's range are found.

    Attributes:
        kind: "none" takes 8 bits as they are; "percent" takes percentiles; "extremes" the least and the largest value;
            "values" is given outright.
        low, high: The percentiles or the values.
    """

    kind: str
    low: float = 0.0
    high: float = 255.0


@dataclass(frozen=True)
class Look:
    """How the numbers of a raster become 8-bit RGB, the same for every window.

    Attributes:
        bands: Numbers of the bands for red, green and blue, from 1; a single one is shown grey.
        low: What becomes 0, band by band; less becomes 0 too.
        high: What becomes 255, band by band; more becomes 255 too.
    """

    bands: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"bands": list(self.bands), "low": list(self.low), "high": list(self.high)}


def look_of(record: dict[str, Any]) -> Look:
    """The look that `Look.to_dict` wrote.

    Raises:
        KeyError: If a part is missing.
    """
    numbers = (tuple(float(value) for value in record[name]) for name in ("low", "high"))
    return Look(tuple(int(band) for band in record["bands"]), *numbers)


def rasterio_module() -> Any:
    """The module rasterio, or one sentence on how to get it.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import rasterio
        import rasterio.features
        import rasterio.shutil
        import rasterio.warp
    except ImportError as error:
        raise ValueError(f"rasters need rasterio, which is not installed; {how_to_install('geo')}") from error
    return rasterio


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """GDAL with a small cache; rasters without a place on Earth are no news."""
    rasterio = rasterio_module()
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB, GDAL_PAM_ENABLED="NO"):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """An opened GeoTIFF, to read windows of.

    Raises:
        ValueError: If it is missing, no TIFF, or holds complex numbers.
    """
    rasterio = rasterio_module()
    if not Path(path).is_file():
        raise ValueError(f"expected a GeoTIFF; {path} is missing or not a file: check the path")
    with quiet_gdal():
        try:
            dataset = rasterio.open(path, driver="GTiff")
        except rasterio.errors.RasterioIOError as error:
            raise ValueError(
                f"expected a GeoTIFF; {path} cannot be read as one: convert it with gdal_translate, or copy it again"
            ) from error
        with dataset:
            if any(kind.startswith("complex") for kind in dataset.dtypes):
                raise ValueError(f"expected real numbers; {path} holds complex ones: write their magnitude first")
            yield dataset


def parse_bands(text: str) -> tuple[int, ...]:
    """The numbers of three bands, or of one.

    Raises:
        ValueError: If they are not.

    Example:
        >>> parse_bands("4,3,2"), parse_bands("1")
        ((4, 3, 2), (1,))
    """
    words = re.split(r"[,-]", text.strip())
    if len(words) not in (1, 3) or not all(word.strip().isdecimal() and int(word) >= 1 for word in words):
        raise ValueError(f"expected three bands for red, green and blue, such as 4,3,2, or one for grey; got {text!r}")
    return tuple(int(word) for word in words)


def parse_stretch(text: str) -> Stretch:
    """A stretch from its words.

    Raises:
        ValueError: If they are none.

    Example:
        >>> parse_stretch("2:98"), parse_stretch("min:max").kind, parse_stretch("0..3000")
        (Stretch(kind='percent', low=2.0, high=98.0), 'extremes', Stretch(kind='values', low=0.0, high=3000.0))
    """
    words = text.strip()
    if words == "none":
        return Stretch("none")
    if words in ("min:max", "min-max"):
        return Stretch("extremes")
    number = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
    percent, values = re.fullmatch(rf"{number}[:-]{number}", words), re.fullmatch(rf"{number}\.\.{number}", words)
    if percent is not None and 0 <= float(percent[1]) < float(percent[2]) <= 100:
        return Stretch("percent", float(percent[1]), float(percent[2]))
    if values is not None and float(values[1]) < float(values[2]):
        return Stretch("values", float(values[1]), float(values[2]))
    raise ValueError(
        "expected a stretch: two percentiles such as 2:98, min:max, two values such as 0..3000, or none for 8 bits as "
        f"they are; got {text!r}"
    )


def choose_look(paths: Sequence[Path], bands: tuple[int, ...] | None = None, stretch: Stretch | None = None) -> Look:
    """One look for all rasters of a set.

    Percentiles are those of at most 256 windows of 256 pixels a side, spread evenly over all rasters.

    Args:
        paths: Of the rasters.
        bands: Their numbers; the first three, or the first of fewer, unless given.
        stretch: How; none for 8 bits and 2:98 for others unless given.

    Raises:
        ValueError: If a raster has not these bands or cannot be read, 16 bits or more are to stay as they are, or no
            pixel has data.
    """
    eight = True
    for path in paths:
        with open_raster(path) as dataset:
            bands = bands or ((1, 2, 3) if dataset.count >= 3 else (1,))
            check_bands(dataset, bands)
            eight = eight and all(dataset.dtypes[band - 1] == "uint8" for band in bands)
    assert bands is not None, "of a set with a raster"
    stretch = stretch or (Stretch("none") if eight else Stretch("percent", 2, 98))
    if stretch.kind == "none" and not eight:
        raise ValueError(
            "expected a stretch, since not all rasters have 8 bits; got none: give percentiles such as 2:98, or "
            "values such as 0..3000"
        )
    if stretch.kind in ("none", "values"):
        return Look(bands, (stretch.low,) * len(bands), (stretch.high,) * len(bands))
    ends = _extremes(paths, bands) if stretch.kind == "extremes" else _percentiles(paths, bands, stretch)
    return Look(bands, tuple(ends[0].tolist()), tuple(ends[1].tolist()))


def check_bands(dataset: Any, bands: Sequence[int]) -> None:
    """Refuse bands that a raster has not.

    Raises:
        ValueError: If one is missing; says how many there are.
    """
    if max(bands) > dataset.count:
        raise ValueError(
            f"expected band {max(bands)} in {dataset.name}; it has {dataset.count}: name other bands, such as 4,3,2, "
            "or 1 for grey"
        )


def _extremes(paths: Sequence[Path], bands: tuple[int, ...]) -> Num[np.ndarray, "2 bands"]:
    ends = np.stack([np.full(len(bands), np.inf), np.full(len(bands), -np.inf)])
    for path in paths:
        with open_raster(path) as dataset:
            for rows, columns in pieces(dataset, slice(0, dataset.height), len(bands)):
                values, valid = read_values(dataset, bands, rows, columns)
                if valid.any():
                    part = values[:, valid]
                    ends = np.stack([np.minimum(ends[0], part.min(1)), np.maximum(ends[1], part.max(1))])
    return _known(ends, paths)


def _percentiles(paths: Sequence[Path], bands: tuple[int, ...], stretch: Stretch) -> Num[np.ndarray, "2 bands"]:
    found = []
    for path in paths:
        with open_raster(path) as dataset:
            for rows, columns in _spread(dataset, max(1, SAMPLE_WINDOWS // len(paths))):
                values, valid = read_values(dataset, bands, rows, columns)
                found.append(values[:, valid])
    values = np.concatenate(found, 1)
    if values.shape[1] == 0:
        return _known(np.full((2, len(bands)), np.inf), paths)
    return _known(np.percentile(values, (stretch.low, stretch.high), axis=1), paths)


def _known(ends: Num[np.ndarray, "2 bands"], paths: Sequence[Path]) -> Num[np.ndarray, "2 bands"]:
    if not np.isfinite(ends).all():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise ValueError(f"expected pixels with data in {paths[0]}{more}; found none: check its nodata value")
    return ends


def _spread(dataset: Any, most: int) -> Iterator[tuple[slice, slice]]:
    """At most so many windows, spread evenly; all of a raster that they cover."""
    down, across = (-(-side // SAMPLE_SIDE) for side in (dataset.height, dataset.width))
    step = max(1, int(np.ceil(np.sqrt(down * across / most))))
    for row in range(step // 2 if down > step // 2 else 0, down, step):
        for column in range(step // 2 if across > step // 2 else 0, across, step):
            top, left = row * SAMPLE_SIDE, column * SAMPLE_SIDE
            yield (
                slice(top, min(top + SAMPLE_SIDE, dataset.height)),
                slice(left, min(left + SAMPLE_SIDE, dataset.width)),
            )


def pieces(dataset: Any, rows: slice, bands: int) -> Iterator[tuple[slice, slice]]:
    """Windows that together are these rows, whole blocks of the file where they can be.

    A file in strips is read some rows at a time, one in blocks some columns at a time: so nothing is decoded twice.
    """
    height, width = dataset.block_shapes[0]
    pixel = bands * np.dtype(dataset.dtypes[0]).itemsize
    if width >= dataset.width:
        step = max(height, PIECE // (pixel * dataset.width) // height * height)
        first = rows.start // height * height
        for top in range(first, rows.stop, step):
            yield slice(max(top, rows.start), min(top + step, rows.stop)), slice(0, dataset.width)
        return
    step = max(width, PIECE // (pixel * (rows.stop - rows.start)) // width * width)
    for left in range(0, dataset.width, step):
        yield rows, slice(left, min(left + step, dataset.width))


def read_values(
    dataset: Any, bands: Sequence[int], rows: slice, columns: slice
) -> tuple[Num[np.ndarray, "bands h w"], Bool[np.ndarray, "h w"]]:
    """Values of a window, and where there are any: where not all bands are nodata, and none is NaN or infinite."""
    from rasterio.enums import MaskFlags
    from rasterio.windows import Window

    window = Window.from_slices(rows, columns)
    try:
        values = dataset.read(list(bands), window=window)
        valid = np.ones(values.shape[1:], np.bool_)
        if any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in bands):
            valid = (dataset.read_masks(list(bands), window=window) != 0).any(0)
    except rasterio_module().errors.RasterioIOError as error:
        raise ValueError(f"{dataset.name} is broken or cut off: copy or download it again") from error
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        values[~finite] = 0
        valid = valid & finite.all(0)
    return values, valid


def read_rgb(
    dataset: Any, look: Look, rows: slice, columns: slice
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """A window as 8-bit RGB, and where it has data."""
    values, valid = read_values(dataset, look.bands, rows, columns)
    if values.dtype != np.uint8 or set(zip(look.low, look.high, strict=True)) != {(0.0, 255.0)}:
        low, high = (np.array(ends, np.float32)[:, None, None] for ends in (look.low, look.high))
        scaled = (values.astype(np.float32) - low) * (255 / np.where(high > low, high - low, 1))
        values = np.rint(scaled).clip(0, 255).astype(np.uint8)
    if len(values) == 1:
        values = np.repeat(values, 3, axis=0)
    return np.ascontiguousarray(values.transpose(1, 2, 0)), valid


def moved_to(transform: Any, top: int, left: int) -> Any:
    """From the pixels of a window that begins at this row and column to coordinates."""
    windows = rasterio_module().windows
    return windows.transform(windows.Window(left, top, 1, 1), transform)


def filled(rgb: UInt8[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The same with the mean colour where there is no data, so that no edge shows there that is none."""
    if valid.all():
        return rgb
    mean = rgb[valid].mean(0) if valid.any() else np.zeros(3)
    return np.where(valid[..., None], rgb, np.rint(mean).astype(np.uint8))
