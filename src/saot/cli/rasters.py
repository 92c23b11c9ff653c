"""`saot predict` of one raster."""

from pathlib import Path
from typing import TYPE_CHECKING

from saot.cli.shell import Bars, print_json, say

if TYPE_CHECKING:
    from saot.deploy import RasterSettings


def words(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def label_raster(
    run: Path,
    images: list[Path],
    out: Path,
    settings: "RasterSettings",
    format: str | None,
    abstain: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Label one raster and say what there is now."""
    from saot.deploy import predict_raster
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    if len(images) != 1 or images[0].is_dir():
        raise ValueError(f"expected one GeoTIFF for --out {out}; of several pictures, or a folder, --out is a folder")
    with Bars() as bars:
        made = predict_raster(
            run,
            images[0],
            out,
            settings,
            words("tif" if format is None else format),
            bars,
            abstain,
            ALL_WINGS,
            resolve_device(device),
        )
    if as_json:
        print_json(made.record())
        return
    if made.gone_on_from:
        say(f"gone on from row {made.gone_on_from}, where an earlier command had stopped")
    before = "" if made.made else ", all of it before"
    print(f"{made.width} x {made.height} pixels labelled in {', '.join(made.outputs.values())}{before}")
    total = max(sum(made.pixels.values()) + made.unlabelled, 1)
    for name, count in made.pixels.items():
        if count:
            print(f"  {name}  {100 * count / total:.2f} %")
