"""Rasters labelled whole: no seams, no black edges, nothing lost of their place on Earth."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saot import cli
from saot.data import open_images, open_labelled
from saot.deploy import READERS, RasterSettings, geopackage, label_raster, predict_raster, raster, tiles
from saot.label import open_run
from saot.tables import ALL_WINGS

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
warp = pytest.importorskip("rasterio.warp")
UTM = "EPSG:32632"
PLACE = rasterio.transform.from_origin(500_000, 5_600_000, 0.5, 0.5)


def write(path: Path, values: np.ndarray, **profile) -> Path:
    """A GeoTIFF of bands (bands, h, w)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    about = {"crs": UTM, "transform": PLACE, "nodata": None, **profile}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype, **about
    ) as file:
        file.write(values)
    return path


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def scene(height: int, width: int, bands: int = 3) -> np.ndarray:
    """Something to look at, 1 to 255, with no pixel of 0."""
    y, x = np.mgrid[:height, :width]
    waves = [100 * (1 + np.sin((x + band * y) / (19 + 7 * band))) for band in range(bands)]
    noise = np.random.default_rng(0).integers(1, 50, (bands, height, width))
    return (np.stack(waves) + noise).clip(1, 255).astype(np.uint8)


def predicted(run: Path, source: Path, out: Path, *formats: str, **changes):
    return predict_raster(run, source, out, RasterSettings(**changes), formats or ("tif",), wings=ALL_WINGS)


@pytest.fixture(scope="session")
def labeller(finished):
    return open_run(finished, ALL_WINGS)


