"""Writing bands of bytes as GeoTIFF: in blocks, compressed, with overviews; or as a cloud-optimised one."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from saot.data import temporary_name
from saot.deploy.raster import Band, quiet_gdal, rasterio_module

BLOCK = 512  # pixels a side
STRIP = 1024  # rows written at once, whole blocks
MARK = "SAOT"  # metadata in which a file says what it was made of


@dataclass(frozen=True)
class Place:
    """Where a raster lies on Earth, as far as it says.

    Attributes:
        crs: Its reference system, or None.
        transform: From pixels to coordinates.
        further: Ground control points and rational polynomials, by rasterio's names.
    """

    crs: Any
    transform: Any
    further: Mapping[str, Any] = field(default_factory=dict)


def place_of(dataset: Any) -> Place:
    """The place of an opened raster."""
    points, crs = dataset.gcps
    further = {name: value for name, value in (("gcps", points), ("rpcs", dataset.rpcs)) if value}
    return Place(crs if points else dataset.crs, dataset.transform, further)


def write_geotiff(
    path: Path,
    band: Band,
    place: Place,
    nodata: int,
    mark: str,
    *,
    overviews: Literal["mode", "average"],
    colors: Mapping[int, tuple[int, int, int, int]] | None = None,
    cog: bool = False,
) -> None:
    """Write one band of bytes; the file is there in one step at the end.

    Args:
        path: The file.
        band: Its pixels.
        place: Where it lies.
        nodata: The value of pixels without data.
        mark: What `geotiff_mark` gives back.
        overviews: How smaller copies are made: of labels "mode", the most frequent one.
        colors: RGBA of values.
        cog: Whether it is laid out for reading over a network: written once more, since GDAL cannot do so at once.

    Raises:
        OSError: If it cannot be written.
    """
    rasterio = rasterio_module()
    temporary, copy = temporary_name(path), temporary_name(path.with_name(f"{path.name}.cog"))
    height, width = band.height, band.width
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "nodata": nodata}
    packed = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "bigtiff": "IF_SAFER"}
    where = {"crs": place.crs, "transform": place.transform, **place.further}
    try:
        with ExitStack() as stack:
            stack.enter_context(quiet_gdal())
            with rasterio.open(temporary, "w", **profile, **packed, **where) as file:
                file.update_tags(**{MARK: mark})
                if colors is not None:
                    file.write_colormap(1, dict(colors))
                for top in range(0, height, STRIP):
                    rows = band.rows(top, min(top + STRIP, height))
                    file.write(rows, 1, window=rasterio.windows.Window(0, top, width, len(rows)))
            levels = _levels(height, width)
            if levels:
                with rasterio.open(temporary, "r+") as file:
                    file.build_overviews(levels, rasterio.enums.Resampling[overviews])
            if cog:
                options = {"compress": "deflate", "blocksize": BLOCK, "bigtiff": "IF_SAFER"}
                options |= {"overviews": "auto" if levels else "none", "overview_resampling": overviews}
                rasterio.shutil.copy(temporary, copy, driver="COG", **options)
        os.replace(copy if cog else temporary, path)
    except rasterio.errors.RasterioError as error:
        raise OSError(f"{path} could not be written ({error}); free some space, or choose another --out") from error
    finally:
        for one in (temporary, copy):
            one.unlink(missing_ok=True)


def _levels(height: int, width: int) -> list[int]:
    """Factors of the smaller copies, until one block holds all.

    Example:
        >>> _levels(2000, 100), _levels(512, 512)
        ([2, 4], [])
    """
    levels, factor = [], 2
    while max(height, width) > BLOCK * factor // 2:
        levels.append(factor)
        factor *= 2
    return levels


def geotiff_mark(path: Path) -> str | None:
    """What a GeoTIFF of ours was marked with; None of any other file."""
    rasterio = rasterio_module()
    with quiet_gdal():
        try:
            with rasterio.open(path, driver="GTiff") as file:
                return file.tags().get(MARK)
        except rasterio.errors.RasterioIOError:
            return None
