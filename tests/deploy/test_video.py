"""Videos and ROS bags: the right frame at the right time, the right way up, and masks of each."""

import csv
import io
import json
import random
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.films import MS, OPEN, REORDERED, UNEVEN, av, files_of, film, killed_after, number_of, numbered, times_of
from helpers.runs import TINY, make_folder
from PIL import Image

from saot import cli
from saot.data import Fingerprints, open_images, read_mask
from saot.deploy import READERS, VideoSettings, footage, label_video, predict_video
from saot.label import open_run
from saot.tables import ALL_WINGS

typesys = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")


def opened(spec: str, seen: Fingerprints | None = None):
    return open_images(spec, readers=READERS, seen=seen)


KINDS = {
    "b.mp4": {"options": REORDERED},
    "open.mp4": {"options": OPEN},
    "b.ts": {"options": REORDERED},
    "b.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "6"}},
    "uneven.mkv": {"pts": UNEVEN, "base": MS, "options": REORDERED},
    "uneven.mp4": {"pts": UNEVEN, "base": MS, "options": REORDERED},
    "refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=6:bframes=0"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_each_frame_is_the_right_one_in_any_order(tmp_path, name):
    images = opened(f"video:{film(tmp_path / name, **KINDS[name])}")
    count = len(KINDS[name].get("pts", range(20)))
    assert images.keys == tuple(f"{name}@{number:06d}" for number in range(count))
    once = [images.image(number) for number in range(count)]
    assert [number_of(image) for image in once] == list(range(count))
    order = [number for number in range(count) for _ in range(3)]
    random.Random(0).shuffle(order)
    for number in order:
        np.testing.assert_array_equal(images.image(number), once[number])


def test_a_seek_decodes_from_the_key_frame_before_and_not_from_the_beginning(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", range(60), options=REORDERED)
    images, decoded = opened(f"video:{path}"), []
    picked = opened(f"video:{path}")
    from saot.deploy import video

    frames = video._decoded
    monkeypatch.setattr(video, "_decoded", lambda packets: (decoded.append(one.pts) or one for one in frames(packets)))
    assert number_of(images.image(50)) == 50
    assert len(decoded) <= 4 + 2  # from 48 on, and what the reordering holds back
    decoded.clear()
    assert number_of(images.image(51)) == 51 and len(decoded) <= 1
    decoded.clear()
    assert number_of(images.image(49)) == 49 and not decoded  # still there
    assert [number_of(picked.image(number)) for number in range(60)] == list(range(60))
    assert len(decoded) == 60


def test_times_are_those_of_the_file(tmp_path):
    for name in ("a.MKV", "b/a.mp4"):
        film(tmp_path / name, UNEVEN, MS)
        found = label_video.shots({name: tmp_path / name}, footage.parse_every("1"), None).footages[name]
        assert [found.seconds(number) for number in range(len(UNEVEN))] == [time * MS for time in UNEVEN]
    assert opened(f"video:{tmp_path}:every=5").keys == tuple(
        f"{name}@{number:06d}" for name in ("a.MKV", "b/a.mp4") for number in (0, 5, 10)
    )
    taken = opened(f"video:{tmp_path / 'a.MKV'}:every=0.5s").keys  # at 0, 1, 1.5 and 2.6 s
    assert taken == tuple(f"a.MKV@{number:06d}" for number in (0, 7, 11, 13))
    shifted = opened(f"video:{film(tmp_path / 'c.mkv', [time + 300 for time in UNEVEN], MS)}:every=0.5s").keys
    assert [key[-2:] for key in shifted] == ["00", "07", "11", "13"]  # from the first frame on
    for text in ("0", "-1", "x", "0.5", "5s5", "0s", ""):
        with pytest.raises(ValueError, match="expected every so many frames, such as 5, or seconds"):
            footage.parse_every(text)


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (-90, -1), (180, 2)])
def test_frames_are_turned_as_players_turn_them(tmp_path, degrees, turns):
    images = opened(f"video:{film(tmp_path / 'a.mp4', range(3), rotation=degrees)}")
    image = images.image(2)
    expected = np.rot90(numbered(2), turns)
    assert image.shape[:2] == images.size(0) == expected.shape[:2]
    assert np.abs(image.astype(int) - expected)[4:-4, 4:-4].mean() < 8


