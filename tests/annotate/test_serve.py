import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from PIL import Image

from saot.annotate import Limits, RunServer, is_loopback, labelling_config, read_label_studio, tags_of, version_of
from saot.label import Prediction, open_run
from saot.tables import ALL_WINGS


@pytest.fixture(scope="module")
def opened(finished):
    return open_run(finished, ALL_WINGS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of pictures, with one beside it that nobody may see and a link that leads there."""
    root = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    for name in ("new/day/a b.png", "new/upload/3/0a1b2c3d-c.png", "new/plain.png", "secret.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(root / name)
    (root / "new" / "out.png").symlink_to(root / "secret.png")
    (root / "new" / "up").symlink_to(root)
    (root / "new" / "circle.png").symlink_to("circle.png")
    (root / "new" / "broken.png").write_bytes(b"no picture")
    os.mkfifo(root / "new" / "pipe.png")
    return root / "new"


@contextmanager
def listening(run, folder, **options):
    with RunServer(run, folder, **{"port": 0, **options}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(opened, place):
    with listening(opened, place, version="saot mine", limits=Limits(body=1 << 20, tasks=3, reading=2)) as server:
        yield server


def ask(server, path, value=None, body=None, method=None, **headers):
    """Status and JSON of an answer."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    body = body if value is None else json.dumps(value).encode()
    headers = {"Content-Type": "application/json", **{key.replace("_", "-"): one for key, one in headers.items()}}
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read() or b"null")
    connection.close()
    return found


def predict(server, *addresses, config=None):
    tasks = [{"id": number, "data": {"image": address}} for number, address in enumerate(addresses)]
    config = labelling_config(server.run.classes) if config is None else config
    return ask(server, "/predict", {"tasks": tasks, "label_config": config, "project": "1.2", "params": {}})


def test_it_says_that_it_is_there_and_takes_what_label_studio_tells(server):
    for path in ("/", "/health", "/health/"):
        assert ask(server, path) == (200, {"status": "UP", "model_class": "saot", "model_version": "saot mine"})
    assert ask(server, "/metrics") == (200, {})
    config = labelling_config(server.run.classes)
    assert ask(server, "/setup", {"project": "1.2", "schema": config}) == (200, {"model_version": "saot mine"})
    assert ask(server, "/setup", {"project": "1.2"}) == (200, {"model_version": "saot mine"})
    assert ask(server, "/webhook", {"action": "ANNOTATION_CREATED"}) == (201, {"result": None, "status": "ok"})
    assert ask(server, "/webhook", {"action": "other"}) == (200, {"status": "Unknown event"})


@pytest.mark.parametrize("kind", ["brush", "bitmask"])
def test_masks_are_those_of_the_run_pixel_for_pixel(server, place, tmp_path, kind):
    config = labelling_config(server.run.classes, kind).replace('"label"', '"what"').replace("$image", "$photo")
    config = config.replace('"image"', '"shown"')
    addresses = ["/data/local-files/?d=day/a%20b.png", "/data/upload/3/0a1b2c3d-c.png", "plain.png"]
    tasks = [{"id": number, "data": {"photo": address}} for number, address in enumerate(addresses)]
    status, answer = ask(server, "/predict", {"tasks": tasks, "label_config": config})
    assert status == 200 and list(answer) == ["results"] and len(answer["results"]) == 3
    regions = [region for one in answer["results"] for region in one["result"]]
    assert {(one["from_name"], one["to_name"], one["type"]) for one in regions} == {("what", "shown", f"{kind}labels")}
    assert all(one["model_version"] == "saot mine" and 0 < one["score"] <= 1 for one in answer["results"])
    done = [
        {"data": task["data"], "annotations": [{"result": one["result"]}]}
        for task, one in zip(tasks, answer["results"], strict=True)
    ]
    (tmp_path / "export.json").write_text(json.dumps(done))
    for name, one in zip(
        ("day/a b.png", "upload/3/0a1b2c3d-c.png", "plain.png"),
        read_label_studio(tmp_path / "export.json", "photo"),
        strict=True,
    ):
        assert np.array_equal(one.mask(server.run.classes), server.run.predict(place / name).mask)


def test_uploads_lie_in_the_folder_under_their_own_names_too(server):
    first = predict(server, "/data/upload/9/0123abcd-plain.png")
    assert first[0] == 200 and first == predict(server, "plain.png")
    assert predict(server, "/data/upload/9/0123abcx-plain.png")[0] == 404


