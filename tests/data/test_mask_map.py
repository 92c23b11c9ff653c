"""Masks whose values are no class indices: 0 and 255, colours, R = G = B."""

import numpy as np
import pytest
from PIL import Image

from saot.data import folder_class_set, open_images, open_labelled, parse_mask_map

HALF = np.repeat([[0, 0, 255]], 2, 0).astype(np.uint8)


def folder(root, masks, classes=None):
    """A folder set of a picture for each mask."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        mask.save(root / "masks" / f"{name}.png")
        Image.new("RGB", mask.size).save(root / "images" / f"{name}.png")
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return f"folder:{root}"


def opened(spec, text, classes=None):
    return open_labelled(spec, classes, mask_map=parse_mask_map(text))


def rgb(*colors):
    return np.array([colors], np.uint8)


def test_zero_and_255_alone_are_refused_with_the_way_out(tmp_path):
    spec = folder(tmp_path, {"a": HALF})
    with pytest.raises(ValueError, match=r"255, which stands for ignore.*--mask-map binary") as caught:
        open_labelled(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored", ["grey", "rgb", "bits", "palette"])
def test_zero_is_background_and_255_foreground(tmp_path, stored):
    mask = {
        "grey": HALF,
        "rgb": np.repeat(HALF[..., None], 3, 2),
        "bits": HALF > 0,
        "palette": Image.fromarray(HALF, "L").convert("P"),
    }[stored]
    spec = folder(tmp_path, {"a": mask})
    labelled = opened(spec, "0=background,1=foreground" if stored == "bits" else "binary")
    assert labelled.classes.names == ("background", "foreground")
    np.testing.assert_array_equal(labelled.mask(0), HALF // 255)
    assert labelled.measure_mask(0) == (2, 3)


def test_a_value_that_is_not_named_is_refused_or_all_such_get_a_class(tmp_path):
    spec = folder(tmp_path, {"a": np.array([[0, 7, 255]], np.uint8)})
    with pytest.raises(ValueError, match=r"a\.png has the value 7 in 1 pixels, which --mask-map does not name"):
        opened(spec, "binary").mask(0)
    assert opened(spec, "0=background,255=foreground,*=ignore").mask(0).tolist() == [[0, 255, 1]]
    assert opened(spec, "0=soil,*=crop").mask(0).tolist() == [[0, 1, 1]]


def test_a_palette_of_colours(tmp_path):
    colors = rgb((0, 0, 0), (255, 0, 0), (128, 64, 128), (255, 0, 0))
    spec = folder(tmp_path, {"a": colors})
    labelled = opened(spec, "#804080=road,#ff0000=car,#000000=ignore")
    assert labelled.classes.names == ("road", "car") and labelled.classes.colors == ((128, 64, 128), (255, 0, 0))
    assert labelled.mask(0).tolist() == [[255, 1, 0, 1]]
    with pytest.raises(ValueError, match=r"the colour #000000 in 1 pixels"):
        opened(spec, "#804080=road,#ff0000=car").mask(0)
    with pytest.raises(ValueError, match=r"the colour #ff0000 in 3 pixels, but --mask-map .* names numbers alone"):
        opened(spec, "0=road,255=car").mask(0)


def test_a_palette_png_and_transparent_pixels(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([128, 64, 128, 255, 0, 0])
    alpha = np.array([[[255, 0, 0, 255], [128, 64, 128, 255], [1, 2, 3, 0]]], np.uint8)
    spec = folder(tmp_path, {"a": palette, "b": alpha})
    labelled = opened(spec, "#804080=road,#ff0000=car")
    assert labelled.mask(0).tolist() == [[0, 1]]
    assert labelled.mask(1).tolist() == [[1, 0, 255]]


def test_grey_stored_as_colour(tmp_path):
    spec = folder(tmp_path, {"a": np.repeat(np.array([[0, 2, 255]], np.uint8)[..., None], 3, 2), "b": HALF})
    labelled = opened(spec, "grey")
    assert labelled.classes.names == ("class 0", "class 1", "class 2")
    assert labelled.mask(0).tolist() == [[0, 2, 255]] and labelled.mask(1)[0].tolist() == [0, 0, 255]
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="the value 2 in 1 pixels, but allowed are 0-1"):
        opened(spec, "grey").mask(0)
    folder(tmp_path, {"a": rgb((1, 2, 3))})
    with pytest.raises(ValueError, match="colour #010203"):
        opened(spec, "grey").mask(0)


def test_names_of_the_map_are_those_of_the_folder_or_the_run(tmp_path):
    spec = folder(tmp_path, {"a": HALF}, "crop\nsoil\n")
    assert opened(spec, "0=soil,255=crop").mask(0)[0].tolist() == [1, 1, 0]
    assert opened(spec, "0=1,255=0").mask(0)[0].tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="names the class 'weed', which is not among crop, soil"):
        opened(spec, "0=soil,255=weed").mask(0)
    (tmp_path / "classes.txt").unlink()
    labelled = opened(spec, "0=b,255=a", folder_class_set(["a", "b"]))
    assert labelled.classes.names == ("a", "b") and labelled.mask(0)[0].tolist() == [1, 1, 0]


def test_the_map_is_part_of_a_masks_name(tmp_path):
    spec = folder(tmp_path, {"a": HALF})
    names = {opened(spec, text).mask_fingerprint(0) for text in ("binary", "0=a,255=b", "0=background,255=foreground")}
    assert len(names) == 2


@pytest.mark.parametrize(
    "text",
    [
        "0 0 0 ignore\n128 64 128 road\n255 0 0 traffic light\n",
        "name,r,g,b\nignore,0,0,0\nroad,128,64,128\ntraffic light,255,0,0\n",
        "// colours of ours\n#000000\tIgnore\n#804080\troad\n#FF0000 = traffic light\n",
        "0,0,0,ignore\n128,64,128,road\n255,0,0,traffic light\n",
    ],
)
def test_a_file_of_colours(tmp_path, text):
    (tmp_path / "colours.txt").write_text(text)
    found = parse_mask_map(str(tmp_path / "colours.txt"))
    assert found.names == ("road", "traffic light")
    assert str(found) == "#000000=ignore,#804080=road,#ff0000=traffic light"
    assert str(parse_mask_map(str(found))) == str(found)


def test_a_map_longer_than_the_name_of_a_file_may_be():
    found = parse_mask_map(",".join(f"#{number:06x}=class number {number}" for number in range(40)))
    assert len(str(found)) > 900 and parse_mask_map(str(found)) == found


def test_grey_is_held_to_the_classes_where_it_is_seen(tmp_path):
    """Whatever lies under a transparent pixel counts as little as with colours; numbers below 0 are none."""
    spec = folder(tmp_path, {"a": np.array([[[1, 1, 1, 255], [9, 9, 9, 0]]], np.uint8)}, "x\ny\n")
    assert opened(spec, "grey").mask(0).tolist() == [[1, 255]]
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(np.array([[0, -256]], np.int32)).save(tmp_path / "masks" / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff has the value -256 in 1 pixels, but allowed are 0-1"):
        opened(spec, "grey").mask(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.txt", "expected VALUE=CLASS .*got 'nothing.txt'"),
        ("0=a,0=b", "one class for each value"),
        ("0=", "expected VALUE=CLASS"),
        ("red=road", "got 'red=road'"),
        ("*=a", "expected VALUE=CLASS"),
        ("0 0 256 = a", "channels from 0 to 255"),
        ("~no-such-user/colours.txt", "got '~no-such-user/colours.txt', which is none of these"),
        ("x" * 300, "which is none of these"),
    ],
)
def test_what_is_no_map_is_told(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_mask_map(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sky,\nRoad\n", r"line 1 of \S+classes.txt is 'Sky,'.*write Sky"),
        ("Sky\n'Road'\n", "line 2 .*write Road"),
        ("0 Sky\n1 Road\n", "line 1 .*'0 Sky'.*write Sky"),
        ("1: Sky\n2: Road\n", "write Sky"),
        ("0,Sky\n1,Road\n", "write Sky"),
    ],
)
def test_odd_lines_of_classes_are_refused(tmp_path, text, message):
    spec = folder(tmp_path, {"a": HALF}, text)
    for read in (open_labelled, open_images):
        with pytest.raises(ValueError, match=message):
            read(spec)


def test_names_that_begin_with_a_number_and_own_colours(tmp_path):
    spec = folder(tmp_path, {"a": HALF}, "2 euro #010203\n1 euro\ngrey # plain\n")
    classes = open_labelled(spec).classes
    assert classes.names == ("2 euro", "1 euro", "grey # plain")
    assert classes.colors[0] == (1, 2, 3) and classes.colors[1:] == folder_class_set(list("abc")).colors[1:]
