"""A finished run for elsewhere: as one file, or on a model hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from saot.cli.shell import Bars, Flag, Json, app, print_json


@app.command
def export(
    run: Path,
    /,
    *,
    to: Literal["onnx", "torch"],
    out: Path,
    check: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    size: str | None = None,
    mask_size: str | None = None,
    precision: Literal["float32", "int8", "bf16"] = "float32",
    json: Json = False,
) -> None:
    """A finished run as one file, from pixels to mask and confidence, that needs no saot to run.

    The file's answers are compared with the run's before it is moved into place: at least 99.9 % of the pixels have to
    be equal. See docs/export.md.

    Example: `saot export runs/mine --to onnx --out street.onnx --check new/0.png new/1.png`

    Args:
        run: Folder of a finished run of one input size; its backbone is filterbank, mobile-sam or a ViT.
        to: onnx, or torch for a program of torch.export.
        out: The file.
        check: Pictures to compare on; the first four of the run's own target unless given.
        size: HEIGHTxWIDTH of the file's input, pixels; what the run resizes the first checked picture to unless given.
        mask_size: HEIGHTxWIDTH of the mask, such as that of the camera's pictures; that of the input unless given.
        precision: float32; int8 with --to onnx or bf16 with --to torch, smaller or faster networks with other answers:
            at least 90 % of the pixels have to be equal then.
    """
    from saot.deploy import export_run
    from saot.tables import ALL_WINGS

    with Bars() as bars:
        made = export_run(run, to, out, check or (), size, mask_size, ALL_WINGS, bars, precision)
    if json:
        print_json({"out": str(out), "bytes": made.nbytes, **asdict(made.comparison), "metadata": made.metadata})
        return
    found, about = made.comparison, made.metadata
    height, width = about["input"]["size"]
    print(
        f"{found.pictures} pictures: scores differ by at most {found.largest_difference:.2g}, "
        f"{100 * found.equal_pixels:.4g} % of the pixels are equal"
    )
    print(f"{out}: {made.nbytes / 1e6:.1f} MB, pictures of {height}x{width} resized by {about['resize']}")


@app.command
def push(
    run: Path,
    name: str,
    /,
    *,
    out: Path | None = None,
    weights: bool = True,
    private: Flag = False,
    json: Json = False,
) -> None:
    """Put a finished run on a model hub, for `saot.load("OWNER/NAME")`: network, scores, calibration, a model card.

    No picture, no point and no path of this machine goes along. It takes the extra `hub`, and an account there
    (`hf auth login`); HF_ENDPOINT names another hub.

    Example: `saot push runs/mine somebody/street-day`, or `--out packed` to look at the files first

    Args:
        run: Folder of a finished run of `saot run`.
        name: OWNER/NAME.
        out: Write the files into this folder, and upload nothing.
        weights: Whether the file of the backbone's weights goes along; its licence has to allow that.
        private: A new repository is for its owner alone.
    """
    from saot.deploy import pack_run, push_run

    if out is not None:
        made = str(pack_run(run, out, weights=weights))
        print_json({"out": made}) if json else print(f"packed: {made}")
        return
    address = push_run(run, name, weights=weights, private=private)
    print_json({"name": name, "commit": address}) if json else print(f"{name}: {address}")
