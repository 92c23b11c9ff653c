"""The main job and what surrounds it: demo, run, check, extract, predict, evaluate."""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from saot.cli.engines import Engine, machines
from saot.cli.rasters import label_raster, words
from saot.cli.shell import SOME_FAILED, Bars, Flag, Json, MaybeWhole, Whole, Words, app, print_json, say, use_workers
from saot.cli.videos import label_video

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
        say(note)
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
    start: Path | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    size: str | None = None,
    precision: str | None = None,
    mask_map: str | None = None,
    preset: str | None = None,
    set: Words = None,
    seed: MaybeWhole = None,
    source_pictures: MaybeWhole = None,
    target_pictures: MaybeWhole = None,
    config: Path | None = None,
    print_config: Flag = False,
    store: Path | None = None,
    store_form: str | None = None,
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
            in place of pixels), resample:N (the paper: patches anew each step), all drawn from the target's masks; a
            CSV file (image,x,y,class, also with semicolons or tabs), a folder of scribbles, or 0, as it is unless
            given; preset paper: resample:20.
        start: A finished run whose network this one goes on from, for a second round of clicks: a sixth of the steps
            of stage 1, a quarter of a round of stage 2. Its points have to be among the points.
        backbone: filterbank, mobile-sam, dinov2-small .. dinov2-giant[-reg], dinov3-..., vit-base, OWNER/NAME, or
            adapted, with --weights RUN of `saot adapt`; dinov2-large unless given.
        weights: File or folder of the backbone's weights, where it needs one.
        size: Input size, HEIGHTxWIDTH, the long side in pixels, or pad:SIDE, the long side in a black square whose
            empty tokens are left out, such as GWOT's pad:840; several with commas, such as --size 504x1008,672x1344,
            train a decoder at each and join them by weights learned on declared points.
        precision: Of the backbone: float32, or bf16, faster where the processor has it, with slightly other
            features; float32 unless given.
        mask_map: What the values in masks of a folder: mean, where they are no class indices:
            0=background,255=foreground (or binary for short), #000000=sky,#ff0000=road, grey (R = G = B is the index),
            or a file with a line for each; `ignore` for no class, * for every other value.
        preset: paper, paper-small, fast or best; best unless given. fast stays what it is when best changes. paper is
            the printed paper: it also takes its points, 1,000 pictures of each domain and 504x1008 pixels in whole
            patches, unless you say otherwise.
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
        store_form: How tokens are kept: half (16 bits a number), int8 (8 bits), or projected:NUMBERS (their leading
            directions, fitted on the first source pictures or taken from the store; 256 unless given). All networks see
            them so; half unless given. See docs/large-sets.md.
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
        "start": start,
        "backbone": backbone,
        "weights": weights,
        "size": size,
        "precision": precision,
        "mask_map": mask_map,
        "preset": preset,
        "seed": seed,
        "source_pictures": source_pictures,
        "target_pictures": target_pictures,
        "store": store,
        "store_form": store_form,
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
def check(
    spec: str,
    /,
    *,
    mask_map: str | None = None,
    backbone: str = "filterbank",
    weights: Path | None = None,
    size: str | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """What a data set holds: pictures, masks, sizes, classes, bad files, and the time and disk of its features.

    Every file is opened once. With bad files the exit code is 1.

    Example: `saot check folder:labelled --backbone mobile-sam --weights mobile_sam.pt`

    Args:
        spec: Pictures, with masks or without: NAME:PATH[:SPLIT].
        mask_map: As in `saot run`.
        backbone: As in `saot run`; its time is measured on the first picture.
        weights: As in `saot run`.
        size: As in `saot run`.
        device: As in `saot run`.
    """
    from saot.data import mask_map_of, survey
    from saot.tables import ALL_WINGS

    with Bars() as bars:
        found = survey(spec, ALL_WINGS.readers, mask_map_of(mask_map), bars.stage("check"))
        features = _expected(spec, found.sizes, backbone, weights, size, device)
    if json:
        print_json({**asdict(found), "features": features})
    else:
        print("\n".join(_check_words(found, features)))
    if found.bad:
        sys.exit(SOME_FAILED)


def _expected(
    spec: str, sizes: Mapping[str, int], backbone: str, weights: Path | None, size: str | None, device: str
) -> dict[str, str | float | None]:
    """Seconds and bytes of the features of every picture, counted in `sizes`, at all input sizes; null without any."""
    import time

    from saot.features import extract as features_of
    from saot.features import token_count
    from saot.label import parse_size, sizes_of
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    first = None
    with contextlib.suppress(ValueError):  # told by the survey
        images = ALL_WINGS.images(spec)
        for number in range(len(images)):
            with contextlib.suppress(ValueError, OSError):
                first = images.image(number)
                break
    if first is None:
        return {"backbone": backbone, "seconds": None, "bytes": None}
    seconds, room, taken = 0.0, 0, 0.0
    for one in sizes_of(size):
        network = ALL_WINGS.backbone(backbone, weights, size=parse_size(one), device=resolve_device(device))
        for _ in range(2):  # the first also loads the network
            began = time.monotonic()
            features_of(network, first, "")
            taken = time.monotonic() - began
        seconds += taken * sum(sizes.values())
        for shape, count in sizes.items():
            width, height = map(int, shape.split("x"))
            room += count * token_count(network, (height, width)) * network.key.dim * 2
    return {"backbone": backbone, "seconds": seconds, "bytes": room}


def _lasting(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    unit, size = next(one for one in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= 2 * one[1] or one[1] == 1)
    return f"some {seconds / size:.0f} {unit}"


def _check_words(found: Any, features: Mapping[str, Any]) -> list[str]:
    """A survey as lines to read."""
    total = max(sum(found.pixels.values()) + found.ignored, 1)
    classes = "1 class" if len(found.classes) == 1 else f"{len(found.classes)} classes"
    lines = [f"{found.spec}: {found.pictures} pictures, {found.masks} masks, {classes}"]
    sizes = [f"{size} ({count})" for size, count in list(found.sizes.items())[:6]]
    more = f" and {len(found.sizes) - 6} more" if len(found.sizes) > 6 else ""
    lines += [f"sizes (width x height): {', '.join(sizes)}{more}"] if sizes else []
    if found.masks:
        width = max(map(len, [*found.pixels, "ignore"]))
        rows = [*found.pixels.items(), ("ignore", found.ignored)]
        lines += [f"  {name:<{width}}  {100 * count / total:6.2f} %  {count:,} pixels" for name, count in rows]
    if features["seconds"] is not None:
        lines.append(
            f"features with {features['backbone']}: {_lasting(features['seconds'])} on this machine, "
            f"{features['bytes'] / 1e6:.1f} MB of disk (--backbone for another)"
        )
    lines += [f"bad: {why}" for why in found.bad.values()]
    return lines + [f"warning: {sentence}" for sentence in found.warnings]


@app.command
def extract(
    spec: str,
    *,
    out: Path,
    backbone: str = "dinov2-large",
    weights: Path | None = None,
    size: str | None = None,
    precision: str = "float32",
    form: str = "half",
    engine: Engine = "local",
    workers: MaybeWhole = None,
    address: str | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """Frozen features of a set of pictures, one file each; what is there already is kept.

    `saot run --store OUT` uses it. The same command given several times at once shares the work, on one machine or on
    several that see the store, as does `accelerate launch -m saot.cli extract ...`, where each process takes the GPU of
    its number. Each ends when everything is there.

    Example: `saot extract folder:shots --backbone filterbank --out features`

    Args:
        spec: Pictures: NAME:PATH[:SPLIT].
        out: The store: a folder, or an address such as s3://bucket/features. See docs/large-sets.md.
        backbone: As in `saot run`.
        weights: As in `saot run`.
        size: As in `saot run`; several get a folder each in the store.
        precision: float32, or bf16: faster features of mobile-sam and ViTs that are not the same and need a store of
            their own.
        form: half, int8 or projected:NUMBERS, as --store-form of `saot run`.
        engine: local, or ray: by all machines of a Ray cluster, which share the pictures and the store. See
            docs/large-sets.md.
        workers: Pictures at once on a CPU where the backbone is small, else threads; with ray, worker processes of one
            CPU or GPU each. All that there are unless given.
        address: Of a Ray cluster, such as 10.0.0.1:6379, or local for one of this machine alone; RAY_ADDRESS unless
            given, else the one that runs here, else a new one.
        device: As in `saot run`; with ray, auto takes GPUs where the cluster has any.
    """
    from saot.data import address_of, check_place
    from saot.deploy import Extraction, extract_on
    from saot.features import FeatureStore, Projected, StoreSize, check_room, in_form
    from saot.label import parse_size, seen_beside, size_folder, sizes_of, store_folder
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    if address_of(out) is None:
        check_place(out)
    elif form.startswith("projected"):
        raise ValueError(f"expected --form half or int8 where the store lies at an address; got {form}")
    with Bars() as bars, machines(engine, address, workers, device, bars.say) as cluster:
        seen = seen_beside(out)
        images = replace(ALL_WINGS, seen=seen).images(spec)
        sizes, where = sizes_of(size), "cpu" if cluster else resolve_device(device)
        options = {"device": where, "precision": precision}
        whole = [ALL_WINGS.backbone(backbone, weights, size=parse_size(one), **options) for one in sizes]
        networks = [in_form(network, form, [out], images) for network in whole]
        for network in networks:
            if isinstance(network, Projected):
                network.projection.save(out)
        folders = [store_folder(size_folder(out, one, sizes), spec) for one in sizes]
        stores = [FeatureStore(folder, network.key) for folder, network in zip(folders, networks, strict=True)]
        made = list(zip(stores, networks, strict=True))
        needed = sum((store.size(network, images) for store, network in made), StoreSize(0, 0, 0))
        count = 0
        if needed.pictures:
            bars.say(check_room(out, needed))
        for one, (store, network) in zip(sizes, made, strict=True):
            progress = bars.stage("features" if len(sizes) == 1 else f"{one}: features")
            if cluster is None:
                count += store.ensure(images, network, progress, seen=seen)
            else:
                job = Extraction(spec, out, store.root, backbone, weights, one, precision, form, ALL_WINGS)
                count += extract_on(cluster, job, store, images, seen, progress)
    seen.save()
    if json:
        several = {} if len(sizes) == 1 else {"stores": [str(folder) for folder in folders]}
        print_json(
            {"store": str(folders[0]), "images": len(images), "dim": networks[0].key.dim, "made": count, **several}
        )
    else:
        print("\n".join(f"{len(images)} pictures in {folder}" for folder in folders))


@app.command
def predict(
    run: Path,
    images: list[Path],
    /,
    *,
    out: Path,
    format: str | None = None,
    abstain: float | None = None,
    bands: str | None = None,
    stretch: str | None = None,
    tile: str | None = None,
    overlap: MaybeWhole = None,
    cog: Flag = False,
    every: str | None = None,
    topic: str | None = None,
    steady: Flag = False,
    engine: Engine = "local",
    workers: MaybeWhole = None,
    address: str | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """Masks for new pictures, each at its own size. The same command again goes on where it stopped.

    Example: `saot predict runs/mine new/ --out masks --format png,color,coco`

    A picture that cannot be read does not stop the others: such are listed at the end, and the exit code is 1. A large
    GeoTIFF is labelled as a whole where OUT is one, too: `saot predict runs/mine big.tif --out labels.tif`. Of a
    video each frame gets its mask: `saot predict runs/mine drive.mp4 --out masks`, or with --out overlay.mp4 a video.

    Args:
        run: Folder of a finished run.
        images: Pictures, or folders of them; sub-folders are mirrored, hidden files do not count. Or videos and ROS
            bags.
        out: Where the masks go. What this run has made there of the same pictures is kept.
        format: Any of png (class indices, one grey channel), palette (the same in the classes' colours), color
            (overlay), confidence (255 is 1), and of all pictures together, below annotations/, coco, cvat, cvat-mask,
            label-studio, labelme, fiftyone, yolo, with commas. docs/annotation.md has one section a tool. png unless
            given. Of a raster: tif, confidence, gpkg (polygons); tif unless given.
        abstain: Label only pixels sure enough that at most this share of them is wrong (0.01, 0.05 or 0.1), by the
            run's held-out points; the others are 255. See docs/calibration.md.
        bands: Of a raster: those for red, green and blue, such as 4,3,2, or one; as the run's own rasters had them,
            else the first three. See docs/rasters.md.
        stretch: Of a raster: which values become 0 and 255: percentiles 2:98, min:max, values 0..3000, or none; as the
            run's own rasters had it, else none for 8 bits and 2:98 for more.
        tile: Of a raster: pixels that the network sees at once, SIDE or HEIGHTxWIDTH; as the run's own rasters had it,
            else the run's input size.
        overlap: Of a raster: pixels over which neighbouring tiles are blended; a quarter of a tile unless given.
        cog: Of a raster: write a cloud-optimised GeoTIFF.
        every: Of a video: label each so many frames, such as 5, or seconds, such as 0.5s. See docs/video.md.
        topic: Of a ROS bag: the topic of the pictures, where it has several.
        steady: Of a video: let the frames before one count in its answer, so that labels flicker less.
        engine: As in `saot extract`; of pictures.
        workers: Pictures at once on a CPU, each with one thread, and so the same masks; or threads for one picture
            where the backbone is a ViT. All cores unless given. With --engine ray as in `saot extract`.
        address: As in `saot extract`.
        device: As in `saot extract`.
    """
    from saot.deploy import RasterSettings, VideoSettings, overlay_output, predict_on, raster_output, video_input
    from saot.label import predict_pictures
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    settings, video = RasterSettings(bands, stretch, tile, overlap, cog), VideoSettings(every, topic, steady)
    filmed = video_input(images)
    if not filmed and (video != VideoSettings() or overlay_output(out)):
        raise ValueError(f"--every, --topic, --steady and an --out of a video are for videos; got {images[0]}")
    if engine != "local" and (filmed or raster_output(out)):
        raise ValueError(f"--engine ray is for pictures; got {images[0]} and --out {out}: leave it out")
    if raster_output(out) and not filmed:
        use_workers(workers)
        label_raster(run, images, out, settings, format, abstain, device, json)
        return
    if settings != RasterSettings():
        raise ValueError(
            f"--bands, --stretch, --tile, --overlap and --cog are for one GeoTIFF and --out NAME.tif; got --out {out}"
        )
    formats = words("png" if format is None else format)
    if filmed:
        use_workers(workers)
        labelled = label_video(run, images, out, video, formats, abstain, device)
    else:
        with Bars() as bars, machines(engine, address, workers, device, bars.say) as cluster:
            asked = (run, images, out, formats, bars.stage("predict"), abstain, ALL_WINGS)
            if cluster is None:
                labelled = predict_pictures(*asked, resolve_device(device))
            else:
                labelled = predict_on(cluster, *asked)
    alone = [str(path) for path in labelled.left_alone]
    if json:
        failed = [{"image": image, "reason": reason} for image, reason in labelled.failed.items()]
        about = {"made": labelled.made, "failed": failed, "left_alone": alone}
        print_json({"out": str(out), "pictures": labelled.records(), **about})
    else:
        there = len(labelled.sizes) - labelled.made
        print(f"{len(labelled.sizes)} pictures labelled in {out}" + (f", {there} of them before" if there else ""))
    if alone:
        say(
            f"{len(alone)} files were there that no `saot predict` of this version has written, the first being "
            f"{alone[0]}; they were left alone, and so were their pictures: move them, or choose another --out"
        )
    if labelled.failed:
        print(f"saot: {len(labelled.failed)} of {len(labelled.pictures)} pictures have no mask:", file=sys.stderr)
        for reason in labelled.failed.values():
            print(f"  {reason}", file=sys.stderr)
        raise SystemExit(SOME_FAILED)


@app.command
def evaluate(
    run: Path,
    spec: str,
    /,
    *,
    mask_map: str | None = None,
    engine: Engine = "local",
    workers: MaybeWhole = None,
    address: str | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """Scores of a finished run's network on labelled pictures.

    Example: `saot evaluate runs/mine folder:checked`

    Args:
        run: Folder of a finished run.
        spec: Labelled pictures: NAME:PATH[:SPLIT].
        mask_map: As in `saot run`, whose own it is unless given; grey where masks hold class indices after all.
        engine: As in `saot extract`.
        workers: As in `saot extract`.
        address: As in `saot extract`.
        device: As in `saot extract`.
    """
    from saot.data import mask_map_of
    from saot.deploy import evaluate_on
    from saot.evaluate import format_table
    from saot.label import evaluate_run
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    wings = replace(ALL_WINGS, mask_map=mask_map_of(mask_map))
    with Bars() as bars, machines(engine, address, workers, device, bars.say) as cluster:
        progress = bars.stage("evaluate")
        if cluster is None:
            metrics = evaluate_run(run, spec, progress, wings, resolve_device(device))
        else:
            metrics = evaluate_on(cluster, run, spec, progress, wings)
    if json:
        print_json(metrics)
    else:
        print(format_table(metrics))
