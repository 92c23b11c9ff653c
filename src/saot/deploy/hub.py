"""A finished run on a model hub: what it is packed as, and the way there and back through huggingface_hub."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from saot.data import parse_spec, read_record, write_atomic
from saot.deploy.licences import licence_of

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")  # OWNER/NAME
CARD, WEIGHTS = "README.md", "weights"
NETWORK, RECORDS = "decoder.safetensors", ("run.json", "metrics.json", "calibration.json")
PROJECTIONS = "projection-*.safetensors"  # of runs on features in this form
AGAIN = "give the same `saot run` command again"
OF_THE_HUB = ("huggingface_hub", "httpx", "httpx2", "requests")  # packages whose errors tell of the way there
SAID = (  # of run.json; the rest speaks of the machine
    "format", "estimate", "compare", "backbone", "preset", "seed", "label_budget", "divided", "features", "sizes",
    "data", "decoder_bias", "versions", "commit",
)  # fmt: skip


def is_hub_name(text: str) -> bool:
    """Whether a text may be OWNER/NAME of a hub.

    Example:
        >>> is_hub_name("somebody/street-day"), is_hub_name("runs/a/b"), is_hub_name("../mine")
        (True, False, False)
    """
    return NAME.fullmatch(text) is not None


def pack_run(run: Path, out: Path, *, weights: bool = True) -> Path:
    """Writes what others need of a finished run: network, scores, calibration, a model card, the backbone's file.

    No picture, no point and no path of this machine is among it: data sets are told by the last part of their names and
    by fingerprints.

    Args:
        run: The run folder.
        out: A folder that is missing or empty.
        weights: Whether the file of the backbone's weights goes along, where the run had one.

    Returns:
        `out`.

    Raises:
        ValueError: If it is no finished run of `saot run`, or `out` holds something.
    """
    record = read_record(run / "run.json", AGAIN)
    whole = all((run / name).is_file() for name in (NETWORK, *RECORDS))
    if not whole or "settings" not in record or record.get("kind") is not None:
        raise ValueError(f"expected the folder of a finished run of `saot run`; got {run}: {AGAIN}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected {out} to be missing or empty; choose another folder")
    settings = record["settings"]
    places = _places(settings)
    if settings["weights"] is not None and weights:
        if not Path(settings["weights"]).is_file():
            raise ValueError(
                f"expected the file of the backbone's weights; {settings['weights']} is none: use --no-weights, and "
                "whoever loads the run names theirs"
            )
        (out / WEIGHTS).mkdir(parents=True)
        shutil.copyfile(settings["weights"], out / WEIGHTS / Path(settings["weights"]).name)
    for path in [run / NETWORK, *run.glob(PROJECTIONS)]:
        write_atomic(out / path.name, path.read_bytes())
    kept = {**{name: record[name] for name in SAID if name in record}, "settings": settings}
    packed = {"run.json": kept}
    packed |= {name: json.loads((run / name).read_text()) for name in RECORDS[1:]}
    for name, values in packed.items():
        packed[name] = _without(values, places)
        write_atomic(out / name, (json.dumps(packed[name], indent=1) + "\n").encode())
    write_atomic(out / CARD, model_card(packed["run.json"], packed["metrics.json"]).encode())
    return out


def _places(settings: Mapping[str, Any]) -> dict[str, str]:
    """Each path that a run's settings hold, and what stands for it elsewhere."""
    found = {}
    for name in ("source", "target", "eval"):
        if settings.get(name) is not None:
            path = parse_spec(settings[name]).path
            found[path] = PurePath(path).name
    for name in ("points", "start"):
        if settings.get(name) is not None:
            found[settings[name]] = PurePath(settings[name]).name
    if settings["weights"] is not None:
        found[settings["weights"]] = f"{WEIGHTS}/{PurePath(settings['weights']).name}"
    return {path: name for path, name in found.items() if path != name}


def _without(values: Any, places: Mapping[str, str]) -> Any:
    """JSON values in whose texts no such path stands; the longest is replaced first."""
    if isinstance(values, str):
        for path in sorted(places, key=len, reverse=True):
            values = values.replace(path, places[path])
        return values
    if isinstance(values, list):
        return [_without(one, places) for one in values]
    if isinstance(values, dict):
        return {name: _without(one, places) for name, one in values.items()}
    return values


