"""A raster of any size labelled by a finished run: in tiles that overlap, in memory that does not grow with its height.

Finished rows go to a file of bytes beside the output, NAME.part, from which the output is written at the end. A state
beside it says how many count, so that a command that was stopped goes on with the row of tiles it was at.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from saot.data import (
    IGNORE_INDEX,
    as_written,
    check_place,
    lock_file,
    mask_counts,
    read_record,
    whole_record,
    write_atomic,
)
from saot.deploy.geopackage import geopackage_mark, mask_polygons, write_geopackage
from saot.deploy.geotiff import Place, geotiff_mark, place_of, write_geotiff
from saot.deploy.raster import (
    Band,
    Look,
    check_bands,
    choose_look,
    filled,
    look_of,
    open_raster,
    parse_bands,
    parse_stretch,
    pieces,
    rasterio_module,
    read_rgb,
)
from saot.deploy.tiles import Axis, Blend, axis_of, parse_tile
from saot.features import Picture
from saot.label import NO_WINGS, FinishedRun, Labeller, Wings, open_abstaining, parse_size
from saot.runs import code_version, identity_of

FORMATS = {"tif": ".tif", "confidence": "_confidence.tif", "gpkg": ".gpkg"}  # what an output's name ends with
SUFFIXES = (".tif", ".tiff")
TILE = 512  # pixels a side, where nothing else says it
AGAIN = "give the command that made it again"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RasterSettings:
    """How a raster is looked at.

    Attributes:
        bands: Three bands, or one; those of the run's target, or the first, unless given.
        stretch: Percentiles, min:max, values or none; that of the run's target unless given.
        tile: Pixels, SIDE or HEIGHTxWIDTH; those of the run's target, or its input size, unless given.
        overlap: Pixels over which tiles are blended; a quarter of a tile unless given.
        cog: Whether GeoTIFFs are cloud-optimised.
    """

    bands: str | None = None
    stretch: str | None = None
    tile: str | None = None
    overlap: int | None = None
    cog: bool = False


@dataclass(frozen=True)
class LabelledRaster:
    """What `predict_raster` ends with.

    Attributes:
        outputs: The files, by format.
        height, width: Pixels.
        pixels: Of each class.
        unlabelled: Pixels of 255: without data, or, with `abstain`, unsure.
        polygons: How many; None where they were not asked for.
        made: Whether it was labelled now; False where all was there.
        gone_on_from: The row of pixels at which an earlier command had stopped, or 0.
        look: Bands and stretch.
        tile: Height and width, pixels.
    """

    outputs: dict[str, str]
    height: int
    width: int
    pixels: dict[str, int]
    unlabelled: int
    polygons: int | None
    made: bool
    gone_on_from: int
    look: Look
    tile: tuple[int, int]

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = {name: value for name, value in vars(self).items() if name != "look"}
        return {**plain, "tile": list(self.tile), "stretch": self.look.to_dict()}


def raster_output(path: Path) -> bool:
    """Whether an --out names a raster."""
    return path.suffix.lower() in SUFFIXES


def predict_raster(
    folder: Path,
    raster: Path,
    out: Path,
    settings: RasterSettings = RasterSettings(),
    formats: Sequence[str] = ("tif",),
    progress: Progress | None = None,
    abstain: float | None = None,
    wings: Wings = NO_WINGS,
    device: str = "cpu",
) -> LabelledRaster:
    """Labels of every pixel of a raster as a GeoTIFF of the same size and place.

    Args:
        folder: A finished run.
        raster: A GeoTIFF.
        out: The GeoTIFF of labels: one byte a pixel, 255 where there is no data.
        settings: Bands, stretch, tiles.
        formats: "tif" is `out`, always written; "confidence": NAME_confidence.tif, 255 is 1 and 0 no data; "gpkg":
            NAME.gpkg, polygons.
        progress: Called with (what, done, all): rows of tiles of "labels", rows of pixels of "polygons".
        abstain: As in `saot.label.predict_pictures`.
        wings: What the core does not know.
        device: Where networks run.

    Raises:
        ValueError: If a format is unknown, the run or the raster is not as it should be, or an output is in the way.
        OSError: If an output cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"expected formats of a raster among {', '.join(FORMATS)}; got {', '.join(unknown)}")
    if not raster_output(out):
        raise ValueError(f"expected --out of a raster to end with .tif; got {out}")
    rasterio_module()
    told = progress or (lambda what, done, total: None)
    run, identity = open_abstaining(folder, abstain, wings, device)
    look, tile = _looked(folder, raster, settings)
    wanted = {name: out.with_name(f"{out.stem}{FORMATS[name]}") if name != "tif" else out for name in FORMATS}
    outputs = {name: path for name, path in wanted.items() if name in ("tif", *formats)}
    check_place(out.parent)
    with open_raster(raster) as dataset:
        check_bands(dataset, look.bands)
        overlap = min(tile) // 4 if settings.overlap is None else settings.overlap
        down, across = axis_of(dataset.height, tile[0], overlap), axis_of(dataset.width, tile[1], overlap)
        state = raster.stat()
        about = [identity, code_version("deploy"), look, tile, overlap, state.st_size, state.st_mtime_ns]
        work = _Work(run, identity_of(*about), raster, look, down, across, outputs, settings.cog)
        work.check_outputs()
        if work.there():
            return work.result(made=False, gone_on_from=0)
        with work.locked():
            begun = work.label(dataset, partial(told, "labels"))
            work.write(place_of(dataset), told)
        return work.result(made=True, gone_on_from=begun)


