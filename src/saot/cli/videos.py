"""`saot predict` of videos and ROS bags."""

from pathlib import Path
from typing import TYPE_CHECKING

from saot.cli.shell import Bars

if TYPE_CHECKING:
    from saot.deploy import VideoSettings
    from saot.label import LabelledPictures


def label_video(
    run: Path,
    videos: list[Path],
    out: Path,
    settings: "VideoSettings",
    formats: list[str],
    abstain: float | None,
    device: str,
) -> "LabelledPictures":
    """Label the frames of videos."""
    from saot.deploy import predict_video
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    with Bars() as bars:
        return predict_video(run, videos, out, settings, formats, bars, abstain, ALL_WINGS, resolve_device(device))