def blended(labeller, rgb: np.ndarray, tile: tuple[int, int], overlap: int) -> np.ndarray:
    """Scores of a whole picture, every tile held in memory and weighted by a formula of its own."""
    height, width, _ = rgb.shape
    total = np.zeros((len(labeller.classes.names), height, width))
    starts = [np.rint(np.linspace(0, n - t, max(1, -(-(n - overlap) // (t - overlap))))).astype(int).tolist()
              for n, t in zip((height, width), tile, strict=True)]  # fmt: skip
    weights = []
    for side, length, begins in zip(tile, (height, width), starts, strict=True):
        rows = np.ones((len(begins), length))
        for number, (one, other) in enumerate(pairwise(begins)):
            middle = (other + one + side - overlap) // 2
            place = np.arange(length) + 0.5
            up = 0.5 - 0.5 * np.cos(np.pi * ((place - middle) / overlap).clip(0, 1))
            rows[number + 1] *= up
            rows[number] *= 1 - up
        for number, begin in enumerate(begins):
            rows[number, :begin] = rows[number, begin + side :] = 0
        weights.append(rows)
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            part = rgb[top : top + tile[0], left : left + tile[1]]
            weight = np.outer(weights[0][i], weights[1][j])[top : top + tile[0], left : left + tile[1]]
            total[:, top : top + tile[0], left : left + tile[1]] += weight * labeller.predict(part).probabilities
    return total


@given(st.integers(16, 80), st.floats(0, 0.3), st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_tiles_cover_a_side_once_and_blend_within_what_they_share(tile, share, length):
    axis = tiles.axis_of(length, tile, int(share * (tile - 3)))
    numbers = range(len(axis.starts))
    assert axis.starts[0] == 0 and (length <= tile or axis.starts[-1] + tile == length)
    assert [p for n in numbers for p in range(axis.done(n).start, axis.done(n).stop)] == list(range(length))
    for n in numbers:
        used = axis.used(n)
        assert axis.starts[n] <= used.start < used.stop <= axis.starts[n] + tile
        if n > 1:
            assert axis.used(n - 2).stop <= used.start  # never three at one pixel


def test_an_overlap_of_a_third_is_refused():
    with pytest.raises(ValueError, match="less than a third of a tile of 30; got 10"):
        tiles.axis_of(100, 30, 10)
    assert tiles.axis_of(100, 30, 9).overlap == 9


def test_what_all_tiles_agree_on_comes_out_as_it_is_and_little_is_held():
    field = np.random.default_rng(0).random((3, 71, 93), np.float32)
    down, across = tiles.axis_of(71, 20, 5), tiles.axis_of(93, 24, 6)
    blend, found = tiles.Blend(down, across, 3), np.full_like(field, np.nan)
    for row, top in enumerate(down.starts):
        parts = (field[:, top : top + 20, left : left + 24] for left in across.starts)
        for columns, scores in blend.row(row, parts):
            found[:, down.done(row), columns] = scores
    np.testing.assert_allclose(found, field, rtol=0, atol=1e-6)
    assert blend._below.shape == (3, 5, 93)  # the overlap, not the row of tiles


def test_two_tiles_meet_in_a_raised_cosine():
    across = tiles.axis_of(34, 20, 5)
    blend = tiles.Blend(tiles.axis_of(20, 20, 5), across, 1)
    parts = (np.full((1, 20, 20), value, np.float32) for value in (0, 1))
    found = np.concatenate([scores for _, scores in blend.row(0, parts)], 2)[0, 3]
    np.testing.assert_allclose(found, [*[0] * 14, *tiles.rising(5), *[1] * 15], atol=1e-7)


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_pieces_are_these_rows_and_no_others(tmp_path, monkeypatch, layout):
    path = write(tmp_path / "a.tif", scene(90, 70), **layout)
    monkeypatch.setattr(raster, "PIECE", 3 * 70 * 8)
    with raster.open_raster(path) as dataset:
        found = np.zeros((90, 70), int)
        parts = list(raster.pieces(dataset, slice(13, 77), 3))
        for rows, columns in parts:
            found[rows, columns] += 1
    assert len(parts) > 1 and (found[13:77] == 1).all() and found.sum() == 64 * 70


@pytest.mark.parametrize(("height", "width"), [(130, 250), (56, 300), (140, 112)])
def test_labels_are_those_of_scores_blended_over_all_tiles(tmp_path, finished, labeller, height, width):
    values = scene(height, width)
    source, out = write(tmp_path / "a.tif", values), tmp_path / "out" / "labels.tif"
    made = predicted(finished, source, out, "tif", "confidence")
    scores = blended(labeller, values.transpose(1, 2, 0), (56, 112), 14)
    best = np.sort(scores, 0)
    close = best[-1] - best[-2] < 1e-5
    assert close.mean() < 0.01 and ((read(out) == scores.argmax(0)) | close).all()
    np.testing.assert_allclose(read(tmp_path / "out" / "labels_confidence.tif"), 255 * best[-1], atol=0.51)
    assert made.tile == (56, 112) and made.unlabelled == 0 and sum(made.pixels.values()) == height * width
    assert sorted(path.name for path in out.parent.iterdir()) == ["labels.tif", "labels_confidence.tif"]


def test_place_nodata_and_colours_are_kept(tmp_path, finished, labeller):
    values = scene(101, 203)
    values[:, :40, :60] = 0
    values[0, 50:60] = 0  # one band alone has none: that is data
    source = write(tmp_path / "a.tif", values, nodata=0)
    predicted(finished, source, tmp_path / "l.tif", "tif", "confidence")
    with rasterio.open(tmp_path / "l.tif") as file:
        assert file.crs == UTM and file.transform == PLACE and file.nodata == 255 and file.dtypes == ("uint8",)
        assert file.profile["tiled"] and file.compression.value == "DEFLATE"
        colors = file.colormap(1)
        mask = file.read(1)
    assert [colors[n][:3] for n in range(19)] == list(labeller.classes.colors)
    empty = np.zeros((101, 203), bool)
    empty[:40, :60] = True
    assert ((mask == 255) == empty).all()
    assert ((read(tmp_path / "l_confidence.tif") == 0) == empty).all()


def test_a_raster_smaller_than_a_tile_goes_on_as_its_mirror_image(tmp_path, finished, labeller):
    values = scene(37, 61)
    predicted(finished, write(tmp_path / "a.tif", values), tmp_path / "l.tif")
    rgb = np.pad(values.transpose(1, 2, 0), ((0, 19), (0, 51), (0, 0)), mode="symmetric")
    assert (read(tmp_path / "l.tif") == labeller.predict(rgb).mask[:37, :61]).all()


def test_a_raster_without_a_place_and_of_one_band_is_labelled(tmp_path, finished, labeller):
    values = scene(56, 112, bands=1)
    source = write(tmp_path / "a.tif", values, crs=None, transform=rasterio.Affine.identity())
    predicted(finished, source, tmp_path / "l.tif", "tif", "gpkg")
    grey = np.repeat(values.transpose(1, 2, 0), 3, axis=2)
    assert (read(tmp_path / "l.tif") == labeller.predict(grey).mask).all()


def test_floats_with_nan_of_five_bands_are_stretched_by_what_is_asked(tmp_path, finished, labeller):
    values = (scene(56, 112, bands=5).astype(np.float32) - 100) / 7
    values[3, 10:20, 30:50] = np.nan
    source = write(tmp_path / "a.tif", values)
    made = predicted(finished, source, tmp_path / "l.tif", bands="4,3,5", stretch="-14..20")
    chosen = values[[3, 2, 4]].transpose(1, 2, 0)
    nan = np.isnan(chosen).any(2)
    rgb = np.rint((np.nan_to_num(chosen) + 14) * np.float32(255 / 34)).clip(0, 255).astype(np.uint8)
    rgb[nan] = np.rint(rgb[~nan].mean(0))
    expected = labeller.predict(rgb).mask
    assert (read(tmp_path / "l.tif")[~nan] == expected[~nan]).mean() > 0.999  # a rounding may fall the other way
    assert ((read(tmp_path / "l.tif") == 255) == nan).all() and made.look.bands == (4, 3, 5)


def test_a_stretch_is_of_all_rasters_and_leaves_out_what_has_no_data(tmp_path, monkeypatch):
    one = np.full((3, 50, 50), 1000, np.uint16)
    one[:, :25] = 0
    other = np.arange(50 * 60, dtype=np.uint16).reshape(1, 50, 60).repeat(3, 0) + 2000
    other[2] *= 2
    paths = [write(tmp_path / "a.tif", one, nodata=0), write(tmp_path / "b.tif", other, nodata=0)]
    look = raster.choose_look(paths)
    pixels = np.concatenate([one[:, 25:].reshape(3, -1), other.reshape(3, -1)], 1)
    np.testing.assert_allclose([look.low, look.high], np.percentile(pixels, (2, 98), axis=1))
    ends = raster.choose_look(paths, (3,), raster.parse_stretch("min:max"))
    assert (ends.low, ends.high) == ((1000.0,), (9998.0,)) and raster.look_of(ends.to_dict()) == ends
    monkeypatch.setattr(raster, "SAMPLE_SIDE", 10)
    monkeypatch.setattr(raster, "SAMPLE_WINDOWS", 4)
    sampled = raster.choose_look(paths[1:])
    assert 2000 < sampled.low[0] < sampled.high[0] < 4999  # some windows
    with raster.open_raster(paths[1]) as dataset:
        assert len(list(raster._spread(dataset, 4))) == 4
    assert raster.choose_look(paths[1:], None, raster.parse_stretch("min:max")).high[0] == 4999.0  # every pixel


def test_eight_bits_stay_and_others_need_a_stretch(tmp_path):
    eight, sixteen = write(tmp_path / "a.tif", scene(20, 20)), write(tmp_path / "b.tif", np.ones((3, 20, 20), np.int16))
    with raster.open_raster(eight) as dataset:
        rgb, valid = raster.read_rgb(dataset, raster.choose_look([eight]), slice(0, 20), slice(3, 20))
    assert (rgb == scene(20, 20).transpose(1, 2, 0)[:, 3:]).all() and valid.all()
    with pytest.raises(ValueError, match="not all rasters have 8 bits; got none"):
        raster.choose_look([eight, sixteen], None, raster.parse_stretch("none"))
    with raster.open_raster(sixteen) as dataset:  # no range at all
        assert not raster.read_rgb(dataset, raster.choose_look([sixteen]), slice(0, 20), slice(0, 20))[0].any()
    with pytest.raises(ValueError, match="expected pixels with data"):
        raster.choose_look([write(tmp_path / "c.tif", np.zeros((3, 20, 20), np.uint16), nodata=0)])


@pytest.mark.parametrize("words", ["98:2", "2:101", "3..1", "2%", "", "min"])
def test_strange_stretches_bands_and_tiles_are_refused(words):
    with pytest.raises(ValueError, match="expected a stretch"):
        raster.parse_stretch(words)
    with pytest.raises(ValueError, match="expected three bands"):
        raster.parse_bands(words)
    with pytest.raises(ValueError, match="expected a tile"):
        tiles.parse_tile(words)


def test_a_stopped_command_goes_on_and_ends_with_the_same_bytes(tmp_path, finished):
    source = write(tmp_path / "a.tif", scene(300, 130))

    def stop(what, done, total):
        if done == 3:
            raise KeyboardInterrupt

    def label(out, progress=None, **changes):
        asked = RasterSettings(**changes)
        return predict_raster(finished, source, out, asked, ("tif", "confidence"), progress, wings=ALL_WINGS)

    whole, parts = tmp_path / "whole" / "l.tif", tmp_path / "parts" / "l.tif"
    label(whole)
    with pytest.raises(KeyboardInterrupt):
        label(parts, stop)
    assert not parts.exists() and parts.with_name("l.tif.part").exists()
    told = []
    made = label(parts, lambda what, done, total: told.append(done))
    assert told[0] == 3 and made.gone_on_from == tiles.axis_of(300, 56, 14).done(2).stop
    for name in ("l.tif", "l_confidence.tif"):
        assert (whole.parent / name).read_bytes() == (parts.parent / name).read_bytes()
    assert len(list(parts.parent.iterdir())) == 2
    with pytest.raises(KeyboardInterrupt):
        label(parts, stop, overlap=8)
    assert label(parts, overlap=10).gone_on_from == 0  # of other settings nothing is taken over
    with pytest.raises(KeyboardInterrupt):
        label(parts, stop, overlap=9)
    parts.with_name("l.tif.part").write_bytes(b"")
    assert label(parts, overlap=9).gone_on_from == 0  # nor of what is not whole


def test_what_is_there_is_kept_and_what_is_strange_is_left_alone(tmp_path, finished):
    source, out = write(tmp_path / "a.tif", scene(60, 120)), tmp_path / "l.tif"
    assert predicted(finished, source, out).made
    before = out.stat().st_mtime_ns
    again = predicted(finished, source, out)
    assert not again.made and out.stat().st_mtime_ns == before and sum(again.pixels.values()) == 60 * 120
    assert predicted(finished, source, out, cog=True).made  # another file
    assert predicted(finished, source, out).made
    write(source, scene(60, 120)[:, ::-1])
    assert predicted(finished, source, out).made  # another raster of the same size
    with pytest.raises(ValueError, match="it is something else: move it"):
        predicted(finished, out, source)
    (tmp_path / "l.gpkg").write_text("mine")
    with pytest.raises(ValueError, match=r"l\.gpkg to be missing or of an earlier"):
        predicted(finished, source, out, "gpkg")
    with pytest.raises(ValueError, match="leaves the raster alone"):
        predicted(finished, out, out)
    work = out.with_name("l.tif.part")
    with open(work, "ab") as held:
        assert label_raster.lock_file(held) == "held"
        with pytest.raises(ValueError, match="another `saot predict` is writing"):
            predicted(finished, source, out, tile="64")


def test_unsure_pixels_are_left_out(tmp_path, finished, monkeypatch):
    source = write(tmp_path / "a.tif", scene(60, 120))
    predicted(finished, source, tmp_path / "all.tif", "tif", "confidence")
    sure = read(tmp_path / "all_confidence.tif")
    middle = float(np.median(sure)) / 255 + 0.5 / 255
    real = label_raster.open_abstaining

    def unsure(*asked):
        run, identity = real(*asked)
        return replace(run, threshold=middle), identity + "t"

    monkeypatch.setattr(label_raster, "open_abstaining", unsure)
    predicted(finished, source, tmp_path / "some.tif")
    some, every = read(tmp_path / "some.tif"), read(tmp_path / "all.tif")
    known = sure != round(255 * middle)
    assert ((some == 255) == (sure / 255 < middle))[known].all() and 0.2 < (some == 255).mean() < 0.8
    assert (some == every)[some != 255].all()


@pytest.mark.parametrize("cog", [False, True])
def test_overviews_are_the_most_frequent_class_and_bring_no_other(tmp_path, finished, cog):
    source, out = write(tmp_path / "a.tif", scene(1100, 300)), tmp_path / "l.tif"
    predicted(finished, source, out, tile="200x300", cog=cog)
    mask = read(out)
    with rasterio.open(out) as file:
        assert file.overviews(1) == [2, 4] and (file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG") == cog
    with rasterio.open(out, overview_level=0) as file:
        half = file.read(1)
    fours = np.stack([mask[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    votes = (fours[None] == fours[:, None]).sum(0)
    clear = votes.max(0) >= 3
    assert clear.mean() > 0.5 and (half[clear] == fours.max(0)[clear])[(votes == 4).all(0)[clear]].all()
    majority = np.take_along_axis(fours, votes.argmax(0)[None], 0)[0]
    assert (half == majority)[clear].all()


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo (Debian: gdal-bin) is not installed")
def test_gdal_and_rio_read_what_is_written(tmp_path, finished):
    source, out = write(tmp_path / "a.tif", scene(130, 150)), tmp_path / "l.tif"
    made = predicted(finished, source, out, "tif", "confidence", "gpkg", tile="56x112")
    said = json.loads(subprocess.run(["gdalinfo", "-json", "-checksum", out], capture_output=True, check=True).stdout)
    (band,) = said["bands"]
    assert said["size"] == [150, 130] and band["noDataValue"] == 255 and band["colorInterpretation"] == "Palette"
    assert said["geoTransform"] == [500_000, 0.5, 0, 5_600_000, 0, -0.5] and "32632" in said["coordinateSystem"]["wkt"]
    rio = subprocess.run([Path(sys.executable).parent / "rio", "info", out], capture_output=True, check=True)
    assert json.loads(rio.stdout)["crs"] == UTM and json.loads(rio.stdout)["nodata"] == 255
    table = subprocess.run(
        ["ogrinfo", "-ro", "-so", "-al", tmp_path / "l.gpkg"], capture_output=True, check=True, text=True
    )
    assert f"Feature Count: {made.polygons}" in table.stdout and "Geometry: Polygon" in table.stdout
    assert 'ID["EPSG",32632]' in table.stdout and "name: String" in table.stdout and not table.stderr.strip()
    valid = subprocess.run(
        ["ogrinfo", "-ro", "-q", tmp_path / "l.gpkg", "-dialect", "SQLite", "-sql",
         "SELECT COUNT(*) AS n, SUM(ST_IsValid(geom)) AS good FROM labels"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    numbers = [int(word.split("=")[1]) for word in valid.stdout.splitlines() if "=" in word]
    assert numbers == [made.polygons, made.polygons]


@pytest.mark.parametrize("crs", [UTM, None, "+proj=laea +lat_0=40 +lon_0=9 +ellps=bessel"])
def test_polygons_burnt_again_are_the_mask(tmp_path, monkeypatch, labeller, crs):
    monkeypatch.setattr(geopackage, "WINDOW", 32)
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 4, (18, 25)), np.ones((4, 4))).astype(np.uint8)
    mask[mask == 3] = 255
    mask[4:20, 4:20] = 0
    mask[8:12, 8:12] = 255  # a hole
    crs = None if crs is None else rasterio.crs.CRS.from_user_input(crs)
    told = []
    band = raster.Band(*mask.shape, lambda top, bottom: mask[top:bottom])
    polygons = list(geopackage.mask_polygons(band, PLACE, lambda done, total: told.append((done, total))))
    path = tmp_path / "l.gpkg"
    assert geopackage.write_geopackage(path, polygons, labeller.classes, crs, "saot x") == len(polygons)
    assert told == [(32, 72), (64, 72), (72, 72)] and geopackage.geopackage_mark(path) == "saot x"
    shapes = geopackage.read_shapes(path)
    assert shapes.crs == crs and {one["name"] for _, one in shapes.items} == set(labeller.classes.names[:3])
    rings = [len(one["coordinates"]) for one, _ in shapes.items]
    assert rings == [len(each) for _, each in polygons] and max(rings) > 1  # holes
    again = geopackage.burnings(shapes, lambda attributes: attributes["class"], crs)
    assert (geopackage.burnt(again, mask.shape, PLACE) == mask).all()
    part = geopackage.burnt(again, (20, 30), raster.moved_to(PLACE, 7, 11))
    assert (part == mask[7:27, 11:41]).all()


def test_the_command_line_says_what_is_there_or_wrong(tmp_path, finished, capsys):
    source, out = write(tmp_path / "a.tif", scene(60, 120)), str(tmp_path / "l.tif")

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["predict", str(finished), *map(str, arguments)])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    code, said, _ = call(source, "--out", out, "--format", "tif,gpkg", "--json")
    found = json.loads(said)
    assert code == 0 and found["height"] == 60 and found["polygons"] > 0 and found["made"]
    assert set(found["outputs"]) == {"tif", "gpkg"} and found["stretch"]["bands"] == [1, 2, 3]
    code, said, _ = call(source, "--out", out)
    assert code == 0 and "120 x 60 pixels labelled" in said and "all of it before" in said
    (tmp_path / "b.tif").write_text("no raster")
    for arguments, words in [
        ([source, source, "--out", out], "expected one GeoTIFF"),
        ([tmp_path, "--out", out], "expected one GeoTIFF"),
        ([tmp_path / "b.tif", "--out", out], "cannot be read as one"),
        ([tmp_path / "c.tif", "--out", out], "is missing or not a file"),
        ([source, "--out", out, "--format", "coco"], "formats of a raster among tif, confidence, gpkg; got coco"),
        ([source, "--out", out, "--bands", "1,2,4"], "expected band 4"),
        ([source, "--out", out, "--tile", "8"], "at least 16"),
        ([source, "--out", tmp_path / "masks", "--cog"], "are for one GeoTIFF"),
    ]:
        code, _, err = call(*arguments)
        assert code == 2 and words in err and err.strip().count("\n") == 0, err


def test_without_rasterio_the_extra_is_named(tmp_path, finished, monkeypatch):
    source = write(tmp_path / "a.tif", scene(60, 120))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr("saot.data.extras.requires", lambda name: ['rasterio>=1.4; extra == "geo"'])
    with pytest.raises(ValueError, match=r"rasters need rasterio.*extra 'geo'"):
        predicted(finished, source, tmp_path / "l.tif")


# geotiff: as a data set


@pytest.fixture
def folder(tmp_path):
    """A raster of 5 bands of 16 bits with a mask, one with polygons, one with neither."""
    root = tmp_path / "set"
    values = scene(90, 130, bands=5).astype(np.uint16) * 40
    values[:, :, 100:] = 0
    mask = np.zeros((1, 90, 130), np.uint8)
    mask[:, 45:] = 1
    for name in "abc":
        write(root / "images" / f"{name}.tif", values, nodata=0)
    write(root / "masks" / "a.tif", mask)
    (root / "classes.txt").write_text("field\nwood\n")
    east, north = 500_000, 5_600_000 - 45 / 2
    ring = [(east, north), (east + 65, north), (east + 65, north - 22.5), (east, north - 22.5), (east, north)]
    moved = warp.transform_geom(UTM, "OGC:CRS84", {"type": "Polygon", "coordinates": [ring]})
    features = [{"type": "Feature", "geometry": moved, "properties": {"class": "wood"}}]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (root / "masks" / "b.geojson").write_text(text)
    return root


def test_tiles_are_pictures_with_masks_of_rasters_or_polygons(folder):
    spec = f"geotiff:{folder}:tile=40x50,bands=5-3-1,stretch=0..10200"
    data = open_labelled(spec, readers=READERS)
    keys = [f"{name}.tif@{top},{left}" for name in "ab" for top in (0, 25, 50) for left in (0, 40, 80)]
    assert list(data.keys) == keys and data.classes.names == ("field", "wood")
    everything = open_images(spec, readers=READERS)
    assert len(everything) == 27 and everything.about["raster"]["tile"] == [40, 50]
    with rasterio.open(folder / "images" / "a.tif") as file:
        values = file.read([5, 3, 1])
    shown = np.rint(values[:, 25:65, 40:90].astype(np.float32) / 40).transpose(1, 2, 0)
    assert (data.image(4) == shown).all() and data.images.size(4) == (40, 50)
    for first in (0, 9):  # the raster, the polygons
        seen, found = np.zeros((90, 130), int), np.full((90, 130), 255)
        for number in range(first, first + 9):
            top, left = map(int, data.keys[number].split("@")[1].split(","))
            mask = data.mask(number)
            rows, columns = np.nonzero(mask != 255)
            seen[rows + top, columns + left] += 1
            found[rows + top, columns + left] = mask[rows, columns]
        assert seen.max() == 1 and (found[:, 100:] == 255).all() and (found[45:, :100] == 1).all()
        assert (found[:45, :100] == (0 if first == 0 else 255)).all()
    assert len({data.images.fingerprint(n) for n in range(18)}) == 9  # equal files, other places
    assert len({data.mask_fingerprint(n) for n in range(18)}) == 18
    other = open_labelled(spec.replace("5-3-1", "1-2-3"), readers=READERS)
    assert other.images.fingerprint(0) != data.images.fingerprint(0)


def test_tiles_without_data_are_left_out_and_small_rasters_go_on_as_mirror_images(folder):
    images = open_images(f"geotiff:{folder}:tile=30", readers=READERS)
    assert not any(key.endswith(",100") for key in images.keys) and len(images) == 3 * 3 * 4
    data = open_labelled(f"geotiff:{folder}:tile=200", readers=READERS)
    mask = data.mask(0)
    assert mask.shape == data.image(0).shape[:2] == (200, 200)
    assert (mask[90:] == 255).all() and (mask[:, 100:] == 255).all() and (mask[:90, :100] != 255).all()
    assert (data.image(0)[90:180] == data.image(0)[:90][::-1]).all()


def masks_of(spec):
    data = open_labelled(spec, readers=READERS)
    return [data.mask(number) for number in range(len(data))]


def test_wrong_masks_and_options_are_told(folder):
    def fails(words, spec=f"geotiff:{folder}:tile=64"):
        with pytest.raises(ValueError, match=words):
            masks_of(spec)

    fails("geotiff: takes tile=", f"geotiff:{folder}:count=3")
    fails("found none: a geotiff: folder holds", f"geotiff:{folder / 'images'}")
    polygons = json.loads((folder / "masks" / "b.geojson").read_text())
    for features, words in [
        ([{**polygons["features"][0], "properties": {"class": 7}}], "got 7"),
        ([{**polygons["features"][0], "geometry": {"type": "Point", "coordinates": [9, 50]}}], "found a Point"),
        (3, "expected a GeoJSON FeatureCollection"),
    ]:
        (folder / "masks" / "b.geojson").write_text(json.dumps({**polygons, "features": features}))
        fails(words)
    (folder / "masks" / "b.geojson").unlink()
    (folder / "masks" / "b.gpkg").write_text("no database at all")
    fails("expected a GeoPackage of polygons")
    (folder / "masks" / "b.gpkg").unlink()
    write(folder / "masks" / "a.tif", np.full((1, 90, 130), 2, np.uint8))
    fails("has the value 2, but allowed are 0-1")
    write(folder / "masks" / "a.tif", np.zeros((1, 90, 130), np.float32))
    fails("one band of whole numbers")
    write(folder / "masks" / "a.tif", np.zeros((1, 90, 130), np.uint8), transform=raster.moved_to(PLACE, 0, 3))
    fails("lies elsewhere")
    write(folder / "masks" / "a.tif", np.zeros((1, 90, 131), np.uint8))
    fails("has 131x90 pixels but its raster")
    (folder / "masks" / "a.gpkg").write_text("")
    fails("expected one mask of")
    (folder / "classes.txt").unlink()
    (folder / "masks" / "a.gpkg").unlink()
    fails("one class name a line")
    shutil.rmtree(folder / "masks")
    fails("expected masks in")


def test_a_run_on_rasters_keeps_how_they_were_looked_at(folder, tmp_path, monkeypatch, capsys):
    from helpers.runs import TINY

    from saot import recipes

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([*map(str, arguments), "--json"])
        assert not caught.value.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    monkeypatch.setitem(recipes.PRESETS, "best", TINY)
    spec, target, run = f"geotiff:{folder}:tile=56,bands=4-3-2", tmp_path / "target", tmp_path / "run"
    found = call("check", spec, "--size", "56")
    assert found["pictures"] == 18 and found["masks"] == 12 and found["pixels"]["wood"] == 2 * 45 * 100
    (target / "images").mkdir(parents=True)
    shutil.copy(folder / "images" / "c.tif", target / "images")
    assert call("check", f"geotiff:{target}")["masks"] == 0
    fresh = f"geotiff:{target}:tile=48,bands=4-3-2,stretch=1-99"
    call("run", "--source", spec, "--target", fresh, "--backbone", "filterbank", "--size", "56", "--out", run)
    look = json.loads((run / "run.json").read_text())["pictures"]["target"]["raster"]
    bright = write(tmp_path / "new.tif", scene(60, 70, bands=5).astype(np.uint16) * 80)
    made = call("predict", run, bright, "--out", tmp_path / "l.tif")
    assert made["stretch"] == {name: look[name] for name in ("bands", "low", "high")} and made["tile"] == [48, 48]
    for values, words in [(scene(60, 70), "expected band 4"), (scene(60, 70, bands=5), "raster of uint16")]:
        with pytest.raises(ValueError, match=words):
            predicted(run, write(tmp_path / "other.tif", values), tmp_path / "o.tif")
    own = call("predict", run, bright, "--out", tmp_path / "l.tif", "--stretch", "2:98")
    assert own["stretch"]["bands"] == [4, 3, 2] and own["stretch"]["high"] != look["high"]