def test_a_mirrored_video_is_mirrored_back():
    picture = numbered(5)
    np.testing.assert_array_equal(footage.turned(picture, (-1, 0, 0, 0, 1, 0, 0, 0, 1)), picture[:, ::-1])
    np.testing.assert_array_equal(footage.turned(picture, (1, 0, 0, 0, -1, 0, 0, 0, 1)), picture[::-1])
    np.testing.assert_array_equal(footage.turned(picture, (0, 1, 0, 1, 0, 0, 0, 0, 1)), picture.transpose(1, 0, 2))


def test_odd_sizes_and_colours(tmp_path):
    path = film(tmp_path / "odd.mkv", range(4), codec="ffv1", size=(47, 63), format="bgr0")
    images = opened(f"video:{path}")
    assert images.size(1) == (47, 63)
    np.testing.assert_array_equal(images.image(3), numbered(3, 47, 63))


def test_what_is_damaged_is_named_and_the_rest_is_read(tmp_path, finished):
    path = film(tmp_path / "a.mov", range(8), codec="png", format="rgb24")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 8] == b"\x89PNG\r\n\x1a\n"]
    data[starts[3] : starts[3] + 4] = b"oops"
    path.write_bytes(data)
    images = opened(f"video:{path}")
    with pytest.raises(ValueError, match=r"frame 3 of .*a\.mov, at 0\.120 s, cannot be decoded"):
        images.image(3)
    assert [number_of(images.image(number)) for number in (4, 2, 7)] == [4, 2, 7]
    found = predict(finished, path, tmp_path / "masks")
    assert list(found.failed) == [f"{path}@000003"] and sorted(found.sizes) == [0, 1, 2, 4, 5, 6, 7]
    assert len(rows_of(tmp_path / "masks")) == 7
    for _ in range(2):  # what is incomplete is not taken for done
        found = predict(finished, path, tmp_path / "o.mp4")
        assert list(found.failed) == [f"{path}@000003"]
        assert len(times_of(tmp_path / "o.mp4")) == 7
    whole = film(tmp_path / "whole.mkv", codec="ffv1", format="bgr0").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    cut = opened(f"video:{tmp_path / 'cut.mkv'}")
    assert 5 < len(cut) < 15 and [number_of(cut.image(number)) for number in range(len(cut) - 1)] == [
        *range(len(cut) - 1)
    ]


def test_what_is_no_video_is_said(tmp_path):
    def fails(words, spec):
        with pytest.raises(ValueError, match=words):
            opened(f"video:{tmp_path / spec}")

    whole = film(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    fails("cannot be read as one: it is damaged, cut off", "cut.mp4")
    fails("missing: check the path", "none.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    fails("no video stream, only sound", "sound.mkv")
    film(tmp_path / "raw.h264")
    fails("frames with a time stamp each", "raw.h264")
    (tmp_path / "empty").mkdir()
    fails("expected videos .* found none", "empty")
    fails("video: takes every=5", "a.mp4:step=3")
    fails("expected a ROS bag for topic /a", "a.mp4:topic=/a")
    with pytest.raises(ValueError, match="has no masks, as no video has"):
        ALL_WINGS.labelled(f"video:{tmp_path / 'a.mp4'}")


def test_a_file_is_read_once_for_all_names_of_its_frames(tmp_path, monkeypatch):
    import os

    from saot.data import fingerprints

    path = film(tmp_path / "a.mp4", range(5))
    os.utime(path, (1, 1))
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -1)
    read, whole = [], fingerprints.sha256_file
    monkeypatch.setattr(fingerprints, "sha256_file", lambda one: read.append(one) or whole(one))
    seen = Fingerprints(tmp_path / "seen")
    images = opened(f"video:{path}", seen)
    names = [images.fingerprint(number) for number in range(5)]
    assert len(set(names)) == 5 and len(read) == 1
    seen.save()
    again = opened(f"video:{path}:every=2", Fingerprints(tmp_path / "seen"))
    assert [again.fingerprint(number) for number in range(3)] == names[::2] and len(read) == 1


# saot predict


def predict(run: Path, video: Path, out: Path, *formats: str, progress=None, **changes):
    return predict_video(run, [video], out, VideoSettings(**changes), formats or ("png",), progress, wings=ALL_WINGS)


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "timestamps.csv") as file:
        return list(csv.DictReader(file))


