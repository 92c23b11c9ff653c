"""A finished run as a function that CVAT asks for annotations.

`cvat-cli ... --function-module saot.annotate.cvat_function -p run=str:runs/mine`, of `task auto-annotate` and of
`function create-native` with `function run-agent`; https://docs.cvat.ai/docs/api_sdk/sdk/auto-annotation/ describes it.
It needs the package cvat-sdk, which comes with cvat-cli and is imported when the function is made.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from saot.adapt import BACKBONES, FINISHED
from saot.annotate.runs import runs_in_box, shown
from saot.label import Labeller, Wings, class_scores, open_run
from saot.runs import resolve_device


class RunFunction:
    """Labels a frame of CVAT's: one mask a class.

    Args:
        run: Labels it.

    Attributes:
        spec: The classes as CVAT's labels, by their index.

    Raises:
        ValueError: If cvat-sdk is not there.
    """

    def __init__(self, run: Labeller) -> None:
        try:
            from cvat_sdk import auto_annotation
        except ImportError as error:
            raise ValueError(f"expected the package cvat-sdk; {error}: pip install cvat-cli") from error
        self._run, self._sdk = run, auto_annotation
        self.spec = auto_annotation.DetectionFunctionSpec(
            labels=[
                auto_annotation.label_spec(name, label, type="mask") for label, name in enumerate(run.classes.names)
            ]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The masks of a picture, at its own size; a class without pixels has none.

        Args:
            context: Of CVAT's: classes whose mean confidence lies below its `conf_threshold` are left out.
            image: The frame.

        Raises:
            ValueError: If polygons are asked for.
        """
        if context.conv_mask_to_poly:
            raise ValueError(
                f"expected masks to be wanted of {context.frame_name}; polygons are, and they have no holes: leave out "
                "the conversion of masks to polygons"
            )
        found = self._run.predict(image)
        scores, least = class_scores(found.mask, found.confidence), context.conf_threshold or 0.0
        return [
            self._sdk.mask(label, mask_points(pixels)) for label, pixels in shown(found.mask) if scores[label] >= least
        ]


def mask_points(mask: Bool[np.ndarray, "h w"]) -> list[float]:
    """CVAT's points of a mask that shows something: run lengths in its box, background first, then the box.

    Example:
        >>> mask_points(np.array([[False, True], [True, True]]))
        [1.0, 3.0, 0.0, 0.0, 1.0, 1.0]
    """
    box, lengths = runs_in_box(mask)
    return [float(one) for one in (*lengths, box.left, box.top, box.right, box.bottom)]


def create(run: str, device: str = "auto") -> RunFunction:
    """The function of a finished run; CVAT's tools call it.

    Args:
        run: Folder of the run.
        device: As in `saot run`.

    Raises:
        ValueError: If the run is none or unfinished, or cvat-sdk is not there.
    """
    return RunFunction(open_run(Path(run), Wings(backbones=BACKBONES, finished=FINISHED), resolve_device(device)))
