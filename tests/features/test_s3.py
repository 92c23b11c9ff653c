"""A store in a bucket of moto's server. `make test-s3`."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import files
from PIL import Image

NEEDS = "needs a server of S3: `make test-s3` brings moto's"
COUNT = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Its address; where it lies and who asks is in the environment, as users have it."""
    pytest.importorskip("moto", reason=NEEDS)
    pytest.importorskip("s3fs", reason=NEEDS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with open(log, "w") as file, pytest.MonkeyPatch.context() as patch:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        running = subprocess.Popen(words, stdout=file, stderr=file)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert running.poll() is None, log.read_text()
                    time.sleep(0.2)
            patch.setenv("AWS_ENDPOINT_URL", address)
            patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            yield address
        finally:
            running.terminate()
            running.wait(30)


@pytest.fixture
def bucket(server) -> str:
    """Of the test."""
    import s3fs

    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem().mkdir(name)
    return name


@pytest.fixture
def pictures(tmp_path) -> str:
    """As `saot extract` is given them."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for number in range(COUNT):
        values = np.random.default_rng(number).integers(0, 256, (56, 112, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / "set" / "images" / f"{number}.png")
    return f"folder:{tmp_path / 'set'}"


def saot(words: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A process of its own."""
    environment = os.environ | (environment or {})
    return subprocess.run([sys.executable, "-m", "saot.cli", *words], capture_output=True, text=True, env=environment)


def extract(pictures: str, out: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    words = ["extract", pictures, "--backbone", "filterbank", "--size", "56x112", "--out", out, "--json"]
    return saot(words, environment)


def objects(place: str) -> dict[str, bytes]:
    import s3fs

    remote = s3fs.S3FileSystem(use_listings_cache=False)
    return {name.rpartition("/")[2]: remote.cat_file(name) for name in remote.find(place)}


def test_a_bucket_holds_the_files_of_a_folder_and_what_is_there_is_not_made_again(bucket, pictures, tmp_path):
    import s3fs

    local = tmp_path / "local"
    assert json.loads(extract(pictures, str(local)).stdout)["made"] == COUNT
    wanted = {path.name: path.read_bytes() for store in local.iterdir() if store.is_dir() for path in files(store)}
    for made in (COUNT, 0):
        said = extract(pictures, f"s3://{bucket}/deep/features")
        assert said.returncode == 0 and json.loads(said.stdout)["made"] == made, said.stderr
        assert f"more in s3://{bucket}/deep/features" in said.stderr or not made
    found = objects(f"{bucket}/deep/features")
    assert found.pop("store.json") and found == wanted
    remote = s3fs.S3FileSystem(use_listings_cache=False)
    gone = next(name for name in remote.find(f"{bucket}/deep/features") if name.endswith(".safetensors"))
    remote.rm_file(gone)
    assert json.loads(extract(pictures, f"s3://{bucket}/deep/features").stdout)["made"] == 1
    assert objects(f"{bucket}/deep/features")[gone.rpartition("/")[2]] == wanted[gone.rpartition("/")[2]]


def test_a_run_reads_its_features_from_a_bucket(bucket, tmp_path):
    from helpers.runs import run_job, tiny_settings

    run_job(tiny_settings(), tmp_path / "local")
    run_job(tiny_settings(), tmp_path / "remote", store=Path(f"s3://{bucket}/features"))
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["methods"] for name in ("local", "remote")]
    assert metrics[0] == metrics[1] and sum(name.endswith(".safetensors") for name in objects(bucket)) == 8
    assert not (tmp_path / "remote" / "features").exists()


def test_what_is_wrong_is_told_in_one_sentence(server, bucket, pictures):
    asked = {"missing": "s3://no-such-bucket-here/features", "unreachable": f"s3://{bucket}/features"}
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for kind, out in asked.items():
        said = extract(pictures, out, nobody if kind == "unreachable" else None)
        assert said.returncode == 2 and "Traceback" not in said.stderr, said.stderr
        assert f"{out}/" in said.stderr and len(said.stderr.strip().splitlines()) == 1