@pytest.mark.parametrize(
    "address",
    [
        "../secret.png",
        "day/../../secret.png",
        "out.png",
        "up/secret.png",
        "/data/local-files/?d=../secret.png",
        "/data/local-files/?d=%2E%2E%2Fsecret.png",
        "/data/local-files/?d={secret}",
        "/data/local-files/",
        "/data/upload/%2e%2e/secret.png",
        "/data/../secret.png",
        "circle.png",
        "pipe.png",
        "day",
        "",
        "gone.png",
        "a\0b.png",
        "x" * 5000,
    ],
)
def test_nothing_outside_the_folder_is_found_nor_what_is_no_file(server, place, address):
    assert (place.parent / "secret.png").is_file()
    status, answer = predict(server, address.replace("{secret}", quote(str(place.parent / "secret.png"))))
    assert status == 404 and "below the folder" in answer["error"]


def test_a_missing_picture_leaves_the_others_their_predictions(server, caplog):
    tasks = [{"id": number, "data": {"image": name}} for number, name in enumerate(("gone.png", "plain.png"))]
    asked = {"tasks": tasks, "label_config": view(server.run.classes.names)}
    status, answer = ask(server, "/predict", asked)
    gone, there = answer["results"]
    assert status == 200 and gone == [] and there["result"]
    assert "1 of 2 tasks have no prediction" in caplog.text and "gone.png" in caplog.text


@pytest.mark.parametrize(
    "address",
    ["http://example.org/a.png", "https://localhost/a.png", "s3://a/b.png", "//host/a.png", "data://x", "/etc/passwd"],
)
def test_addresses_are_refused_with_a_sentence(server, address):
    status, answer = predict(server, address)
    assert status == 400 and address in answer["error"] and "--folder" in answer["error"]


