"""`saot compact`: a store of many files as one of few."""

from pathlib import Path

from saot.cli.shell import Bars, Json, app, print_json, say


@app.command
def compact(store: Path, /, *, out: Path, json: Json = False) -> None:
    """A store of features packed into few files and an index, to be read as before by `saot run --store OUT`.

    Pictures that are missing there are made as files beside the packed ones. The same command again goes on where it
    stopped; the store itself is left as it is.

    Example: `saot compact features --out packed`, then `saot run ... --store packed`

    Args:
        store: The --store of `saot run`, or the --out of `saot extract`.
        out: A new folder.
    """
    from saot.data import check_place
    from saot.features import compact_stores

    check_place(out)
    with Bars() as bars:
        found = compact_stores(store, out, bars)
    pictures, size = sum(one.pictures for one in found.values()), sum(one.size for one in found.values())
    files = sum(1 + len(one.shards) for one in found.values())
    left_out = [f"{name}/{file}" for name, one in found.items() for file in one.left_out]
    if json:
        about = {"pictures": pictures, "bytes": size, "files": files, "left_out": left_out}
        print_json({"out": str(out), "made": sum(one.made for one in found.values()), **about})
    else:
        print(f"{pictures} pictures in {files} files of {out}, {size / 1e6:.1f} MB")
    if left_out:
        say(
            f"{len(left_out)} files are damaged or were made otherwise, the first being {left_out[0]}; they were left "
            "out, and are made again where they are needed"
        )
