"""A finished run as a model of Label Studio's: the requests of its ML backends, answered over HTTP.

https://labelstud.io/guide/ml describes them, and `label_studio_ml/api.py` of label-studio-ml-backend answers them as
this does. Pictures are read below one folder alone; no address is fetched.
"""

import contextlib
import ipaddress
import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from saot.annotate.label_studio import prediction_of
from saot.annotate.tags import Tags, tags_of
from saot.label import Labeller, class_scores
from saot.report import MaskItem

EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")
PART = 1 << 16  # bytes read at a time
LOG = logging.getLogger(__name__)


class Refused(ValueError):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        body: Bytes of a request.
        tasks: Pictures of a request.
        connections: At a time; one more is told to come again.
        reading: Seconds in which a request has to be there.
        waiting: Seconds that a request waits for the predictions of others.
    """

    body: int = 64 << 20
    tasks: int = 1000
    connections: int = 16
    reading: float = 30.0
    waiting: float = 90.0


class RunServer(ThreadingHTTPServer):
    """Answers Label Studio until it is closed; listens once it is made, and answers in `serve_forever`.

    Args:
        run: Labels the pictures, one at a time.
        folder: Of the pictures.
        host: Where to listen.
        port: 0 takes one that is free.
        version: Of the model, as the tool shows it.
        limits: Of one request.

    Raises:
        ValueError: If the folder is missing or the port none.
        OSError: If nothing can listen there.
    """

    daemon_threads = True

    def __init__(
        self,
        run: Labeller,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 9090,
        version: str = "saot",
        limits: Limits = Limits(),
    ) -> None:
        if not Path(folder).is_dir():
            raise ValueError(f"expected the folder of the pictures; {folder} is none: give --folder")
        if not 0 <= port <= 65535:
            raise ValueError(f"expected a port from 0 to 65535; got {port}")
        self.run, self.folder, self.version, self.limits = run, Path(folder).resolve(), version, limits
        self.local = is_loopback(host)
        self.one_at_a_time = threading.Lock()
        self.free = threading.BoundedSemaphore(limits.connections)
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """Of the backend, to be given to Label Studio."""
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host}:{port}"

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # that of HTTPServer asks a name server
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.info("a connection from %s broke", client_address, exc_info=True)

    def predictions(self, asked: dict[str, Any]) -> list[dict[str, Any] | list[Any]]:
        """What the run says of each task, in their order; an empty list where its picture is missing.

        Raises:
            ValueError: If the request is not as Label Studio makes it.
            Refused: If all pictures are missing, or other requests take too long.
        """
        tasks, config = asked.get("tasks"), asked.get("label_config")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ValueError("expected tasks as a list of objects; got something else")
        if len(tasks) > self.limits.tasks:
            raise Refused(413, f"expected at most {self.limits.tasks} tasks a request; got {len(tasks)}: ask for fewer")
        if not isinstance(config, str):
            raise ValueError("expected label_config, the XML of the project's labelling configuration; got none")
        tags = tags_of(config, self.run.classes)
        places = self._places([_picture_of(task, tags) for task in tasks])
        if not self.one_at_a_time.acquire(timeout=self.limits.waiting):
            raise Refused(503, "other predictions are under way; ask again later")
        try:
            return [[] if place is None else self._prediction(place, tags) for place in places]
        finally:
            self.one_at_a_time.release()

    def _places(self, addresses: list[str]) -> list[Path | None]:
        """The files of pictures; None for one that is missing while others are there."""
        found: list[Path | None] = []
        missing: list[Refused] = []
        for address in addresses:
            try:
                found.append(picture_below(self.folder, address))
            except Refused as error:
                found.append(None)
                missing.append(error)
        if missing and len(missing) == len(found):
            raise missing[0]
        if missing:
            LOG.warning("%d of %d tasks have no prediction: %s", len(missing), len(found), printable(str(missing[0])))
        return found

    def _prediction(self, place: Path, tags: Tags) -> dict[str, Any]:
        found = self.run.predict(place)
        item = MaskItem(place.name, found.mask, class_scores(found.mask, found.confidence))
        return prediction_of(item, self.run.classes, tags, self.version)


def is_loopback(host: str) -> bool:
    """Whether an address is seen from this machine alone.

    Example:
        >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def printable(text: str) -> str:
    r"""One line of a terminal or of an HTTP head, in ASCII.

    Example:
        >>> printable("no class 'a\n\x1b[31m'")
        "no class 'a??[31m'"
    """
    return "".join(one if " " <= one <= "~" else "?" for one in text[:500])


def version_of(folder: Path) -> str:
    """Names a finished run for Label Studio; another run in the same folder has another name."""
    record = (Path(folder) / "run.json").read_bytes()
    return f"saot {Path(folder).resolve().name} {sha256(record).hexdigest()[:8]}"


def _picture_of(task: dict[str, Any], tags: Tags) -> str:
    data = task.get("data")
    address = data.get(tags.key) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise ValueError(
            f"expected the picture's address as data.{tags.key} of task {task.get('id')!r}; got {str(address)[:80]}"
        )
    return address


def picture_below(folder: Path, address: str) -> Path:
    """The file of a picture, of what Label Studio calls it; nothing outside the folder is ever one.

    Args:
        folder: Of the pictures, resolved.
        address: `/data/local-files/?d=PATH`, `/data/upload/PROJECT/NAME` or PATH, relative to the folder. An upload may
            also lie there without its first folders, or without the eight characters before its name.

    Raises:
        ValueError: If it is an address of another kind.
        Refused: If there is no such file.
    """
    for name in _names(address):
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long, a circle of links, a zero
            place = (folder / name).resolve()
            if place.is_relative_to(folder) and place.is_file():
                return place
    raise Refused(404, f"there is no picture {address[:200]!r} below the folder that was given to `saot serve`")