def test_masks_of_frames_and_their_times(tmp_path, finished):
    path = film(tmp_path / "a.mp4", UNEVEN, MS, options=REORDERED, rotation=-90)
    found = predict(finished, path, tmp_path / "out", "png", "color", every="3")
    labeller, images = open_run(finished, ALL_WINGS), opened(f"video:{path}:every=3")
    rows = rows_of(tmp_path / "out")
    assert [row["file"] for row in rows] == [f"{key}.png" for key in images.keys]
    assert [float(row["seconds"]) for row in rows] == [time / 1000 for time in UNEVEN[::3]]
    assert [int(row["pts"]) * Fraction(1, 16000) for row in rows] == [time * MS for time in UNEVEN[::3]]
    for number, row in enumerate(rows):
        mask = read_mask(tmp_path / "out" / row["file"])
        assert mask.shape == (64, 48)
        np.testing.assert_array_equal(mask, labeller.mask(images.image(number), "").numpy())
    assert (tmp_path / "out" / "a.mp4@000003_color.png").exists()
    assert found.records()[1]["image"] == f"{path}@000003"
    with pytest.raises(ValueError, match=r"formats of frames among png, palette, color, confidence; got coco"):
        predict(finished, path, tmp_path / "out", "coco")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "timestamps.csv").write_text("my times\n")
    with pytest.raises(ValueError, match=r"timestamps.csv to be missing or of an earlier"):
        predict(finished, path, tmp_path / "mine")
    other = film(tmp_path / "b" / "a.mp4", range(2))
    with pytest.raises(ValueError, match=r"several are called a\.mp4"):
        predict_video(finished, [path, other], tmp_path / "two", wings=ALL_WINGS)


def test_killed_and_given_again_the_masks_have_the_same_bytes(tmp_path, finished):
    path = film(tmp_path / "a.mkv", range(9), options=REORDERED)
    assert predict(finished, path, tmp_path / "whole").made == 9
    with pytest.raises(KeyboardInterrupt):
        predict(finished, path, tmp_path / "out", progress=killed_after(4, "predict"))
    there = len(list((tmp_path / "out").glob("*.png")))
    assert 4 <= there < 9 and predict(finished, path, tmp_path / "out").made == 9 - there
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert predict(finished, path, tmp_path / "out").made == 0
    film(path, range(1, 10), options=REORDERED)  # another content, another mask
    assert predict(finished, path, tmp_path / "out").made == 9


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_a_video_of_overlays_keeps_times_and_orientation(tmp_path, finished, ending):
    path = film(tmp_path / "a.mp4", UNEVEN, MS, options=REORDERED, rotation=90)
    out = tmp_path / f"o.{ending}"
    found = predict(finished, path, out, every="2")
    assert found.made == 7 and not (tmp_path / f".{out.name}.masks").exists()
    np.testing.assert_allclose(times_of(out), [time / 1000 for time in UNEVEN[::2]], atol=1e-9)
    frames, images = opened(f"video:{out}"), opened(f"video:{path}:every=2")
    labeller = open_run(finished, ALL_WINGS)
    from saot.report import overlay

    for number in (0, 3, 6):
        image = images.image(number)
        expected = overlay(image, labeller.mask(image, "").numpy(), labeller.classes.colors)
        assert frames.image(number).shape == (64, 48, 3)
        assert np.abs(frames.image(number).astype(int) - expected).mean() < 12
    before = out.read_bytes()
    again = predict(finished, path, out, every="2")
    assert again.made == 0 and len(again.sizes) == 7 and out.read_bytes() == before
    assert predict(finished, path, out, every="7").made == 2 and len(times_of(out)) == 2


