"""What surrounds people who label: suggest, import, explore, serve."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from saot.cli.shell import Bars, Flag, Json, Whole, app, print_json, say


@app.command
def suggest(
    run: Path,
    /,
    *,
    out: Path,
    count: Whole = 100,
    by: str = "transport",
    seed: Whole = 0,
    store: Path | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """Which pixels of the target to label next, best first, spread over classes and pictures, one a region.

    Example: `saot suggest runs/mine --count 100 --out clicks.csv`, fill in the column class, then `saot run ...
    --points clicks.csv --out runs/second`

    Args:
        run: Folder of a finished run.
        out: A table (.csv), or points for CVAT (.xml) or Label Studio (.json), shown there with the network's class.
        count: How many clicks a person can make.
        by: transport (uncertainty times impurity of the region, plus the mass that no source explains), impure (the
            same without the mass), entropy, margin, disagreement (of the labels that sources give), coreset (far from
            all chosen tokens) or random.
        seed: Of random draws.
        store: Folder of the run's features, if it had one.
        device: As in `saot run`.
    """
    from saot.annotate import check_ending, suggest, write_clicks
    from saot.label import reopened
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    check_ending(out)
    with Bars() as bars, reopened(run, ALL_WINGS, store=store, device=resolve_device(device), progress=bars) as made:
        finished, contest = made
        found = suggest(finished, contest, count, rule=by, seed=seed, progress=bars.stage("suggest"))
    write_clicks(out, found, finished.classes)
    if json:
        print_json({"out": str(out), "clicks": len(found), "pictures": len({one.image for one in found})})
    else:
        print(f"{len(found)} pixels of {len({one.image for one in found})} pictures in {out}")


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    images: Path,
    out: Path,
    classes: str | None = None,
    before: Path | None = None,
    accept: Flag = False,
    json: Json = False,
) -> None:
    """What people corrected in a tool, as a `folder:` set to learn from and as clicks, with their label budget.

    Example: `saot import annotations.xml --from cvat --images new --classes runs/mine --out corrected`

    Only what a person changed is a label, as far as the tool or --before tells; the other pixels are 255.

    Args:
        file: The tool's export, a file, or a folder for fiftyone, yolo and labelme.
        from_: coco, cvat, cvat-mask, label-studio, labelme, fiftyone or yolo.
        images: Folder of the pictures, the one that was labelled.
        out: Gets images, masks, classes.txt, points.csv (if there are clicks) and import.json.
        classes: What the indices in the masks are to mean: a run's folder, a classes.txt, or a known set such as
            cityscapes19; the labels that occur, sorted by name, unless given.
        before: Folder of masks that `saot predict` wrote of these pictures: pixels that are still as predicted are no
            labels.
        accept: Somebody has looked at the pictures whole: what was left as it was counts too.
    """
    from saot.annotate import classes_named, import_annotations
    from saot.tables import ALL_WINGS

    named = None if classes is None else classes_named(classes, ALL_WINGS)
    with Bars() as bars:
        made = import_annotations(
            file, from_, images, out, classes=named, before=before, accept=accept, progress=bars.stage("import")
        )
    if json:
        print_json({"out": str(out), "classes": list(made.classes.names), **made.record()})
        return
    print(made.said())
    if made.unchanged:
        say(
            f"{len(made.unchanged)} pictures hold nothing but what was predicted, the first being {made.unchanged[0]}; "
            "they are left out: give --accept if somebody has looked at them"
        )
    if made.left_out:
        key, kinds = next(iter(made.left_out.items()))
        say(f"{len(made.left_out)} pictures hold what no mask can be made of, such as {', '.join(kinds)} in {key}")


@app.command
def explore(
    run: Path,
    /,
    *,
    out: Path | None = None,
    on: Literal["target", "eval"] = "target",
    store: Path | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """One page to look into a run: click a pixel, see the network's answer and the source patches matched with it.

    It opens from disk without a server, and clicks that you add there are saved as points.csv.

    Example: `saot explore runs/mine`, then open runs/mine/explore.html

    Args:
        run: Folder of a finished run.
        out: The page; explore.html in the run folder unless given. With more than 50 pictures a folder beside it holds
            their data.
        on: target, or eval: the pictures that were scored, with a map of errors.
        store: Folder of the run's features, if it had one.
        device: As in `saot run`.
    """
    from saot.annotate import write_explorer
    from saot.label import reopened
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    place = out or run / "explore.html"
    with Bars() as bars, reopened(run, ALL_WINGS, store=store, device=resolve_device(device), progress=bars) as made:
        write_explorer(*made, place, on, progress=bars.stage("explore"))
    if json:
        print_json({"out": str(place)})
    else:
        print(f"page: {place}")


@app.command
def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: Whole = 9090,
    folder: Path = Path(),
    device: str = "auto",
    json: Json = False,
) -> None:
    """Answers Label Studio, which asks the run for predictions as its ML backend. Ctrl-C ends it.

    Example: `saot serve runs/mine --folder new`, then add http://127.0.0.1:9090 under "Model" in the project's settings

    Args:
        run: Folder of a finished run.
        host: Where to listen; this machine alone unless given. Whoever can reach another address can ask, without a
            password.
        port: Where to listen; 0 takes one that is free.
        folder: Of the pictures, the current one unless given. Nothing outside it is read, and nothing is fetched.
        device: As in `saot run`.
    """
    from saot.annotate import RunServer, is_loopback, version_of
    from saot.label import open_run
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    opened = open_run(run, ALL_WINGS, resolve_device(device))
    with RunServer(opened, folder, host, port, version_of(run)) as server:
        if not is_loopback(host):
            say(f"whoever can reach {server.address} can ask for masks of the pictures below {folder}: no password")
        if json:
            print_json({"address": server.address, "model_version": server.version})
        else:
            print(f"listening at {server.address}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
