"""Matching, and the tables of the papers."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from saot.cli.shell import Bars, Flag, Json, MaybeWhole, Whole, Words, app, print_json


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
    layers: str | None = None,
    masks: str = "all",
    sam: Path | None = None,
    structure: str = "grid",
    features: str | None = None,
    labels: Path | None = None,
    adapter: Path | None = None,
    pca: str | None = None,
    remove_position: str | None = None,
    device: str = "auto",
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
        layers: Of the backbone, with commas; of joined ones networks apart by +, such as s5,s4,s3+11.
        masks: all, sam (the object at each picture's centre), or mask files with commas, source first, - for none.
        sam: The published mobile_sam.pt, for --masks sam; that of the backbone unless given.
        structure: For shape-of-you: grid, depth:MODEL, metric:MODEL, vggt, or files (.npz, .safetensors) with commas,
            source first.
        features: Files (.npz, .safetensors) with commas, source first, holding `features` (rows, columns, numbers) of
            networks that run elsewhere; the backbone is not used then.
        labels: Mask of the source (class index per pixel, 255 for none), to carry along the targets in their order.
        adapter: A trained adapter of Shape-of-You: the adapter-*.safetensors that `saot reproduce soy-...` leaves among
            its runs, or a folder with a single one; give the backbone it was trained on.
        pca: Reduce maps of the features by one PCA of each pair, as sd-dino does with Stable Diffusion's: a number for
            each map, networks apart by +, maps by commas, empty for what stays, such as 256+ for
            stable-diffusion+dinov2-base.
        remove_position: Take a token's place out of the features: 95% of what place changes in noise pictures, or a
            number of directions; for DINOv3 and its like.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1 ...
    """
    from saot.match import MatchRequest, MatchSettings, match_pictures
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    request = MatchRequest(
        source=source,
        targets=tuple(targets),
        settings=MatchSettings.named(method, readout),
        points=points,
        backbone=backbone,
        weights=None if weights is None else str(weights),
        size=size,
        layers=layers,
        masks=masks,
        sam=None if sam is None else str(sam),
        structure=structure,
        features=features,
        labels=None if labels is None else str(labels),
        adapter=None if adapter is None else str(adapter),
        pca=pca,
        remove_position=remove_position,
        device=resolve_device(device),
    )
    with Bars() as bars:
        result = match_pictures(request, out, bars, ALL_WINGS)
    if json:
        print_json({"out": str(out), **result})
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


def rows_listed(experiment: Any) -> str:
    """A table's rows: those that are made, and those that are not and why."""
    told = experiment.describe()
    lines = [f"{told['title']} ({told['location']}); needs {told['needs']}"]
    lines += [f"  {label}" for label in told["makes"]]
    lines += [f"  not made: {label}: {why}" for label, why in told["cannot"].items()]
    return "\n".join(lines)


