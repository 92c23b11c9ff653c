"""The main job and what surrounds it: demo, run, extract, predict, evaluate."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from saot.cli.shell import Bars, Flag, Json, MaybeWhole, Whole, Words, app, console, print_json

Compare = Literal["none", "points", "all"]


def _run(
    settings: Any,
    out: Path,
    as_json: bool,
    store: Path | None = None,
    device: str = "cpu",
    compare: Compare | None = None,
    strict: bool = False,
) -> None:
    from saot.api import run_settings
    from saot.evaluate import format_table
    from saot.label import said

    with Bars() as bars:
        outcome = run_settings(settings, out, store, device, compare, strict, bars, bars.say)
    if as_json:
        print_json({"out": str(out), "report": str(out / "report.html"), **outcome.metrics})
        return
    for note in outcome.run["notes"]:
        console.print(f"[yellow]note:[/] {note}")
    print(said(outcome.run["estimate"]))
    if outcome.run["compare"] != "none" or outcome.metrics["images"]:
        print(format_table(outcome.metrics))
    print(f"\nreport: {out / 'report.html'}")


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: Whole = 0, json: Json = False) -> None:
    """The whole main job on the built-in scenes: no download, no files needed.

    Labelled pictures of a clean "game" world, unlabelled ones of a "street", 20 points a class and picture.

    Example: `saot demo --out runs/demo`

    Args:
        out: The run folder.
        seed: Fixes every draw.
    """
    from saot.label import RunSettings
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
    source: str | None = None,
    target: str | None = None,
    out: Path | None = None,
    eval: str | None = None,
    points: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    size: str | None = None,
    precision: str | None = None,
    preset: str | None = None,
    set: Words = None,
    seed: MaybeWhole = None,
    source_pictures: MaybeWhole = None,
    target_pictures: MaybeWhole = None,
    config: Path | None = None,
    print_config: Flag = False,
    store: Path | None = None,
    device: str | None = None,
    compare: Compare | None = None,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """The main job on your pictures. The same command again goes on where it stopped.

    Example: `saot run --source folder:labelled --target folder:new --points clicks.csv --backbone mobile-sam
    --weights mobile_sam.pt --out runs/mine`

    Source, target and out are needed, as options or in the --config file.

    Args:
        source: Labelled pictures: NAME:PATH[:SPLIT], such as folder:shots, gta5:/data/gta5, camvid:PATH:day.txt.
        target: Pictures to label. Their masks, if any, are read for the declared points, and by the oracle row alone.
        out: The run folder.
        eval: Labelled pictures to score on.
        points: Label budget: N a class and picture, total:N a class, patches:N or patches:total:N (patches by majority
            in place of pixels), resample:N (the paper: patches anew each step), a CSV file (image,x,y,class), a folder
            of scribbles, or 0, as it is unless given; preset paper: resample:20.
        backbone: filterbank, mobile-sam, dinov2-small .. dinov2-giant[-reg], dinov3-..., vit-base, OWNER/NAME, or
            adapted, with --weights RUN of `saot adapt`; dinov2-large unless given.
        weights: File or folder of the backbone's weights, where it needs one.
        size: Input size, HEIGHTxWIDTH, the long side in pixels, or pad:SIDE, the long side in a black square whose
            empty tokens are left out, such as GWOT's pad:840; several with commas, such as --size 504x1008,672x1344,
            train a decoder at each and join them by weights learned on declared points.
        precision: Of the backbone: float32, or bf16, faster where the processor has it, with slightly other
            features; float32 unless given.
        preset: paper, paper-small or best; best unless given. paper is the printed paper: it also takes its points,
            1,000 pictures of each domain and 504x1008 pixels in whole patches, unless you say otherwise.
        set: Any setting of the recipe by its path, such as --set transport.tau=inf --set cost.steps=2000;
            --print-config names them all.
        seed: Fixes every draw; 0 unless given.
        source_pictures: Use so many source pictures, drawn as in the paper, such as --source-pictures 500; all unless
            given.
        target_pictures: Use so many target pictures, the first ones, such as --target-pictures 500; all unless given.
        config: A TOML file with these options, and settings of the recipe in tables, such as --config mine.toml with
            `points = "20"` and, below `[transport]`, `tau = inf`. What the command line says goes before it.
        print_config: Print that file with everything that would be run, and end, as in `saot run ... --print-config >
            mine.toml`.
        store: Folder for features, to share them between runs.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1 ...; auto unless given.
        compare: What is trained beside the decoder: none, points (methods that see the same labels) or all; all with
            --eval, else none. The same command with more of it goes on.
        strict: End with an error where a mask has not the size of its picture; else such pictures are left out, and
            named.
    """
    from saot.cli.config import run_options

    given = {
        "source": source,
        "target": target,
        "out": out,
        "eval": eval,
        "points": points,
        "backbone": backbone,
        "weights": weights,
        "size": size,
        "precision": precision,
        "preset": preset,
        "seed": seed,
        "source_pictures": source_pictures,
        "target_pictures": target_pictures,
        "store": store,
        "device": device,
        "compare": compare,
        "strict": strict or None,
    }
    options = run_options(given, set or (), config)
    if print_config:
        print(options.toml(), end="")
        return
    store = None if options.store is None else Path(options.store)
    _run(options.settings, options.folder, json, store, options.device, options.compare, options.strict)


@app.command
def extract(
    spec: str,
    *,
    out: Path,
    backbone: str = "dinov2-large",
    weights: Path | None = None,
    size: str | None = None,
    precision: str = "float32",
    device: str = "auto",
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
        size: As in `saot run`; several get a folder each in the store.
        precision: float32, or bf16: faster features of mobile-sam and ViTs that are not the same and need a store of
            their own.
        device: As in `saot run`.
    """
    import os

    from saot.data import Fingerprints
    from saot.features import FeatureStore, StoreSize, check_room
    from saot.label import fingerprints_file, parse_size, size_folder, sizes_of, store_folder
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    seen = Fingerprints(fingerprints_file(out, out))
    images = replace(ALL_WINGS, seen=seen).images(spec)
    sizes, where = sizes_of(size), resolve_device(device)
    networks = [
        ALL_WINGS.backbone(backbone, weights, size=parse_size(one), device=where, precision=precision) for one in sizes
    ]
    folders = [store_folder(size_folder(out, one, sizes), spec) for one in sizes]
    stores = [FeatureStore(folder, network.key) for folder, network in zip(folders, networks, strict=True)]
    made = list(zip(stores, networks, strict=True))
    needed = sum((store.size(network, images) for store, network in made), StoreSize(0, 0, 0))
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with Bars() as bars:
        if needed.pictures:
            sentence = check_room(out, needed)
            if rank == 0:
                bars.say(sentence)
        for one, (store, network) in zip(sizes, made, strict=True):
            title = "features" if len(sizes) == 1 else f"{one}: features"
            store.ensure(images, network, bars.stage(title), rank=rank, world=world, seen=seen)
    seen.save()
    if json:
        several = {} if len(sizes) == 1 else {"stores": [str(folder) for folder in folders]}
        print_json({"store": str(folders[0]), "images": len(images), "dim": networks[0].key.dim, **several})
    elif rank == 0:
        print("\n".join(f"{len(images)} pictures in {folder}" for folder in folders))


