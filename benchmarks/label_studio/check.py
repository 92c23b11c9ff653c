"""A Label Studio server of its own asks `saot serve` for masks: `make test-label-studio`.

Starts both on this machine, makes a project through Label Studio's API, adds the backend, has it predict tasks of local
files and of an upload, and compares what Label Studio has then with the run. Ends with 1 where a pixel differs.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from saot.annotate import labelling_config, read_label_studio
from saot.label import Labeller, open_run
from saot.tables import ALL_WINGS

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PICTURES = "scenes:street:val,count=4,height=128,width=256"
PATIENCE = 300  # seconds until Label Studio has made its data base


def asked(
    address: str, value: Any = None, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, Any]:
    """Status and JSON of an answer of Label Studio's."""
    data = body if value is None else json.dumps(value).encode()
    request = Request(address, data, {"Authorization": f"Token {TOKEN}", "Content-Type": kind})
    try:
        with urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except HTTPError as error:
        return error.code, json.loads(error.read())


def label_studio(program: Path, out: Path, running: ExitStack) -> str:
    """Starts a server with a data base of its own; its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": out / "data",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": out / "pictures",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
        "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false",  # of the webhook that a backend gets
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    command = [program, "start", "--no-browser", "--internal-host", "127.0.0.1", "--host", address, "--port", str(port)]
    user = ["--username", "somebody@example.org", "--password", TOKEN, "--user-token", TOKEN]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    log = running.enter_context((out / "label-studio.log").open("wb"))
    process = running.enter_context(
        subprocess.Popen([*command, *user], env=environment | settings, stdout=log, stderr=log)
    )
    running.callback(process.terminate)
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and process.poll() is None:
        try:
            urlopen(f"{address}/health", timeout=5).close()
            return address
        except (URLError, OSError):
            time.sleep(1)
    raise SystemExit(f"Label Studio does not answer; see {out / 'label-studio.log'}")


def backend(run: Path, out: Path, running: ExitStack) -> str:
    """Starts `saot serve`; its address."""
    command = [sys.executable, "-m", "saot.cli", "serve", run, "--folder", out / "pictures", "--port", "0", "--json"]
    process = running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
    running.callback(process.terminate)
    assert process.stdout is not None
    return json.loads(process.stdout.readline())["address"]


def project(server: str, config: str) -> int:
    status, made = asked(f"{server}/api/projects", {"title": "masks", "label_config": config})
    assert status == 201, made
    return made["id"]


def upload(server: str, number: int, picture: Path) -> None:
    edge = "a-line-that-no-picture-has"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{picture.name}"\r\n'
    body = f"{head}Content-Type: image/png\r\n\r\n".encode() + picture.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    kind = f"multipart/form-data; boundary={edge}"
    status, answer = asked(f"{server}/api/projects/{number}/import", body=body, kind=kind)
    assert status == 201, answer


def predicted(server: str, model: str, config: str, pictures: list[Path], out: Path) -> dict[str, Any]:
    """The masks that Label Studio has of local files and of an upload after it has asked, by the address of each."""
    number = project(server, config)
    tasks = [{"data": {"image": f"/data/local-files/?d={one.name}"}} for one in pictures[1:]]
    status, answer = asked(f"{server}/api/projects/{number}/import", tasks)
    assert status == 201, answer
    upload(server, number, pictures[0])
    status, answer = asked(f"{server}/api/ml", {"project": number, "url": model, "title": "saot"})
    assert status == 201, answer
    action = f"{server}/api/dm/actions?project={number}&id=retrieve_tasks_predictions"
    status, answer = asked(action, {"selectedItems": {"all": True, "excluded": []}})
    assert status == 200, answer
    status, found = asked(f"{server}/api/tasks?project={number}&fields=all&page_size=100")
    assert status == 200, found
    done = [{"data": task["data"], "annotations": task["predictions"]} for task in found["tasks"]]
    (out / "predicted.json").write_text(json.dumps(done))
    return {one.name: one for one in read_label_studio(out / "predicted.json")}


def refusal(server: str, model: str, run: Labeller) -> str:
    """What Label Studio says of a configuration with a label that the run does not know."""
    config = labelling_config(run.classes).replace(f'"{run.classes.names[0]}"', '"unicorn"')
    status, answer = asked(f"{server}/api/ml", {"project": project(server, config), "url": model, "title": "saot"})
    return f"{status} {json.dumps(answer)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--program", type=Path, required=True, help="label-studio of an environment of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/label-studio"))
    given = parser.parse_args()
    out = given.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    (out / "pictures").mkdir(parents=True)
    images, run, wrong = ALL_WINGS.images(PICTURES), open_run(given.run, ALL_WINGS), 0
    places = [out / "pictures" / f"{number}.png" for number in range(len(images))]
    for number, place in enumerate(places):
        Image.fromarray(np.asarray(images.image(number))).save(place)
    with ExitStack() as running:
        model = backend(given.run, out, running)
        server = label_studio(given.program, out, running)
        for kind in ("brush", "bitmask"):
            found = predicted(server, model, labelling_config(run.classes, kind), places, out)
            equal = 0
            for address, one in found.items():
                truth = run.predict(out / "pictures" / address[-len("0.png") :]).mask
                equal += bool(one.size == truth.shape and np.array_equal(one.mask(run.classes), truth))
            wrong += len(places) - equal
            print(f"{kind}: {equal} of {len(places)} masks in Label Studio are those of the run")
        said = refusal(server, model, run)
        wrong += "the run does not know 'unicorn'" not in said
        print(f"a label too many: {said[:400]}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
