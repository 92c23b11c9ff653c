"""`geotiff:` as a data set: rasters cut into tiles, each of them a picture; masks are rasters or polygons."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from saot.data import (
    IGNORE_INDEX,
    ClassSet,
    DataSpec,
    Fingerprints,
    ImageSet,
    LabelledSet,
    OpenSet,
    SetReader,
    files_below,
    read_classes,
)
from saot.deploy.geopackage import Burning, burnings, burnt, read_shapes
from saot.deploy.raster import (
    Look,
    choose_look,
    filled,
    moved_to,
    open_raster,
    parse_bands,
    parse_stretch,
    pieces,
    read_rgb,
    read_values,
)
from saot.deploy.tiles import axis_of, parse_tile

MASKS = (".tif", ".tiff", ".gpkg", ".geojson", ".json")
TILE = (512, 512)  # pixels
OPTIONS = ("tile", "bands", "stretch")


@dataclass(frozen=True)
class Cut:
    """One tile of a raster.

    Attributes:
        path: The raster.
        key: Its name with the tile's first row and column: "a.tif@0,512".
        top, left: These.
        fresh: Rows and columns of the tile that no tile before it shows: first row, first column.
        rows, columns: Of the raster from there on; fewer than the tile's at the end of a small raster.
    """

    path: Path
    key: str
    top: int
    left: int
    fresh: tuple[int, int]
    rows: slice
    columns: slice


@dataclass(frozen=True)
class RasterSet:
    """A folder of rasters.

    Attributes:
        spec: What the user typed.
        root: The folder.
        tile: Height and width, pixels.
        look: Bands and stretch, of all rasters.
        dtype: Of their numbers.
        cuts: All tiles that have data.
        classes: Of classes.txt, or None.
        masks: The mask of each raster that has one.
    """

    spec: str
    root: Path
    tile: tuple[int, int]
    look: Look
    dtype: str
    cuts: tuple[Cut, ...]
    classes: ClassSet | None
    masks: Mapping[Path, Path]

    @cached_property
    def seen(self) -> Fingerprints:
        """Check sums of the files."""
        return Fingerprints()

    def images(self) -> ImageSet:
        """All tiles."""
        return self._images(self.cuts)

    def labelled(self) -> LabelledSet:
        """The tiles of rasters with masks.

        Raises:
            ValueError: If there is no mask, or nobody names the classes.
        """
        cuts = tuple(cut for cut in self.cuts if cut.path in self.masks)
        if not cuts:
            raise ValueError(
                f"expected masks in {self.root / 'masks'}, of the rasters' names ending with {', '.join(MASKS)}; found "
                "none"
            )
        if self.classes is None:
            raise ValueError(
                f"expected {self.root / 'classes.txt'}, one class name a line in index order; it is missing"
            )
        images = self._images(cuts)
        return LabelledSet(images, lambda number: self.mask(cuts[number]), lambda number: self._mask_name(cuts[number]))

    def _images(self, cuts: tuple[Cut, ...]) -> ImageSet:
        return ImageSet(
            spec=self.spec,
            classes=self.classes,
            keys=tuple(cut.key for cut in cuts),
            load=lambda number: self.picture(cuts[number]),
            fingerprint=lambda number: self._name(cuts[number]),
            measure=lambda number: self.tile,
            about={"raster": {**self.look.to_dict(), "tile": list(self.tile), "dtype": self.dtype}},
        )

    def picture(self, cut: Cut) -> UInt8[np.ndarray, "h w 3"]:
        """A tile as a picture; its mirror image continues a raster that is smaller."""
        with open_raster(cut.path) as dataset:
            rgb, valid = read_rgb(dataset, self.look, cut.rows, cut.columns)
        missing = (self.tile[0] - rgb.shape[0], self.tile[1] - rgb.shape[1])
        return np.pad(filled(rgb, valid), ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")

    def mask(self, cut: Cut) -> UInt8[np.ndarray, "h w"]:
        """The mask of a tile; 255 where there is no data, beyond the raster, and where an earlier tile shows it."""
        assert self.classes is not None, "checked when opened"
        place, labels = self.masks[cut.path], np.full(self.tile, IGNORE_INDEX, np.uint8)
        with open_raster(cut.path) as dataset:
            _, valid = read_values(dataset, self.look.bands, cut.rows, cut.columns)
            if place.suffix.lower() in (".tif", ".tiff"):
                found = _mask_window(place, dataset, self.classes, cut)
            else:
                state = place.stat()
                polygons = _polygons(place, state.st_mtime_ns, state.st_size, dataset.crs, self.classes)
                found = burnt(polygons, valid.shape, moved_to(dataset.transform, cut.top, cut.left))
        found[~valid] = IGNORE_INDEX
        found[: cut.fresh[0]] = IGNORE_INDEX
        found[:, : cut.fresh[1]] = IGNORE_INDEX
        labels[: found.shape[0], : found.shape[1]] = found
        return labels

    def _name(self, cut: Cut) -> str:
        said = [self.seen.sha256(cut.path), cut.top, cut.left, self.tile, self.look]
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def _mask_name(self, cut: Cut) -> str:
        assert self.classes is not None, "checked when opened"
        said = [self.seen.sha256(self.masks[cut.path]), self._name(cut), self.classes.names]
        return hashlib.sha256(repr(said).encode()).hexdigest()


def _open(spec: str, parts: DataSpec) -> RasterSet:
    """The rasters of "geotiff:PATH" or "geotiff:PATH:tile=512,bands=4-3-2,stretch=2-98".

    Raises:
        ValueError: If an option is unknown, or there is no raster.
    """
    options = dict(_option(one) for one in (parts.split or "").split(",") if one.strip())
    root = parts.folder()
    folder = root / "images"
    found = files_below(folder) if folder.is_dir() else {}
    rasters = {key: path for key, path in found.items() if path.suffix.lower() in (".tif", ".tiff")}
    if not rasters:
        raise ValueError(f"expected GeoTIFFs in {folder}; found none: a geotiff: folder holds images/*.tif")
    tile = parse_tile(options["tile"]) if "tile" in options else TILE
    bands = parse_bands(options["bands"]) if "bands" in options else None
    stretch = parse_stretch(options["stretch"]) if "stretch" in options else None
    look = choose_look(list(rasters.values()), bands, stretch)
    cuts = tuple(cut for key, path in rasters.items() for cut in _cuts(path, key, tile, look))
    if not cuts:
        raise ValueError(f"expected pixels with data in the rasters of {folder}; found none: check their nodata values")
    named = root / "classes.txt"
    classes = read_classes(named) if named.is_file() else None
    with open_raster(cuts[0].path) as dataset:
        dtype = dataset.dtypes[look.bands[0] - 1]
    return RasterSet(spec, root, tile, look, dtype, cuts, classes, _masks(root, rasters))


def _option(text: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in OPTIONS or not value:
        raise ValueError(
            "geotiff: takes tile=SIDE or tile=HEIGHTxWIDTH, bands=4-3-2 and stretch=2-98, min-max, 0..3000 or none; "
            f"got {text!r}"
        )
    return name, value


def _masks(root: Path, rasters: Mapping[str, Path]) -> dict[Path, Path]:
    """The mask of each raster, of its name with another ending."""
    found = {}
    for key, path in rasters.items():
        places = [(root / "masks" / key).with_suffix(ending) for ending in MASKS]
        there = [place for place in places if place.is_file()]
        if len(there) > 1:
            raise ValueError(f"expected one mask of {path}; found {there[0]} and {there[1].name}: remove one")
        if there:
            found[path] = there[0]
    return found


def _cuts(path: Path, key: str, tile: tuple[int, int], look: Look) -> list[Cut]:
    """The tiles of a raster that have data."""
    state = path.stat()
    height, width, full = _filled_tiles(path, (state.st_mtime_ns, state.st_size), tile, look.bands)
    rows, columns = axis_of(height, tile[0], 0), axis_of(width, tile[1], 0)
    cuts = []
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(columns.starts):
            if full[i, j]:
                new = (
                    rows.starts[i - 1] + tile[0] - top if i else 0,
                    columns.starts[j - 1] + tile[1] - left if j else 0,
                )
                down, across = slice(top, min(top + tile[0], height)), slice(left, min(left + tile[1], width))
                cuts.append(Cut(path, f"{key}@{top},{left}", top, left, new, down, across))
    return cuts


@lru_cache(maxsize=4096)
def _filled_tiles(
    path: Path, state: tuple[int, int], tile: tuple[int, int], bands: tuple[int, ...]
) -> tuple[int, int, Bool[np.ndarray, "rows columns"]]:
    """Height, width, and which tiles have data; only rasters that may lack some are read."""
    from rasterio.enums import MaskFlags

    with open_raster(path) as dataset:
        rows, columns = axis_of(dataset.height, tile[0], 0), axis_of(dataset.width, tile[1], 0)
        flags = [MaskFlags.all_valid in dataset.mask_flag_enums[band - 1] for band in bands]
        if all(flags) and not dataset.dtypes[bands[0] - 1].startswith("float"):
            return dataset.height, dataset.width, np.ones((len(rows.starts), len(columns.starts)), np.bool_)
        full = np.zeros((len(rows.starts), len(columns.starts)), np.bool_)
        for i, top in enumerate(rows.starts):
            strip = slice(top, min(top + tile[0], dataset.height))
            valid = np.zeros(dataset.width, np.bool_)
            for part, across in pieces(dataset, strip, len(bands)):
                valid[across] |= read_values(dataset, bands, part, across)[1].any(0)
            full[i] = [valid[left : left + tile[1]].any() for left in columns.starts]
        return dataset.height, dataset.width, full


def _mask_window(place: Path, raster: Any, classes: ClassSet, cut: Cut) -> UInt8[np.ndarray, "h w"]:
    """A window of a mask that is a raster.

    Raises:
        ValueError: If it has another size or place, is no band of whole numbers, or has a value that is no class.
    """
    with open_raster(place) as mask:
        if (mask.height, mask.width) != (raster.height, raster.width):
            raise ValueError(
                f"mask {place} has {mask.width}x{mask.height} pixels but its raster {raster.name} has "
                f"{raster.width}x{raster.height}: cut both alike (gdalwarp -te -ts)"
            )
        if mask.crs and raster.crs and not mask.transform.almost_equals(raster.transform, precision=1e-6):
            raise ValueError(
                f"mask {place} lies elsewhere than its raster {raster.name}: cut both alike (gdalwarp -te)"
            )
        if mask.count != 1 or np.dtype(mask.dtypes[0]).kind not in "ui":
            raise ValueError(f"expected one band of whole numbers in {place}; it has {mask.count} of {mask.dtypes[0]}")
        values, valid = read_values(mask, (1,), cut.rows, cut.columns)
    found = np.where(valid, values[0], IGNORE_INDEX)
    wrong = ((found < 0) | (found >= classes.num_classes)) & (found != IGNORE_INDEX)
    if wrong.any():
        raise ValueError(
            f"mask {place} has the value {int(found[wrong][0])}, but allowed are 0-{classes.num_classes - 1} and 255 "
            "for ignore: correct the mask or classes.txt"
        )
    return found.astype(np.uint8)


@lru_cache(maxsize=64)
def _polygons(place: Path, changed: int, size: int, crs: Any, classes: ClassSet) -> tuple[Burning, ...]:
    return burnings(read_shapes(place), partial(_label, place, classes), crs)


def _label(place: Path, classes: ClassSet, attributes: Mapping[str, Any]) -> int:
    """The class of a polygon: its attribute `class`, an index or a name, or else its `name`.

    Raises:
        ValueError: If it has none of the classes.
    """
    said = attributes.get("class", attributes.get("name"))
    if isinstance(said, str) and said in classes.names:
        return classes.names.index(said)
    if type(said) is int and (0 <= said < classes.num_classes or said == IGNORE_INDEX):
        return said
    raise ValueError(
        f"expected polygons in {place} with an attribute `class`, an index or a name of classes.txt "
        f"({', '.join(classes.names[:5])} ...); got {said!r}"
    )


READERS: Mapping[str, OpenSet] = MappingProxyType(
    {
        "geotiff": SetReader(
            labelled=lambda spec, parts: _open(spec, parts).labelled(),
            images=lambda spec, parts: _open(spec, parts).images(),
        )
    }
)
