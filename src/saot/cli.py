"""The command line: the only place that prints, parses arguments or exits."""

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

app = App(
    name="saot",
    help="Carry dense labels from pictures that have them to pictures that do not, by optimal transport.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    version_flags=["--version"],
)
console = Console(stderr=True)
USAGE_ERROR, INTERRUPTED = 2, 130

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as one JSON object.")]


class Bars:
    """A progress bar a stage, with the time left; nothing where nobody is looking."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if stage not in self.tasks:
            self.tasks[stage] = self.bar.add_task(stage, total=total)
        self.bar.update(self.tasks[stage], completed=done, total=total)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """The callback of one stage."""
        return lambda done, total: self(name, done, total)


def _print_json(value: Any) -> None:
    print(json.dumps(value))


def _run(settings: Any, out: Path, as_json: bool, store: Path | None = None, device: str = "cpu") -> None:
    from saot.evaluate import format_table
    from saot.pipeline import run_job

    with Bars() as bars:
        outcome = run_job(settings, out, store=store, device=device, progress=bars)
    if as_json:
        _print_json({"out": str(out), "report": str(out / "report.html"), **outcome.metrics})
        return
    for note in outcome.run["notes"]:
        console.print(f"[yellow]note:[/] {note}")
    print(format_table(outcome.metrics))
    print(f"\nreport: {out / 'report.html'}")


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: int = 0, json: Json = False) -> None:
    """The whole main job on the built-in scenes: no download, no files needed.

    Labelled pictures of a clean "game" world, unlabelled ones of a "street", 20 points a class and picture.

    Example: `saot demo --out runs/demo`

    Args:
        out: The run folder.
        seed: Fixes every draw.
    """
    from saot.pipeline import RunSettings
    from saot.recipes import DEMO, DEMO_SIZE, DEMO_SOURCE, DEMO_TARGET, DEMO_TEST

    settings = RunSettings(
        source=DEMO_SOURCE,
        target=DEMO_TARGET,
        eval=DEMO_TEST,
        points="20",
        size=DEMO_SIZE,
        seed=seed,
        recipe=DEMO,
    )
    _run(settings, out, json)


@app.command
def run(
    *,
    source: str,
    target: str,
    out: Path,
    eval: str | None = None,
    points: str = "0",
    backbone: str = "dinov2-large",
    weights: Path | None = None,
    size: str | None = None,
    preset: str = "best",
    seed: int = 0,
    store: Path | None = None,
    device: str = "cpu",
    json: Json = False,
) -> None:
    """The main job on your pictures. The same command again goes on where it stopped.

    Example: `saot run --source folder:labelled --target folder:new --points clicks.csv --backbone mobile-sam
    --weights mobile_sam.pt --out runs/mine`

    Args:
        source: Labelled pictures: NAME:PATH[:SPLIT], such as folder:shots, gta5:/data/gta5, camvid:PATH:day.txt.
        target: Pictures to label. Their masks, if any, are read for the declared points, and by the oracle row alone.
        out: The run folder.
        eval: Labelled pictures to score on.
        points: Label budget: N a class and picture, total:N a class, resample:N (the paper), a CSV file
            (image,x,y,class), a folder of scribbles, or 0.
        backbone: filterbank, mobile-sam, dinov2-small .. dinov2-giant[-reg], dinov3-..., vit-base, or OWNER/NAME.
        weights: File or folder of the backbone's weights, where it needs one.
        size: Input size, HEIGHTxWIDTH or the long side in pixels.
        preset: paper, paper-small or best.
        seed: Fixes every draw.
        store: Folder for features, to share them between runs.
        device: cpu, cuda, cuda:1 ...
    """
    from saot.pipeline import RunSettings
    from saot.recipes import preset as preset_named

    settings = RunSettings(
        source=source,
        target=target,
        eval=eval,
        points=points,
        backbone=backbone,
        weights=None if weights is None else str(weights),
        size=size,
        seed=seed,
        recipe=preset_named(preset),
    )
    _run(settings, out, json, store, device)


@app.command
def extract(
    spec: str,
    *,
    out: Path,
    backbone: str = "dinov2-large",
    weights: Path | None = None,
    size: str | None = None,
    json: Json = False,
) -> None:
    """Frozen features of a set of pictures, one file each; what is there already is kept.

    Under `accelerate launch -m saot.cli extract ...` the processes share the work. `saot run --store OUT` uses it.

    Example: `saot extract folder:shots --backbone filterbank --out features`

    Args:
        spec: Pictures: NAME:PATH[:SPLIT].
        out: The store.
        backbone: As in `saot run`.
        weights: As in `saot run`.
        size: As in `saot run`.
    """
    import os

    from saot.data import open_images
    from saot.features import FeatureStore, load_backbone
    from saot.pipeline.settings import parse_size, store_folder

    images = open_images(spec)
    network = load_backbone(backbone, weights, size=parse_size(size))
    features = FeatureStore(store_folder(out, spec), network.key)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with Bars() as bars:
        features.ensure(images, network, bars.stage("features"), rank=rank, world=world)
    if json:
        _print_json({"store": str(store_folder(out, spec)), "images": len(images), "dim": network.key.dim})
    elif rank == 0:
        print(f"{len(images)} pictures in {store_folder(out, spec)}")


@app.command
def predict(
    run: Path,
    images: list[Path],
    /,
    *,
    out: Path,
    format: str = "png",
    abstain: float | None = None,
    json: Json = False,
) -> None:
    """Masks for new pictures, each at its own size.

    Example: `saot predict runs/mine new/ --out masks --format png,color,coco`

    Args:
        run: Folder of a finished run.
        images: Pictures, or folders of them.
        out: Where the masks go.
        format: Any of png (class indices), color (overlay), coco (RLE in annotations.json), with commas.
        abstain: Label only pixels sure enough that at most this share of them is wrong (0.01, 0.05 or 0.1), by the
            run's held-out points; the others are 255. See docs/calibration.md.
    """
    from saot.pipeline import predict_pictures

    with Bars() as bars:
        records = predict_pictures(
            run, images, out, [f.strip() for f in format.split(",") if f.strip()], bars.stage("predict"), abstain
        )
    if json:
        _print_json({"out": str(out), "pictures": records})
    else:
        print(f"{len(records)} pictures labelled in {out}")


@app.command
def evaluate(run: Path, spec: str, /, *, json: Json = False) -> None:
    """Scores of a finished run's network on labelled pictures.

    Example: `saot evaluate runs/mine folder:checked`

    Args:
        run: Folder of a finished run.
        spec: Labelled pictures: NAME:PATH[:SPLIT].
    """
    from saot.evaluate import format_table
    from saot.pipeline import evaluate_run

    with Bars() as bars:
        metrics = evaluate_run(run, spec, bars.stage("evaluate"))
    if json:
        _print_json(metrics)
    else:
        print(format_table(metrics))


@app.command
def match(
    source: Path,
    targets: list[Path],
    /,
    *,
    out: Path = Path("runs/match"),
    method: str = "gwot",
    points: str | None = None,
    readout: str = "argmax",
    backbone: str = "filterbank",
    weights: Path | None = None,
    size: str | None = None,
    masks: str = "all",
    sam: Path | None = None,
    structure: str = "grid",
    features: str | None = None,
    labels: Path | None = None,
    device: str = "cpu",
    json: Json = False,
) -> None:
    """Dense correspondence of a picture with one or several others: matches.json and matches.png.

    Without options nothing is downloaded: hand-made features, the whole picture as mask, the patch grid as structure.

    Example: `saot match cat.jpg dog.jpg --points "120,80;160,82" --backbone mobile-sam --weights mobile_sam.pt --masks
    sam --out runs/cats`

    Args:
        source: The picture to match from.
        targets: The pictures to match to.
        out: Where matches.json and matches.png go.
        method: nn, mutual-nn, uot, gwot or shape-of-you.
        points: Key points of the source to carry over: "x,y;x,y" in pixels, or a CSV file with columns x, y and name.
        readout: From scores to a place: argmax, soft, window, parabola or mass.
        backbone: As in `saot run`.
        weights: As in `saot run`.
        size: As in `saot run`.
        masks: all, sam (the object at each picture's centre), or mask files with commas, source first, - for none.
        sam: The published mobile_sam.pt, for --masks sam; that of the backbone unless given.
        structure: For shape-of-you: grid, depth:MODEL, metric:MODEL, vggt, or files (.npz, .safetensors) with commas,
            source first.
        features: Files (.npz, .safetensors) with commas, source first, holding `features` (rows, columns, numbers) of
            networks that run elsewhere; the backbone is not used then.
        labels: Mask of the source (class index per pixel, 255 for none), to carry along the targets in their order.
        device: cpu, cuda, cuda:1 ...
    """
    from saot.match import MatchSettings
    from saot.pipeline import MatchRequest, match_pictures

    request = MatchRequest(
        source=source,
        targets=tuple(targets),
        settings=MatchSettings.named(method, readout),
        points=points,
        backbone=backbone,
        weights=None if weights is None else str(weights),
        size=size,
        masks=masks,
        sam=None if sam is None else str(sam),
        structure=structure,
        features=features,
        labels=None if labels is None else str(labels),
        device=device,
    )
    with Bars() as bars:
        result = match_pictures(request, out, bars)
    if json:
        _print_json({"out": str(out), **result})
        return
    for pair in result["pairs"]:
        print(f"{pair['image']}: {len(pair['matches'])} tokens matched{', ' + pair['note'] if pair['note'] else ''}")
        for point in pair["points"]:
            x, y = point["to"]
            print(
                f"  {point['name']}: {point['from'][0]:g},{point['from'][1]:g} -> {x:g},{y:g}  ({point['confidence']})"
            )
    for one in result["labels"]:
        print(f"{one['image']}: labels in {out / one['mask']}, mean confidence {one['mean']}")
    print(f"{out / 'matches.png'}")


@app.command
def reproduce(
    table: str | None = None,
    /,
    *,
    list_names: Annotated[bool, Parameter(name="--list", negative="", help="Name every table and figure.")] = False,
    source: str | None = None,
    target: str | None = None,
    eval: str | None = None,
    points: str | None = None,
    backbone: str = "filterbank",
    weights: Path | None = None,
    size: str | None = None,
    counts: str = "small",
    seeds: str = "0",
    columns: str = "",
    backbones: str = "",
    limit: int | None = None,
    sam: Path | None = None,
    structure: str | None = None,
    out: Path | None = None,
    runs: Path | None = None,
    store: Path | None = None,
    device: str = "cpu",
    json: Json = False,
) -> None:
    """A table or figure of the paper on the data you have, its numbers beside yours.

    The same command again goes on where it stopped. Without data it runs on the built-in scenes.

    Example: `saot reproduce saot-table-5 --source gta5:/data/gta5 --target cityscapes:/data/cityscapes:train --eval
    cityscapes:/data/cityscapes:val --backbone dinov2-large`

    Args:
        table: One that --list names, such as saot-table-1.
        list_names: Name every table and figure; with --json also rows, columns and what each needs.
        source: Labelled pictures, as in `saot run`. Give source, target and eval, or none of them. Of gwot-... and
            soy-...: the pairs, such as spair:PATH:test; see docs/matching.md.
        target: Pictures to adapt to, with masks that points are drawn from.
        eval: Labelled pictures to score on.
        points: Label budget, as in `saot run`; the paper's resample:20 unless given.
        backbone: As in `saot run`.
        weights: As in `saot run`.
        size: Base input size, as in `saot run`; tables that compare sizes multiply it.
        counts: paper (the paper's steps, pictures and sizes, for a GPU), small (preset paper-small) or tiny (a test).
        seeds: Whole numbers with commas; one run each.
        columns: Keys of the columns to make, with commas, such as 0,total:20 for saot-best; all unless given.
        backbones: NAME or NAME=WEIGHTS with commas, for saot-table-19.
        limit: Of gwot-... and soy-...: at most so many pairs, spread over the set.
        sam: Of soy-...: the published mobile_sam.pt, for object masks where the set has none.
        structure: Of soy-...: depth:MODEL, metric:MODEL or vggt, for points in space.
        out: Where table.json, table.md, table.html and figures go; runs/reproduce/TABLE unless given.
        runs: Where the runs lie; tables that share it share trainings. OUT/runs unless given.
        store: Where features lie; RUNS/features unless given.
        device: As in `saot run`.
    """
    from saot.reproduce import EXPERIMENTS, Request, experiment_named
    from saot.reproduce import reproduce as make
    from saot.reproduce.matching import MATCH_EXPERIMENTS, MatchTableRequest, match_table

    if list_names:
        known = {**EXPERIMENTS, **MATCH_EXPERIMENTS}
        if json:
            _print_json({name: experiment.describe() for name, experiment in known.items()})
        else:
            print("\n".join(known))
        return
    if table is None:
        raise ValueError("expected the name of a table, such as saot-table-1; none came: --list names them")
    folder = out or Path("runs", "reproduce", table)
    if table in MATCH_EXPERIMENTS:
        asked = MatchTableRequest.from_words(
            seeds,
            pairs=source,
            backbone=backbone,
            weights=None if weights is None else str(weights),
            size=size,
            sam=None if sam is None else str(sam),
            structure=structure,
            limit=limit,
            device=device,
        )
        with Bars() as bars:
            result = match_table(MATCH_EXPERIMENTS[table], asked, folder, runs=runs, store=store, progress=bars)
        _show_table(result, folder, json)
        return
    experiment_named(table)
    request = Request.from_words(
        (source, target, eval),
        seeds,
        backbones,
        points=points,
        backbone=backbone,
        weights=None if weights is None else str(weights),
        size=size,
        counts=counts,
    )
    with Bars() as bars:
        wanted = [part.strip() for part in columns.split(",") if part.strip()]
        result = make(table, request, folder, columns=wanted, runs=runs, store=store, device=device, progress=bars)
    _show_table(result, folder, json)


def _show_table(result: Any, folder: Path, as_json: bool) -> None:
    from saot.reproduce import text_table

    if as_json:
        _print_json({"out": str(folder), **result.to_dict()})
        return
    print(text_table(result))
    print(f"\n{folder / 'table.html'}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong input (one sentence, no traceback), 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    warnings.simplefilter("once")
    try:
        app(arguments, console=console, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_refuse(f"{error}".strip().splitlines()[0] if str(error).strip() else "wrong arguments"))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(_refuse(str(error)))
    except MemoryError:
        sys.exit(_refuse("out of memory: give a smaller --size, or free some and give the same command again"))
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        sys.exit(_refuse("out of memory on the device: give a smaller --size or --device cpu"))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(INTERRUPTED)


def _refuse(sentence: str) -> int:
    print(f"saot: {sentence}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    main()