@app.command
def predict(
    run: Path,
    images: list[Path],
    /,
    *,
    out: Path,
    format: str = "png",
    abstain: float | None = None,
    device: str = "auto",
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
        device: As in `saot run`.
    """
    from saot.label import predict_pictures
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    with Bars() as bars:
        records = predict_pictures(
            run,
            images,
            out,
            [f.strip() for f in format.split(",") if f.strip()],
            bars.stage("predict"),
            abstain,
            ALL_WINGS,
            resolve_device(device),
        )
    if json:
        print_json({"out": str(out), "pictures": records})
    else:
        print(f"{len(records)} pictures labelled in {out}")


@app.command
def evaluate(run: Path, spec: str, /, *, device: str = "auto", json: Json = False) -> None:
    """Scores of a finished run's network on labelled pictures.

    Example: `saot evaluate runs/mine folder:checked`

    Args:
        run: Folder of a finished run.
        spec: Labelled pictures: NAME:PATH[:SPLIT].
        device: As in `saot run`.
    """
    from saot.evaluate import format_table
    from saot.label import evaluate_run
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    with Bars() as bars:
        metrics = evaluate_run(run, spec, bars.stage("evaluate"), ALL_WINGS, resolve_device(device))
    if json:
        print_json(metrics)
    else:
        print(format_table(metrics))