def _names(address: str) -> list[str]:
    """Where a picture may lie below its folder, the likeliest first."""
    if not address.startswith("/data/"):
        kind = address.partition("://")[0] if "://" in address else "//" if address.startswith("//") else ""
        if kind:
            raise ValueError(
                f"expected a picture on this disk; got {address[:200]!r}: `saot serve` fetches nothing. Give the task "
                "/data/local-files/?d=PATH, with PATH below --folder"
            )
        if address.startswith("/"):
            raise ValueError(f"expected a path below --folder; got {address[:200]!r}")
        return [address]
    parts = urlsplit(address)
    if parts.path.rstrip("/") == "/data/local-files":
        return parse_qs(parts.query).get("d", [])
    name = PurePosixPath(unquote(parts.path).removeprefix("/data/"))
    head, dash, tail = name.name.partition("-")
    own = dash and len(head) == 8 and all(one in "0123456789abcdef" for one in head)
    shorter = ["/".join(name.parts[first:]) for first in range(len(name.parts))]
    return [*shorter, tail] if own and tail else shorter


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server_version, sys_version = "saot", ""

    @property
    def backend(self) -> RunServer:
        assert isinstance(self.server, RunServer), "it is made by one"
        return self.server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.backend.limits.reading)
        self.clock = threading.Timer(self.backend.limits.reading, self._stop_reading)
        self.clock.daemon = True
        self.clock.start()

    def finish(self) -> None:
        self.clock.cancel()
        with contextlib.suppress(OSError):  # whoever asked has gone
            super().finish()

    def _stop_reading(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def do_GET(self) -> None:
        self._reply(GETS, lambda answer: answer(self.backend))

    def do_POST(self) -> None:
        self._reply(POSTS, lambda answer: answer(self.backend, self._asked()))

    def _reply(self, answers: dict[str, Any], call: Callable[[Any], tuple[int, Any]]) -> None:
        """The answer of a path, or a sentence."""
        path = "/" + urlsplit(self.path).path.strip("/")
        try:
            self._check_host()
            if path not in answers:
                other = path in GETS or path in POSTS
                raise Refused(405 if other else 404, f"{path[:200]} does not answer {self.command}")
            status, answer = call(answers[path])
        except ValueError as error:
            status, answer = error.status if isinstance(error, Refused) else 400, {"error": str(error)}
            LOG.warning("refused %s: %s", *(printable(one) for one in (path[:200], str(error))))
        except Exception as error:
            LOG.exception("%s failed", path)
            status, answer = 500, {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        self._answer(status, answer)

    def _check_host(self) -> None:
        """Refuses what a page in a browser may send here under a name of its own."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or "localhost"
        if self.backend.local and not is_loopback(host):
            raise Refused(403, f"expected a request to this machine; it is for {host[:100]!r}: give --host to allow it")

    def _asked(self) -> dict[str, Any]:
        """The JSON of a request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 15:
            raise ValueError("expected a request with its Content-Length; got none")
        body = self._body(int(length))
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, f"expected application/json; got {self.headers.get_content_type()[:100]}")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON; {str(error)[:200]}") from error
        if not isinstance(asked, dict):
            raise ValueError(f"expected a JSON object; got {type(asked).__name__}")
        return asked

    def _body(self, length: int) -> bytes:
        """All of it; of what is too long a little more is read, so that the answer is heard."""
        most, parts, left = self.backend.limits.body, [], length
        left = min(left, 4 * most)
        with contextlib.suppress(TimeoutError):  # what is missing then is told below
            while left and (part := self.rfile.read1(min(PART, left))):
                left -= len(part)
                if length <= most:
                    parts.append(part)
        self.clock.cancel()
        if length > most:
            raise Refused(413, f"expected a request of at most {most:,} bytes; got {length:,}: ask for fewer tasks")
        if left:
            raise ValueError(f"expected {length:,} bytes; {left:,} are missing")
        return b"".join(parts)

    def _answer(self, status: int, answer: Any) -> None:
        body = json.dumps(answer, allow_nan=False).encode()
        reason = printable(answer["error"]) if status >= 400 else None  # all that Label Studio shows of an error
        with contextlib.suppress(OSError):  # whoever asked has gone
            self.send_response(status, reason)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses is answered as JSON too."""
        self._answer(code, {"error": message or explain or self.responses.get(code, ("", ""))[0]})

    def log_message(self, format: str, *args: Any) -> None:
        LOG.info(format, *args)


def _health(server: RunServer) -> tuple[int, Any]:
    return 200, {"status": "UP", "model_class": "saot", "model_version": server.version}


def _setup(server: RunServer, asked: dict[str, Any]) -> tuple[int, Any]:
    schema = asked.get("schema")
    if schema is not None:
        if not isinstance(schema, str):
            raise ValueError("expected schema, the XML of the project's labelling configuration; got something else")
        tags_of(schema, server.run.classes)
    return 200, {"model_version": server.version}


def _predict(server: RunServer, asked: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"results": server.predictions(asked)}


def _webhook(server: RunServer, asked: dict[str, Any]) -> tuple[int, Any]:
    """A run learns nothing from single annotations: `saot import` makes a set of them."""
    if asked.get("action") not in EVENTS:
        return 200, {"status": "Unknown event"}
    return 201, {"result": None, "status": "ok"}


GETS = {"/": _health, "/health": _health, "/metrics": lambda server: (200, {})}
POSTS = {"/setup": _setup, "/predict": _predict, "/webhook": _webhook}