def _looked(folder: Path, raster: Path, settings: RasterSettings) -> tuple[Look, tuple[int, int]]:
    """Bands, stretch and tile: as asked, else as the run's own rasters had them, else by the raster itself."""
    record = folder / "run.json"
    run = read_record(record, AGAIN)
    with as_written(record, AGAIN):
        kept = run.get("pictures", {}).get("target", {}).get("raster")
        size = run.get("settings", {}).get("size")
        look = None if kept is None else look_of(kept)
        tile = None if kept is None else (int(kept["tile"][0]), int(kept["tile"][1]))
    if tile is None:
        asked = parse_size(size.split(",")[0]) if isinstance(size, str) and "pad" not in size else None
        tile = asked if isinstance(asked, tuple) else (asked, asked) if isinstance(asked, int) else (TILE, TILE)
    if settings.tile is not None:
        tile = parse_tile(settings.tile)
    if kept is not None and look is not None and settings.bands is None and settings.stretch is None:
        with open_raster(raster) as dataset:
            check_bands(dataset, look.bands)
            own = dataset.dtypes[look.bands[0] - 1]
            if own != kept["dtype"]:
                raise ValueError(
                    f"expected a raster of {kept['dtype']}, as those of the run, since their stretch is used; {raster} "
                    f"has {own}: give --stretch"
                )
    if look is None or settings.bands is not None or settings.stretch is not None:
        bands = None if settings.bands is None else parse_bands(settings.bands)
        stretch = None if settings.stretch is None else parse_stretch(settings.stretch)
        if look is not None and bands is None:
            bands = look.bands
        look = choose_look([raster], bands, stretch)
    return look, tile