def test_a_video_of_overlays_goes_on_and_spares_what_is_not_its_own(tmp_path, finished):
    path = film(tmp_path / "a.mkv", range(6), codec="ffv1", size=(47, 63), format="bgr0")
    predict(finished, path, tmp_path / "whole.mp4")
    out = tmp_path / "out.mp4"
    for stage in ("predict", "overlay"):
        with pytest.raises(KeyboardInterrupt):
            predict(finished, path, out, progress=killed_after(3, stage))
        assert not out.exists() and not list(tmp_path.glob("out.mp4.tmp*"))
    assert predict(finished, path, out).made == 0
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert opened(f"video:{out}").size(0) == (48, 64)  # made even
    for other in ("mine.mp4", "text.mp4"):
        film(tmp_path / other, range(2)) if other == "mine.mp4" else (tmp_path / other).write_text("text")
        with pytest.raises(ValueError, match="missing or of an earlier `saot predict`"):
            predict(finished, path, tmp_path / other)
    with pytest.raises(ValueError, match="leaves the video alone"):
        predict(finished, path, path)
    with pytest.raises(ValueError, match=r"expected a video of overlays to end with \.mp4, \.mov, \.mkv"):
        predict(finished, path, tmp_path / "o.avi")
    with pytest.raises(ValueError, match="expected one video for --out"):
        predict_video(finished, [path, film(tmp_path / "b.mkv", range(2))], tmp_path / "o.mp4", wings=ALL_WINGS)


# ROS bags