def model_card(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """README.md of a packed run: scores, label budget, expected quality, fingerprints, licence of the backbone.

    Args:
        run: Its run.json.
        metrics: Its metrics.json.
    """
    licence, settings = licence_of(run["backbone"]), run["settings"]
    head = ["library_name: saot", "pipeline_tag: image-segmentation"]
    head += [f"license: {licence}" if licence in ("apache-2.0", "creativeml-openrail-m") else "license: other"]
    head += ["tags:", "- semantic-segmentation", "- domain-adaptation", "- optimal-transport"]
    ours = metrics["methods"].get("saot_decoder", {})
    lines = [
        "# Semantic masks by saot",
        "",
        f"Labels pictures like those of `{settings['target']}` with {len(metrics['classes'])} classes. Learned from "
        f"`{settings['source']}` and {run['label_budget']:,} labels of the target, preset {run['preset']}, over frozen "
        f"features of {run['backbone']} (its licence: {licence or 'not known here'}).",
        "",
        "```python",
        "import saot",
        "",
        'run = saot.load("OWNER/NAME")',
        'run.predict("picture.jpg").plot()',
        "```",
        "",
        "## How good it is",
        "",
    ]
    lines += _scores(metrics, ours) if ours.get("miou") is not None else ["It was not scored on labelled pictures."]
    estimate = run.get("estimate") or {"miou": None, "why": "none was made"}
    if estimate["miou"] is None:
        lines += ["", f"Expected mIoU without such pictures: unknown; {estimate['why']}."]
    else:
        low, high = (f"{100 * estimate[name]:.1f}" for name in ("low", "high"))
        lines += [
            "",
            f"Expected mIoU from {estimate['points']} {estimate['basis']} points alone: {100 * estimate['miou']:.1f} % "
            f"({low} to {high}, {100 * estimate['level']:.0f} % interval).",
        ]
    lines += [
        "",
        "`calibration.json` holds temperatures and the thresholds of `saot predict --abstain`.",
        "",
        "## Data",
    ]
    lines += ["", "| set | pictures | SHA-256 of pictures and masks |", "| --- | ---: | --- |"]
    lines += [f"| {name} | {one['images']} | `{one['sha256']}` |" for name, one in run["data"].items() if one["images"]]
    lines += ["", f"saot {run['versions']['saot']}, commit {run['commit']}, seed {run['seed']}.", ""]
    return "\n".join(["---", *head, "---", "", *lines])


def _scores(metrics: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    lines = [f"mIoU {100 * ours['miou']:.1f} % on {metrics['images']} pictures of `{metrics['split']}`.", ""]
    lines += ["| class | IoU, % |", "| --- | ---: |"]
    for name, value in ours["iou"].items():
        shown = "not there" if value is None or value != value else f"{100 * value:.1f}"
        lines.append(f"| {name} | {shown} |")
    return lines


def push_run(run: Path, name: str, *, weights: bool = True, private: bool = False, endpoint: str | None = None) -> str:
    """Uploads a finished run, packed by `pack_run`; the repository is made where it is missing.

    Args:
        run: The run folder.
        name: OWNER/NAME.
        weights: Whether the file of the backbone's weights goes along.
        private: Whether a new repository can be seen by its owner alone.
        endpoint: Address of the hub; HF_ENDPOINT or huggingface.co unless given.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the name is none, the run is not finished, or the hub refuses.
    """
    if not is_hub_name(name):
        raise ValueError(f"expected the name on the hub as OWNER/NAME; got {name!r}")
    with _hub(name) as hub, tempfile.TemporaryDirectory() as folder:
        pack_run(run, Path(folder) / "run", weights=weights)
        card = Path(folder) / "run" / CARD
        card.write_text(card.read_text().replace('"OWNER/NAME"', f'"{name}"'))
        api = hub.HfApi(endpoint=endpoint, library_name="saot")
        api.create_repo(name, private=private or None, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=Path(folder) / "run", commit_message="A run of saot")
        return str(done.commit_url)


def pull_run(name: str, *, endpoint: str | None = None) -> Path:
    """A packed run from the hub, in huggingface_hub's cache; without a network what is there already.

    Args:
        name: OWNER/NAME.
        endpoint: As in `push_run`.

    Returns:
        Its folder.

    Raises:
        ValueError: If there is no such repository or no way to it, or it holds no packed run.
    """
    with _hub(name) as hub:
        wanted = [*RECORDS, NETWORK, CARD, f"{WEIGHTS}/*", PROJECTIONS]
        folder = Path(hub.snapshot_download(name, allow_patterns=wanted, endpoint=endpoint, library_name="saot"))
    if not (folder / "run.json").is_file():
        raise ValueError(f"expected a run of `saot push` in {name}; it has no run.json")
    weights = read_record(folder / "run.json", "use another repository").get("settings", {}).get("weights")
    if weights is not None and PurePath(weights).parts[:-1] != (WEIGHTS,):
        raise ValueError(f"expected the backbone's weights of {name} below {WEIGHTS}/; run.json names {weights!r}")
    return folder


@contextmanager
def _hub(name: str) -> Iterator[Any]:
    """The package huggingface_hub; what it raises becomes a sentence."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ValueError(
            "expected the package huggingface_hub, of the extra `hub`: python -m pip install huggingface_hub"
        ) from error
    try:
        yield hub
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OF_THE_HUB and not isinstance(error, OSError):
            raise
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"expected {name} on the hub, and a way to it; {type(error).__name__}: {said}") from error