@dataclass(frozen=True)
class _Work:
    """A raster on its way to labels.

    Attributes:
        run: Labels it.
        identity: Of everything that the labels depend on.
        raster: The file.
        look: Bands and stretch.
        down, across: Its tiles.
        outputs: By format.
        cog: Whether GeoTIFFs are cloud-optimised.
        counted: Polygons written.
    """

    run: Labeller
    identity: str
    raster: Path
    look: Look
    down: Axis
    across: Axis
    outputs: dict[str, Path]
    cog: bool
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """What outputs say they were made of."""
        return f"saot {self.identity}" + (" cog" if self.cog else "")

    def part(self, name: str) -> Path:
        """The file of bytes behind an output, or of the state."""
        out = self.outputs["tif"]
        return out.with_name(f"{out.name}.part" + ("" if name == "tif" else f"-{name}"))

    def check_outputs(self) -> None:
        """Refuse to write over what is no earlier answer.

        Raises:
            ValueError: If so.
        """
        for path in self.outputs.values():
            if path.exists() and path.resolve() == self.raster.resolve():
                raise ValueError(f"expected an --out that leaves the raster alone; got {path}: choose another --out")
            if (path.exists() or path.is_symlink()) and _mark_of(path) is None:
                raise ValueError(
                    f"expected {path} to be missing or of an earlier `saot predict`; it is something else: move it, or "
                    "choose another --out"
                )

    def there(self) -> bool:
        """Whether all outputs are, of just this."""
        return all(path.exists() and _mark_of(path) == self.mark for path in self.outputs.values())

    def locked(self) -> IO[bytes]:
        """The file of finished rows, open and locked.

        Raises:
            ValueError: If another process has it.
        """
        self.part("tif").parent.mkdir(parents=True, exist_ok=True)
        file = open(self.part("tif"), "ab")  # noqa: SIM115  the caller closes it
        if lock_file(file) == "taken":
            file.close()
            raise ValueError(f"another `saot predict` is writing {self.outputs['tif']}; wait for it to end")
        return file

    def label(self, dataset: Any, progress: Callable[[int, int], None]) -> int:
        """Label all rows of tiles that are not done; says from which row of pixels on."""
        width, rows, begun = self.across.length, len(self.down.starts), 0
        blend = Blend(self.down, self.across, len(self.run.classes.names))
        kept = whole_record(self.part("state"))
        first = 0
        if kept is not None and kept.get("identity") == self._parts_identity() and self._enough(kept):
            first = int(kept["row"])
            begun = self.down.done(first - 1).stop
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(self.part(name), "ab")) for name in self._parts()}
            for file in files.values():
                file.truncate(begun * width)
            progress(first, rows)
            for row in range(max(first - 1, 0) if first < rows else rows, rows):
                made: dict[str, Any] = dict(zip(("tif", "confidence"), self._row(dataset, blend, row), strict=True))
                if row < first:
                    continue  # its lower edge is in `blend` now
                for name, file in files.items():
                    file.write(made[name].data)
                    file.flush()
                    os.fsync(file.fileno())
                state = {"identity": self._parts_identity(), "row": row + 1}
                write_atomic(self.part("state"), json.dumps(state).encode())
                progress(row + 1, rows)
        return begun

    def _parts(self) -> list[str]:
        """The outputs that have a file of bytes."""
        return [name for name in ("tif", "confidence") if name in self.outputs]

    def _parts_identity(self) -> str:
        return identity_of(self.identity, self._parts())

    def _enough(self, kept: dict[str, Any]) -> bool:
        """Whether the files of bytes hold the rows that a state speaks of."""
        row = kept.get("row")
        if type(row) is not int or not 0 < row <= len(self.down.starts):
            return False
        needed = self.down.done(row - 1).stop * self.across.length
        return all(self.part(name).exists() and self.part(name).stat().st_size >= needed for name in self._parts())

    def _row(self, dataset: Any, blend: Blend, row: int) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
        """Labels and confidences of the rows that a row of tiles finishes."""
        top, done = self.down.starts[row], self.down.done(row)
        rgb, valid = self._strip(dataset, slice(top, min(top + self.down.tile, self.down.length)))
        here = slice(done.start - top, done.stop - top)
        mask = np.full((done.stop - done.start, self.across.length), IGNORE_INDEX, np.uint8)
        confidence = np.zeros_like(mask)
        threshold = self.run.threshold if isinstance(self.run, FinishedRun) else 0.0
        for columns, scores in blend.row(row, self._scores(rgb, valid, row)):
            seen = valid[here, columns]
            sure = scores.max(0)
            mask[:, columns] = np.where(seen & (sure >= threshold), scores.argmax(0), IGNORE_INDEX)
            confidence[:, columns] = np.where(seen, np.rint(255 * sure.clip(0, 1)).clip(1, 255), 0)
        return mask, confidence

    def _strip(self, dataset: Any, rows: slice) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        rgb = np.empty((rows.stop - rows.start, self.across.length, 3), np.uint8)
        valid = np.empty(rgb.shape[:2], np.bool_)
        for part, columns in pieces(dataset, rows, len(self.look.bands)):
            place = slice(part.start - rows.start, part.stop - rows.start), columns
            rgb[place], valid[place] = read_rgb(dataset, self.look, part, columns)
        return rgb, valid

    def _scores(
        self, rgb: UInt8[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"], row: int
    ) -> Iterator[Float32[np.ndarray, "K th tw"] | None]:
        """Scores of each tile of a row; None of one that has no data where it counts."""
        top, used = self.down.starts[row], self.down.used(row)
        counted = valid[used.start - top : used.stop - top]
        wanted = [counted[:, self.across.used(number)].any() for number in range(len(self.across.starts))]
        asked = (
            Picture(f"{self.raster}@{top},{start}", partial(self._tile, rgb, valid, start), "")
            for start, want in zip(self.across.starts, wanted, strict=True)
            if want
        )
        answers = self.run.probabilities(asked)
        for want in wanted:
            yield next(answers).numpy().astype(np.float32, copy=False) if want else None

    def _tile(
        self, rgb: UInt8[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"], left: int
    ) -> UInt8[np.ndarray, "th tw 3"]:
        """A tile of its full size; of a raster that is smaller its mirror image continues it."""
        columns = slice(left, min(left + self.across.tile, self.across.length))
        part = filled(rgb[:, columns], valid[:, columns])
        missing = (self.down.tile - part.shape[0], self.across.tile - part.shape[1])
        return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")

    def write(self, place: Place, progress: Progress) -> None:
        """The outputs from the files of bytes, which are gone then."""
        classes, mask = self.run.classes, self._band("tif")
        colors = {index: (*color, 255) for index, color in enumerate(classes.colors)} | {IGNORE_INDEX: (0, 0, 0, 0)}
        if "confidence" in self.outputs:
            path, sure = self.outputs["confidence"], self._band("confidence")
            write_geotiff(path, sure, place, 0, self.mark, overviews="average", cog=self.cog)
        if "gpkg" in self.outputs:
            polygons = mask_polygons(mask, place.transform, partial(progress, "polygons"))
            self.counted["gpkg"] = write_geopackage(self.outputs["gpkg"], polygons, classes, place.crs, self.mark)
        out = self.outputs["tif"]
        write_geotiff(out, mask, place, IGNORE_INDEX, self.mark, overviews="mode", colors=colors, cog=self.cog)
        for name in ("state", "confidence", "tif"):
            self.part(name).unlink(missing_ok=True)

    def _band(self, name: str) -> Band:
        """The file of bytes behind an output; mapped into memory it would count as memory."""
        path, width = self.part(name), self.across.length

        def rows(top: int, bottom: int) -> UInt8[np.ndarray, "rows w"]:
            return np.fromfile(path, np.uint8, (bottom - top) * width, offset=top * width).reshape(-1, width)

        return Band(self.down.length, width, rows)

    def result(self, made: bool, gone_on_from: int) -> LabelledRaster:
        """What there is now."""
        counts, names = np.zeros(256, np.int64), self.run.classes.names
        with open_raster(self.outputs["tif"]) as file:
            for rows, columns in pieces(file, slice(0, file.height), 1):
                window = rasterio_module().windows.Window.from_slices(rows, columns)
                counts += mask_counts(file.read(1, window=window))
        return LabelledRaster(
            {name: str(path) for name, path in self.outputs.items()},
            self.down.length,
            self.across.length,
            {name: int(counts[index]) for index, name in enumerate(names)},
            int(counts[IGNORE_INDEX]),
            self.counted.get("gpkg"),
            made,
            gone_on_from,
            self.look,
            (self.down.tile, self.across.tile),
        )


def _mark_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    return geopackage_mark(path) if path.suffix == FORMATS["gpkg"] else geotiff_mark(path)