PICTURE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def stamped(store, ns: int):
    header, time = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    more = {"seq": 0} if "seq" in header.__dataclass_fields__ else {}
    return header(**more, stamp=time(sec=ns // 10**9, nanosec=ns % 10**9), frame_id="camera")


def message(store, ns: int, pixels: np.ndarray, encoding: str, padding: int = 0):
    rows = pixels.reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return store.types[PICTURE](
        header=stamped(store, ns), height=len(pixels), width=pixels.shape[1], encoding=encoding, is_bigendian=0,
        step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


def squeezed(store, ns: int, pixels: np.ndarray, format: str):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return store.types[COMPRESSED](
        header=stamped(store, ns), format=format, data=np.frombuffer(file.getvalue(), np.uint8)
    )


def bag(path: Path, kind: str, topics: dict[str, list]) -> Path:
    """A bag of (time of recording, ns; message) by topic; returns what to open."""
    if kind == "ros1":
        from rosbags.rosbag1 import Writer as Writer1

        path, writer = path.with_suffix(".bag"), Writer1(path.with_suffix(".bag"))
    else:
        from rosbags.rosbag2 import StoragePlugin, Writer

        writer = Writer(path, version=9, storage_plugin=StoragePlugin[kind.upper()])
    store = STORES[kind == "ros1"]
    with writer:
        for topic, messages in topics.items():
            name = messages[0][1].__msgtype__
            connection = writer.add_connection(topic, name, typestore=store)
            for time, one in messages:
                raw = store.serialize_ros1(one, name) if kind == "ros1" else store.serialize_cdr(one, name)
                writer.write(connection, time, raw)
    return path


STORES = {
    False: typesys.get_typestore(typesys.Stores.ROS2_HUMBLE),
    True: typesys.get_typestore(typesys.Stores.ROS1_NOETIC),
}


@pytest.mark.parametrize("kind", ["sqlite3", "mcap", "ros1"])
def test_pictures_of_a_bag_in_any_order_with_the_times_of_their_headers(tmp_path, kind):
    store = STORES[kind == "ros1"]
    first = 1_700_000_000_000_000_000
    stamps = [first + 1_000_003 * number for number in range(90)]
    recorded = [first + 5_000_000 * (number // 2) for number in range(90)]  # two at a time
    shown = [(r, message(store, s, numbered(n % 64)[..., ::-1], "bgr8", padding=5))
             for n, (r, s) in enumerate(zip(recorded, stamps, strict=True))]  # fmt: skip
    path = bag(tmp_path / "b", kind, {"/camera/image": shown})
    images = opened(f"video:{path}")
    assert images.keys[7] == f"{path.name}@000007" and len(images) == 90
    order = [*range(90), 3, 89, 0, 45, 44, 46, 1, 2, 80]
    for number in order:
        np.testing.assert_array_equal(images.image(number), numbered(number % 64))
    found = label_video.shots({"b": path}, footage.parse_every("30"), None)
    assert [label_video.decimal(found.footages["b"].seconds(number)) for _, number in found.frames] == [
        "1700000000.000000000", "1700000000.030000090", "1700000000.060000180",
    ]  # fmt: skip
    if kind != "ros1":
        (inside,) = (one for one in path.iterdir() if one.suffix in (".db3", ".mcap"))
        assert number_of(opened(f"video:{inside}").image(33)) == 33


def test_the_topic_is_chosen_and_encodings_are_understood(tmp_path):
    store, grey = STORES[False], numbered(9)[..., 1]
    colour = numbered(9)
    four = np.concatenate([colour, np.full((48, 64, 1), 9, np.uint8)], 2)
    swapped = np.concatenate([colour[..., ::-1], four[..., 3:]], 2)
    kinds = {
        "rgb8": colour, "bgr8": colour[..., ::-1], "rgba8": four, "bgra8": swapped, "8UC3": colour[..., ::-1],
        "8UC4": swapped,
    }  # fmt: skip
    shown = [
        (n, message(store, n + 5, np.ascontiguousarray(pixels), kind)) for n, (kind, pixels) in enumerate(kinds.items())
    ]
    topics = {
        "/front": shown,
        "/grey": [(0, message(store, 1, grey[..., None], "mono8")), (1, message(store, 2, grey[..., None], "8UC1"))],
        "/png": [(3, squeezed(store, 0, colour, "png"))],
        "/depth": [(0, message(store, 1, np.zeros((4, 4, 2), np.uint8), "16UC1"))],
    }
    path = bag(tmp_path / "b", "mcap", topics)
    front, grey_ones, png = (opened(f"video:{path}:topic=/{name}") for name in ("front", "grey", "png"))
    for number in range(len(kinds)):
        np.testing.assert_array_equal(front.image(number), colour)
    for number in range(2):
        np.testing.assert_array_equal(grey_ones.image(number), np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(png.image(0), colour)
    assert len({front.fingerprint(0), grey_ones.fingerprint(0), front.fingerprint(1)}) == 3
    no_stamp = label_video.shots({"b": path}, footage.parse_every("1"), "/png").footages["b"]
    assert no_stamp.pts == (3,)  # when it was recorded
    for spec, words in [
        ("b", "has pictures in /depth, /front, /grey, /png; none was chosen: choose one, such as topic=/depth"),
        ("b:topic=/back", "/back is not among them"),
        ("b:topic=/depth", "has the encoding '16UC1', but known are rgb8"),
    ]:
        with pytest.raises(ValueError, match=words):
            opened(f"video:{tmp_path / spec}")
    spoilt = message(store, 1, colour, "rgb8")
    spoilt.data = spoilt.data[:-1]
    larger = message(store, 2, numbered(1, 60, 64), "rgb8")
    odd = bag(tmp_path / "c", "mcap", {"/a": [(0, message(store, 0, colour, "rgb8")), (1, spoilt), (2, larger)]})
    images = opened(f"video:{odd}")
    with pytest.raises(ValueError, match=r"message 1 of /a in .* is damaged"):
        images.image(1)
    with pytest.raises(ValueError, match="has 64x60 pixels but the first one 64x48"):
        images.image(2)
    (broken,) = (one for one in odd.iterdir() if one.suffix == ".mcap")
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read as a ROS bag"):
        opened(f"video:{odd}")
    text = store.types["std_msgs/msg/Header"]
    other = bag(tmp_path / "d", "sqlite3", {"/h": [(0, text(stamp=stamped(store, 0).stamp, frame_id=""))]})
    with pytest.raises(ValueError, match=r"expected a topic of sensor_msgs/Image or CompressedImage .* it has /h"):
        opened(f"video:{other}")


def test_masks_and_overlays_of_a_bag(tmp_path, finished):
    store, first = STORES[False], 1_700_000_000_000_000_000
    stamps = [first + ns for ns in (0, 40_000_000, 50_000_500, 900_000_000)]
    shown = [(n, message(store, s, numbered(n), "rgb8")) for n, s in enumerate(stamps)]
    path = bag(tmp_path / "drive", "sqlite3", {"/a": shown, "/b": shown[::-1]})
    predict(finished, path, tmp_path / "masks", topic="/a")
    assert [row["seconds"] for row in rows_of(tmp_path / "masks")] == [
        label_video.decimal(Fraction(s, 10**9)) for s in stamps
    ]
    predict(finished, path, tmp_path / "o.mp4", topic="/a")
    np.testing.assert_allclose(times_of(tmp_path / "o.mp4"), [0, 0.04, 0.05, 0.9], atol=1e-6)
    with pytest.raises(ValueError, match="expected times that grow"):
        predict(finished, bag(tmp_path / "back", "mcap", {"/b": [(n, m) for n, (_, m) in enumerate(shown[::-1])]}),
                tmp_path / "p.mp4")  # fmt: skip


@pytest.mark.parametrize(("module", "name", "words"), [
    ("av", "a.mp4", "videos need PyAV"), ("rosbags.highlevel", "a.bag", "ROS bags need rosbags"),
])  # fmt: skip
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, module, name, words):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("saot.data.extras.requires", lambda name: ['av>=18; extra == "video"'])
    with pytest.raises(ValueError, match=rf"{words}, which is not installed; .*extra 'video'"):
        opened(f"video:{tmp_path / name}")


def test_from_the_command_line(tmp_path, monkeypatch, capsys, finished):
    from saot import recipes

    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as caught:
            cli.main([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert (caught.value.code or 0) == code, said.err
        return said.err if code == 2 else json.loads(said.out)

    monkeypatch.setitem(recipes.PRESETS, "best", TINY)
    path = film(tmp_path / "a.mp4", range(6), options=REORDERED)
    spec = f"video:{path}:every=2"
    assert call("check", spec)["pictures"] == 3
    assert call("extract", spec, "--backbone", "filterbank", "--size", "42", "--out", tmp_path / "store")["made"] == 3
    source = make_folder(tmp_path / "source", 0)
    call(
        "run",
        "--source",
        source,
        "--target",
        spec,
        "--backbone",
        "filterbank",
        "--size",
        "42",
        "--out",
        tmp_path / "run",
    )
    made = call("predict", tmp_path / "run", path, "--out", tmp_path / "masks", "--every", "2")
    assert [Path(one["mask"]).name for one in made["pictures"]] == [f"a.mp4@{n:06d}.png" for n in (0, 2, 4)]
    assert call("predict", tmp_path / "run", path, "--out", tmp_path / "o.mp4")["made"] == 6
    assert "has no masks, as no video has" in call("evaluate", tmp_path / "run", spec, code=2)
    picture = tmp_path / "source" / "images" / "0.png"
    out = tmp_path / "x"
    assert "videos alone, or pictures alone" in call("predict", finished, path, picture, "--out", out, code=2)
    assert "are for videos" in call("predict", finished, picture, "--out", out, "--every", "2", code=2)
    assert "are for videos" in call("predict", finished, picture, "--out", tmp_path / "x.mp4", code=2)
    assert "for one GeoTIFF" in call("predict", finished, path, "--out", out, "--cog", code=2)
    assert not out.exists()
