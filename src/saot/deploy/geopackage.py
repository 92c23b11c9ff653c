"""Polygons of class indices as a GeoPackage, which is a SQLite file: written and read without GDAL's vector side."""

import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from saot.data import IGNORE_INDEX, ClassSet, temporary_name
from saot.deploy.raster import Band, moved_to, quiet_gdal, rasterio_module

GPKG, VERSION = 0x47504B47, 10300  # "GPKG" and 1.3.0, in the head of the file
WINDOW = 4096  # pixels a side: polygons are cut where two windows meet
OWN = 100_000  # number of a reference system that EPSG has not
UNKNOWN = -1  # "undefined Cartesian", of rasters without one
POLYGON, MULTIPOLYGON = 3, 6  # types in well-known binary
ENVELOPES = (0, 32, 48, 48, 64)  # bytes of a bounding box, by its kind

TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
  organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
  CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE labels (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON, class INTEGER, name TEXT);
"""
SYSTEMS = (
    ("Undefined Cartesian", UNKNOWN, "NONE", UNKNOWN, "undefined"),
    ("Undefined geographic", 0, "NONE", 0, "undefined"),
)


@dataclass(frozen=True)
class Shapes:
    """Polygons from a file.

    Attributes:
        crs: Their reference system, as rasterio reads it; None where the file names none.
        items: Geometry as GeoJSON has it, and attributes, of each.
    """

    crs: Any
    items: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


def mask_polygons(
    mask: Band, transform: Any, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[int, list[list[tuple[float, float]]]]]:
    """Class and rings (the outer one first) of every connected area of a mask, window by window.

    Areas are connected along sides of pixels. One that reaches across the border of two windows comes in two polygons.

    Args:
        mask: Class indices, 255 for none.
        transform: From pixels to coordinates, as rasterio has it.
        progress: Called with (rows done, rows in all).
    """
    shapes = rasterio_module().features.shapes
    for top in range(0, mask.height, WINDOW):
        rows = mask.rows(top, min(top + WINDOW, mask.height))
        for left in range(0, mask.width, WINDOW):
            part = np.ascontiguousarray(rows[:, left : left + WINDOW])
            moved = moved_to(transform, top, left)
            for geometry, value in shapes(part, part != IGNORE_INDEX, connectivity=4, transform=moved):
                yield int(value), geometry["coordinates"]
        if progress is not None:
            progress(top + len(rows), mask.height)


def write_geopackage(
    path: Path,
    polygons: Iterable[tuple[int, list[list[tuple[float, float]]]]],
    classes: ClassSet,
    crs: Any,
    mark: str,
) -> int:
    """Write polygons as the layer `labels`, with attributes `class` (the index) and `name`; says how many.

    Args:
        path: The file; there in one step at the end.
        polygons: As `mask_polygons` gives them.
        classes: Their names.
        crs: The reference system, as rasterio has it, or None.
        mark: What `geopackage_mark` gives back.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as file:
            count = _filled(file, polygons, classes, crs, mark)
        temporary.replace(path)
    except sqlite3.Error as error:
        raise OSError(f"{path} could not be written ({error}); free some space, or choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _filled(file: sqlite3.Connection, polygons: Iterable, classes: ClassSet, crs: Any, mark: str) -> int:
    file.execute(f"PRAGMA application_id = {GPKG}")
    file.execute(f"PRAGMA user_version = {VERSION}")
    file.executescript(TABLES)
    file.execute("BEGIN")
    put = "INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)"
    number = system_of(crs)
    with quiet_gdal():
        world = rasterio_module().crs.CRS.from_epsg(4326).to_wkt()
        known = {one[1]: one for one in (*SYSTEMS, ("WGS 84", 4326, "EPSG", 4326, world))}
        if number not in known:
            organisation = "EPSG" if number != OWN else "NONE"
            known[number] = (f"{organisation}:{number}", number, organisation, number, crs.to_wkt())
    file.executemany(put, known.values())
    bounds = [float("inf")] * 2 + [float("-inf")] * 2
    count = 0
    for label, rings in polygons:
        count += 1
        corners = np.array(rings[0])
        low, high = corners.min(0).tolist(), corners.max(0).tolist()
        bounds = [*map(min, bounds[:2], low), *map(max, bounds[2:], high)]
        row = (_blob(rings, number, (low[0], high[0], low[1], high[1])), label, classes.names[label])
        file.execute("INSERT INTO labels (geom, class, name) VALUES (?, ?, ?)", row)
    edges = bounds if count else [None] * 4
    said = "table_name, data_type, identifier, description, min_x, min_y, max_x, max_y, srs_id"
    row = ("labels", "features", "labels", mark, *edges, number)
    file.execute(f"INSERT INTO gpkg_contents ({said}) VALUES ({', '.join('?' * len(row))})", row)
    file.execute("INSERT INTO gpkg_geometry_columns VALUES ('labels', 'geom', 'POLYGON', ?, 0, 0)", (number,))
    file.execute("COMMIT")
    return count


def system_of(crs: Any) -> int:
    """The number of a reference system: that of EPSG where it has one."""
    if crs is None:
        return UNKNOWN
    return crs.to_epsg() or OWN


def _blob(rings: Sequence[Sequence[tuple[float, float]]], system: int, box: tuple[float, ...]) -> bytes:
    """A polygon as GeoPackage stores it: a head with its bounding box, and well-known binary; little-endian."""
    parts = [b"GP\x00\x03", struct.pack("<i4d", system, *box), struct.pack("<BII", 1, POLYGON, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.asarray(ring, "<f8").tobytes()]
    return b"".join(parts)


def geopackage_mark(path: Path) -> str | None:
    """What a GeoPackage of ours was marked with; None of any other file."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            found = file.execute("SELECT description FROM gpkg_contents WHERE table_name = 'labels'").fetchone()
    except sqlite3.Error:
        return None
    return found[0] if found is not None and str(found[0]).startswith("saot ") else None


def read_shapes(path: Path) -> Shapes:
    """Polygons of a GeoJSON file, or of the first layer of a GeoPackage.

    Raises:
        ValueError: If it cannot be read, or holds other geometries than polygons.
    """
    found = _of_geopackage(path) if path.suffix.lower() == ".gpkg" else _of_geojson(path)
    for geometry, _ in found.items:
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            raise ValueError(
                f"expected polygons in {path}; found a {geometry.get('type')}: leave out what covers no pixels"
            )
    return found


def _of_geojson(path: Path) -> Shapes:
    try:
        content = json.loads(path.read_bytes())
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        items = tuple((one["geometry"], one.get("properties") or {}) for one in features if one["geometry"])
        named = (content.get("crs") or {}).get("properties", {}).get("name", "OGC:CRS84")
        with quiet_gdal():
            crs = rasterio_module().crs.CRS.from_user_input(named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a GeoJSON FeatureCollection in {path}; it is none ({error!r})") from error
    return Shapes(crs, items)


def _of_geopackage(path: Path) -> Shapes:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            found = file.execute("SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns").fetchone()
            if found is None:
                raise ValueError("it has no layer of geometries")
            table, column, system = found
            rows = file.execute(f'SELECT * FROM "{table.replace(chr(34), chr(34) * 2)}"')
            names = [one[0] for one in rows.description]
            records = [dict(zip(names, row, strict=True)) for row in rows]
            ask = "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?"
            said = file.execute(ask, (system,)).fetchone()
        items = tuple((_geometry(one.pop(column)), one) for one in records if one[column] is not None)
        return Shapes(_system(said), items)
    except (sqlite3.Error, struct.error, ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
        raise ValueError(f"expected a GeoPackage of polygons in {path}; it cannot be read as one ({error})") from error


def _system(said: tuple[str, int, str] | None) -> Any:
    if said is None or said[2] == "undefined":
        return None
    with quiet_gdal():
        crs = rasterio_module().crs.CRS
        return crs.from_epsg(said[1]) if said[0].upper() == "EPSG" else crs.from_wkt(said[2])


def _geometry(blob: bytes) -> dict[str, Any]:
    """A geometry of a GeoPackage as GeoJSON has it; heights and measures are left out."""
    if blob[:2] != b"GP":
        raise ValueError("a geometry does not begin with GP")
    found, _ = _binary(blob, 8 + ENVELOPES[blob[3] >> 1 & 7])
    return found


def _binary(blob: bytes, place: int) -> tuple[dict[str, Any], int]:
    """A geometry in well-known binary, and where it ends."""
    order = "<" if blob[place] == 1 else ">"
    kind, count = struct.unpack_from(f"{order}II", blob, place + 1)
    place += 9
    numbers = 2 + (0, 1, 1, 2)[kind // 1000]  # of a point: also height, measure or both
    if kind % 1000 == MULTIPOLYGON:
        parts = []
        for _ in range(count):
            part, place = _binary(blob, place)
            parts.append(part["coordinates"])
        return {"type": "MultiPolygon", "coordinates": parts}, place
    if kind % 1000 != POLYGON:
        return {"type": f"geometry of kind {kind}"}, len(blob)
    rings = []
    for _ in range(count):
        (points,) = struct.unpack_from(f"{order}I", blob, place)
        values = np.frombuffer(blob, f"{order}f8", points * numbers, place + 4).reshape(points, numbers)
        rings.append([tuple(point) for point in values[:, :2].tolist()])
        place += 4 + 8 * points * numbers
    return {"type": "Polygon", "coordinates": rings}, place


@dataclass(frozen=True)
class Burning:
    """A polygon ready to be burnt: GeoJSON in a raster's reference system, its class, and its bounding box."""

    geometry: dict[str, Any]
    label: int
    box: tuple[float, float, float, float]


def burnings(shapes: Shapes, label: Callable[[Mapping[str, Any]], int], crs: Any) -> tuple[Burning, ...]:
    """Polygons in a raster's reference system.

    Args:
        shapes: In any reference system.
        label: Class index of a polygon, from its attributes.
        crs: The raster's reference system; where it or the polygons have none, coordinates are taken as they are.
    """
    warp, found = rasterio_module().warp, []
    with quiet_gdal():
        for geometry, attributes in shapes.items:
            moved = geometry
            if crs is not None and shapes.crs is not None and crs != shapes.crs:
                moved = warp.transform_geom(shapes.crs, crs, geometry)
            parts = [moved["coordinates"]] if moved["type"] == "Polygon" else moved["coordinates"]
            corners = np.array([point[:2] for part in parts for point in part[0]])
            box = (*corners.min(0).tolist(), *corners.max(0).tolist())
            found.append(Burning(moved, label(attributes), box))
    return tuple(found)


def burnt(polygons: Sequence[Burning], size: tuple[int, int], transform: Any) -> UInt8[np.ndarray, "h w"]:
    """A mask of a window: the class of the last polygon over each pixel's centre, 255 outside of all.

    Args:
        polygons: From `burnings`.
        size: Height and width of the window, pixels.
        transform: From the window's pixels to coordinates.
    """
    mask = np.full(size, IGNORE_INDEX, np.uint8)
    left, low, right, high = rasterio_module().transform.array_bounds(*size, transform)
    (left, right), (low, high) = sorted((left, right)), sorted((low, high))
    near = [
        (one.geometry, one.label)
        for one in polygons
        if one.box[0] <= right and one.box[2] >= left and one.box[1] <= high and one.box[3] >= low
    ]
    if near:
        rasterio_module().features.rasterize(near, out=mask, transform=transform)
    return mask