def test_the_head_of_an_answer_says_why_and_nothing_can_be_put_into_it(server, caplog):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    config = view([*server.run.classes.names, "a\r\nSet-Cookie: b\x85 \u00e9"]).replace("\r\n", "&#13;&#10;")
    connection.request("POST", "/setup", json.dumps({"schema": config}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 400 and answer.getheader("Set-Cookie") is None
    assert "the run does not know 'a" in answer.reason and answer.reason.isascii() and answer.reason.isprintable()
    connection.close()
    assert "refused /setup: expected the run's" in caplog.text and caplog.text.count("\n") == 1


def test_a_broken_picture_is_named(server):
    status, answer = predict(server, "plain.png", "broken.png")
    assert status == 400 and "broken.png" in answer["error"]


def view(labels, tag="BrushLabels", picture='<Image name="image" value="$image"/>', to_name="image"):
    inside = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    return f'<View>{picture}<{tag} name="label" toName="{to_name}">{inside}</{tag}></View>'


def test_a_configuration_that_does_not_fit_is_refused(server):
    names = list(server.run.classes.names)
    for config, said in (
        (view([*names, "unicorn"]), "does not know 'unicorn'"),
        (view(names[1:]), f"lacks '{names[0]}'"),
        (view([]), f"and {len(names) - 5} more"),
        (view(names, "RectangleLabels"), "neither"),
        (view(names, picture=""), "toName"),
        (view(names, to_name="other"), "'other'"),
        (view(names, picture='<Image name="image" valueList="$images"/>'), "toName"),
        ("<View>", "as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><View/>', "document type"),
        ("<a>" * 101 + "</a>" * 101, "at most 100 tags"),
        ("<a/>" + " " * (1 << 20), "characters"),
        (7, "label_config"),
        (None, "label_config"),
    ):
        value = {"tasks": [], "label_config": config}
        big = isinstance(config, str) and len(config) > 1 << 20
        assert ask(server, "/predict", value)[0] == (413 if big else 400), said
        if not big:
            assert said in ask(server, "/predict", value)[1]["error"]
        if config is not None and not big:
            status, answer = ask(server, "/setup", {"project": "1", "schema": config})
            assert status == 400 and (said in answer["error"] or config == 7)
    with pytest.raises(ValueError, match="characters"):
        tags_of("<a/>" + " " * (1 << 20), server.run.classes)


def test_bit_masks_go_before_brushes_and_labels_by_their_alias(server):
    names = list(server.run.classes.names)
    label = f"<Label value={quoteattr(names[0])}/>"
    config = view(names).replace(label, f'<Label value="short" alias={quoteattr(names[0])}/>')
    assert predict(server, "plain.png", config=config)[0] == 200
    both = view(names)[: -len("</View>")] + view(names, "BitmaskLabels")[len("<View>") :]
    _, answer = predict(server, "plain.png", config=both)
    assert {one["type"] for one in answer["results"][0]["result"]} == {"bitmasklabels"}


def test_wrong_requests_get_a_sentence_and_no_traceback(server):
    config = labelling_config(server.run.classes)
    for status, path, options in (
        (404, "/nothing", {}),
        (405, "/predict", {}),
        (405, "/health", {"value": {}}),
        (400, "/predict", {"value": [1]}),
        (400, "/predict", {"body": b"{"}),
        (400, "/predict", {"body": b"\xff\xfe"}),
        (400, "/predict", {"body": b"[" * 200_000}),
        (415, "/predict", {"body": b"{}", "Content_Type": "text/plain"}),
        (400, "/predict", {"value": {}}),
        (400, "/predict", {"value": {"tasks": 3, "label_config": config}}),
        (400, "/predict", {"value": {"tasks": [3], "label_config": config}}),
        (400, "/predict", {"value": {"tasks": [{"id": 7}], "label_config": config}}),
        (400, "/predict", {"value": {"tasks": [{"data": {"image": 3}}], "label_config": config}}),
        (413, "/predict", {"value": {"tasks": [{}] * 4, "label_config": config}}),
        (413, "/predict", {"body": b" " * ((1 << 20) + 1)}),
        (400, "/predict", {"method": "POST", "Content_Length": "many"}),
        (501, "/predict", {"method": "DELETE"}),
        (403, "/health", {"Host": "elsewhere.example"}),
    ):
        got, answer = ask(server, path, **options)
        assert got == status, (path, options, answer)
        assert "expected" in answer["error"] or status in (404, 405, 501), answer
        assert "Traceback" not in answer["error"]
    assert predict(server) == (200, {"results": []})


def test_whoever_sends_nothing_or_half_is_let_go(server):
    for begin in (b"", b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"):
        began = time.monotonic()
        with socket.create_connection(server.server_address[:2], timeout=20) as line:
            line.sendall(begin)
            answer = b"".join(iter(lambda line=line: line.recv(1 << 12), b""))
        assert time.monotonic() - began < 10
        assert (b" 400 " in answer and b"8 are missing" in answer) or not begin


class Slow:
    """A run that waits to be let go on, or fails."""

    def __init__(self, run):
        self.run, self.classes, self.method, self.label_budget = run, run.classes, "slow", 0
        self.begun, self.go, self.at_once, self.most = threading.Event(), threading.Event(), 0, 0

    def mask(self, image, fingerprint):
        raise NotImplementedError

    def masks(self, pictures, failed=None, confident=False):
        raise NotImplementedError

    def each(self, pictures, make, failed=None, confident=False):
        raise NotImplementedError

    def probabilities(self, pictures):
        raise NotImplementedError

    def predict(self, picture) -> Prediction:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.set()
        assert self.go.wait(20)
        self.at_once -= 1
        if picture.name == "plain.png":
            raise RuntimeError("a device broke")
        return self.run.predict(picture)


def test_one_prediction_at_a_time_and_nobody_waits_for_ever(opened, place):
    slow = Slow(opened)
    with listening(slow, place, limits=Limits(connections=2, waiting=0.2)) as server:
        found = []
        first = threading.Thread(target=lambda: found.append(predict(server, "day/a b.png")))
        first.start()
        assert slow.begun.wait(20)
        status, answer = predict(server, "day/a b.png")
        assert status == 503 and "under way" in answer["error"]
        with socket.create_connection(server.server_address[:2]):
            deadline = time.monotonic() + 20
            while (third := ask(server, "/health"))[0] == 200 and time.monotonic() < deadline:
                pass  # the second connection may not have been taken yet
            assert third == (503, None)
        slow.go.set()
        first.join()
        assert found[0][0] == 200 and slow.most == 1
        deadline = time.monotonic() + 20
        while (failed := predict(server, "plain.png"))[0] == 503 and time.monotonic() < deadline:
            pass
        assert failed == (500, {"error": "RuntimeError: a device broke"})
        assert predict(server, "day/a b.png")[0] == 200, "the next one is answered again"


def test_hosts_and_what_cannot_be_opened(opened, place, finished, tmp_path):
    assert is_loopback("127.0.0.2") and not is_loopback("192.168.0.1") and not is_loopback("")
    with pytest.raises(ValueError, match="--folder"):
        RunServer(opened, tmp_path / "none")
    with pytest.raises(ValueError, match="port"):
        RunServer(opened, place, port=70000)
    with listening(opened, place, host="0.0.0.0") as server:
        assert ask(server, "/health", Host="label-studio.example")[0] == 200
    assert version_of(finished) == version_of(finished) and finished.name in version_of(finished)
    (tmp_path / "run.json").write_text("{}")
    assert version_of(tmp_path).split()[-1] != version_of(finished).split()[-1]


def test_the_command_prints_its_address_warns_and_ends_cleanly(finished, place):
    command = [sys.executable, "-m", "saot.cli", "serve", str(finished), "--folder", str(place), "--port", "0"]
    with subprocess.Popen(
        [*command, "--json", "--host", "0.0.0.0", "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            said = json.loads(process.stdout.readline())
            host, port = said["address"].removeprefix("http://").split(":")
            assert host == "0.0.0.0" and said["model_version"] == version_of(finished)
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
            connection.request("GET", "/health")
            assert json.loads(connection.getresponse().read())["status"] == "UP"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and out == b""
    assert b"no password" in err and b"Traceback" not in err and b"stopped" in err