@app.command
def reproduce(
    table: str | None = None,
    /,
    *,
    list_names: Annotated[bool, Parameter(name="--list", negative="", help="Name every table and figure.")] = False,
    source: str | None = None,
    target: str | None = None,
    eval: str | None = None,
    source_eval: str | None = None,
    points: str | None = None,
    backbone: str = "filterbank",
    weights: Path | None = None,
    size: str | None = None,
    layers: str | None = None,
    final_norm: bool | None = None,
    counts: str = "small",
    set: Words = None,
    seeds: str = "0",
    columns: str = "",
    rows: Words = None,
    backbones: str = "",
    limit: MaybeWhole = None,
    mask_map: str | None = None,
    sam: Path | None = None,
    structure: str | None = None,
    masks: str | None = None,
    label_backbone: str | None = None,
    held_out: Whole = 0,
    pca: str | None = None,
    remove_position: str | None = None,
    out: Path | None = None,
    runs: Path | None = None,
    store: Path | None = None,
    device: str = "cpu",
    strict: Flag = False,
    json: Json = False,
) -> None:
    """A table or figure of the paper on the data you have, its numbers beside yours.

    The same command again goes on where it stopped. Without data it runs on the built-in scenes.

    Example: `saot reproduce saot-table-5 --source gta5:/data/gta5 --target cityscapes:/data/cityscapes:train --eval
    cityscapes:/data/cityscapes:val --backbone dinov2-large`

    Args:
        table: One that --list names, such as saot-table-1.
        list_names: Name every table and figure, or with TABLE its rows, those that are made and those that are not and
            why; with --json also columns and what each needs.
        source: Labelled pictures, as in `saot run`. Give source, target and eval, or none of them. Of gwot-... and
            soy-...: the pairs, such as spair:PATH:test; see docs/matching.md.
        target: Pictures to adapt to, with masks that points are drawn from. Of soy-...: the pairs to train on,
            such as spair:PATH:trn.
        eval: Labelled pictures to score on.
        source_eval: Of t2s-da-...: labelled source pictures that are not trained on.
        points: Label budget, as in `saot run`; the paper's resample:20 unless given.
        backbone: As in `saot run`. Of t2s-da-...: the encoder, as in `saot adapt`; that of the counts unless given.
        weights: As in `saot run`. Of t2s-da-...: the encoder's, or NAME=PATH of each with commas, such as
            mit-b5=PATH,resnet-101=PATH; with --counts small those of MobileSAM.
        size: Base input size, as in `saot run`; tables that compare sizes multiply it.
        layers: Of gwot-..., soy-... and match-...: layers of the backbone with commas, such as 9,11; its own default
            unless given.
        final_norm: Of the same tables: whether the backbone's final norm is applied; its own default unless given.
        counts: paper (the paper's steps, pictures and sizes, for a GPU), small (preset paper-small) or tiny (a test).
            Of soy-...: how adapters are trained.
        set: A setting of the recipe by its path, for every row, before a row's own changes, such as --set
            transport.tau=inf --set decoder.steps=4000. Of tables of labelling, and of t2s-da-... as in `saot adapt`.
        seeds: Whole numbers with commas; one run each.
        columns: Keys of the columns to make, with commas, such as 0,total:20 for saot-best; all unless given.
        rows: Labels of the rows to make, such as --rows "MLP + EMA" --rows "SAOT+Decoder" for saot-best; all unless
            given. Only what they need is trained.
        backbones: NAME or NAME=WEIGHTS with commas, for saot-table-19.
        limit: Of gwot-... and soy-...: at most so many pairs, spread over the set.
        mask_map: As in `saot run`. Of tables of labelling, and of t2s-da-...
        sam: Of soy-...: the published mobile_sam.pt, for object masks where the set has none.
        structure: Of soy-... on sets without depth: where tokens lie in space. depth:MODEL, metric:MODEL, vggt,
            files:FOLDER (NAME.npz or .safetensors a picture with `points` or `depth`, of DUSt3R or others), or grid.
        masks: Of gwot-... and soy-...: object masks: set, the set's own, or sam, those of --sam; of photographs sam
            where --sam is given, as in Shape-of-You, else set.
        label_backbone: Of soy-...: NAME or NAME=WEIGHTS of the network whose features pseudo-labels are made of, such
            as dinov2-base+stable-diffusion for an adapter on --backbone dinov2-base; the same unless given.
        held_out: Of soy-...: how many training pairs choose an adapter's weights by their loss; 0 takes the last ones.
        pca: Of gwot-... and soy-...: reduce maps of the features by one PCA of each pair, as in `saot match`, such as
            256+ for stable-diffusion+dinov2-base: sd-dino's. Adapters and their pseudo-labels take the maps whole.
        remove_position: Of the same tables: take a token's place out of the features of every row but adapters, as in
            `saot match`, such as 95%.
        out: Where table.json, table.md, table.html and figures go; runs/reproduce/TABLE unless given, with
            --set a folder of its own beside it.
        runs: Where the runs lie; tables that share it share trainings. OUT/runs unless given.
        store: Where features lie; RUNS/features unless given.
        device: As in `saot run`; cpu unless given.
        strict: End with an error where a mask has not the size of its picture or a key point lies outside it; else
            such pictures and pairs are left out, and named in the table's notes.
    """
    from saot.runs import resolve_device
    from saot.tables import Request, text_table
    from saot.tables import reproduce as make
    from saot.tables.presets import EXPERIMENTS, experiment_named

    if list_names:
        if json:
            chosen = EXPERIMENTS if table is None else {table: experiment_named(table)}
            print_json({name: experiment.describe() for name, experiment in chosen.items()})
        else:
            print("\n".join(EXPERIMENTS) if table is None else rows_listed(experiment_named(table)))
        return
    if table is None:
        raise ValueError("expected the name of a table, such as saot-table-1; none came: --list names them")
    request = Request.from_words(
        seeds,
        backbones,
        source=source,
        target=target,
        eval=eval,
        source_eval=source_eval,
        points=points,
        backbone=backbone,
        weights=weights,
        size=size,
        layers=layers,
        final_norm=final_norm,
        counts=counts,
        set=tuple(set or ()),
        sam=sam,
        structure=structure,
        masks=masks,
        label_backbone=label_backbone,
        held_out=held_out,
        pca=pca,
        remove_position=remove_position,
        limit=limit,
        mask_map=mask_map,
        device=resolve_device(device),
        strict=strict,
    )
    folder = out or Path("runs", "reproduce", request.folder_of(table))
    wanted = [part.strip() for part in columns.split(",") if part.strip()]
    with Bars() as bars:
        result = make(table, request, folder, columns=wanted, rows=rows or (), runs=runs, store=store, progress=bars)
    if json:
        print_json({"out": str(folder), **result.to_dict()})
        return
    print(text_table(result))
    print(f"\n{folder / 'table.html'}")
