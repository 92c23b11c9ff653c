"""Networks that lift a picture: monocular depth of `transformers`, and VGGT."""

import hashlib
import inspect
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from saot.data import PatchGrid
from saot.features import OneSentence, first_line, require_libraries, resize_image
from saot.match.lift import DEFAULT_VIEW, Camera, LiftedTokens, depth_from_disparity, lift_depth, lift_points

_VGGT_SIDE, _VGGT_PATCH = 518, 14
_PREDICTS = {"zoedepth": "depth", "depth_pro": "depth", "glpn": "depth", "metric": "depth", "relative": "disparity"}
_SQUARE_TABLES = ("dpt", "dinov2", "dinov2_with_registers", "vit")  # positions that transformers takes for a square's
_UNUSED = re.compile(r"fusion_stage\.layers\.0\.residual_layer1|pooler")  # absent from published files


class DepthModel:
    """A monocular depth network of `transformers`, and a pinhole camera.

    Args:
        name: Folder with network and image processor, or `OWNER/NAME` on the hub.
        predicts: What its output is, since many files do not say: `"disparity"` (DPT, MiDaS, Depth Anything:
            inverse depth without scale and shift) or `"depth"` (metric Depth Anything, ZoeDepth, GLPN, Depth Pro).
        field_of_view: Degrees along the longer side; None is the network's own estimate if it makes one (Depth
            Pro), or else 60.
        far_over_near: For disparity, how much farther the farthest is assumed to be than the nearest.
        device: Where the network runs.

    Raises:
        ValueError: If `transformers` or a file is absent, the files say the network predicts something else, or a
            number is out of its range.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        predicts: Literal["disparity", "depth"],
        field_of_view: float | None = None,
        far_over_near: float = 10.0,
        device: str = "cpu",
    ) -> None:
        Camera.of_view(1, 1, DEFAULT_VIEW if field_of_view is None else field_of_view)  # complains early
        depth_from_disparity(torch.zeros(1, 1), far_over_near)
        self._processor, self._model = _load_depth(str(name))
        config, family = self._model.config, self._model.config.model_type
        says = _PREDICTS.get(config.depth_estimation_type if family == "depth_anything" else family, predicts)
        if says != predicts:
            raise ValueError(f'{name} says that it predicts {says}; pass predicts="{says}"')
        self._squares = family == "dpt" and (config.is_hybrid or config.backbone_config is None)
        self._model.eval().requires_grad_(False).to(device)
        self._name, self._predicts, self._device = str(name), predicts, device
        self._view, self._ratio = field_of_view, far_over_near

    @property
    def identity(self) -> str:
        """All that its points depend on but for picture, grid and mask."""
        said = (self._name, self._predicts, self._view, self._ratio, self._processor.to_json_string())
        return f"{said} {self._check_sum}"

    @cached_property
    def _check_sum(self) -> str:
        return _check_sum(self._model)

    @torch.no_grad()
    def lift(
        self, image: UInt8[np.ndarray, "h w 3"], grid: PatchGrid, inside: Bool[Tensor, "h w"] | None = None
    ) -> LiftedTokens:
        """Points of a picture's tokens; raises `ValueError` if the grid is of a picture of another size."""
        from PIL import Image

        size = _check_image(image, grid)
        inputs = self._processor(images=Image.fromarray(np.ascontiguousarray(image)), return_tensors="pt")
        if self._squares:
            _check_input(inputs["pixel_values"], self._name)
        outputs = self._model(**inputs.to(self._device))
        finish = self._processor.post_process_depth_estimation
        extra = {"source_sizes": [size]} if "source_sizes" in inspect.signature(finish).parameters else {}
        found = finish(outputs, target_sizes=[size], **extra)[0]
        depth, focal = found["predicted_depth"].float().reshape(size), found.get("focal_length")
        camera = Camera.of_view(*size, DEFAULT_VIEW if self._view is None else self._view)
        if self._view is None and focal is not None:
            camera = Camera(float(focal), float(focal), camera.centre_x, camera.centre_y)
        if self._predicts == "disparity":
            depth = depth_from_disparity(depth, self._ratio)
        return lift_depth(depth, grid, camera, inside=inside, source=f"{self._name} ({self._predicts})")


class VggtModel:
    """VGGT, one picture at a time, as Shape-of-You has it; the weights have a licence of their own.

    Args:
        weights: Folder or hub name.
        points: `"depth"`: its depth, unprojected with the field of view it predicts, which its authors find more
            accurate; `"world_points"`: the output of its point head. Its pose is not used: no distance needs it.
        device: Where the network runs; on a GPU partly in bfloat16.

    Raises:
        ValueError: If the package `vggt` is not installed or the weights cannot be read.
    """

    def __init__(
        self,
        weights: str | Path = "facebook/VGGT-1B",
        *,
        points: Literal["depth", "world_points"] = "depth",
        device: str = "cpu",
    ) -> None:
        try:
            from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                f"VGGT needs the package vggt of github.com/facebookresearch/vggt ({first_line(error)}); install it, "
                "or save its maps elsewhere and use lift_file"
            ) from error
        with OneSentence(f"could not read VGGT from {weights}", "pass another folder"):
            self._model = VGGT.from_pretrained(str(weights)).eval().requires_grad_(False).to(device)
        self._points, self._device = points, device

    @property
    def identity(self) -> str:
        """All that its points depend on but for picture, grid and mask; bfloat16 is another network."""
        return f"VGGT {self._points} {self._device.partition(':')[0]} {self._check_sum}"

    @cached_property
    def _check_sum(self) -> str:
        return _check_sum(self._model)

    @torch.no_grad()
    def lift(
        self, image: UInt8[np.ndarray, "h w 3"], grid: PatchGrid, inside: Bool[Tensor, "h w"] | None = None
    ) -> LiftedTokens:
        """Points of a picture's tokens; the picture goes in as VGGT's `pad` mode has it.

        That is: longer side 518 (bicubic), the other to the nearest multiple of 14, white around it to a square.
        Raises `ValueError` if the grid is of a picture of another size.
        """
        shape = _check_image(image, grid)
        scale = _VGGT_SIDE / max(shape) / _VGGT_PATCH
        height, width = (max(1, round(side * scale)) * _VGGT_PATCH for side in shape)
        top, left = (_VGGT_SIDE - height) // 2, (_VGGT_SIDE - width) // 2
        rows, columns = slice(top, top + height), slice(left, left + width)
        frame = torch.ones(3, _VGGT_SIDE, _VGGT_SIDE)
        pixels = torch.from_numpy(resize_image(image, (height, width), "pillow-bicubic").astype(np.float32) / 255)
        frame[:, rows, columns] = pixels.permute(2, 0, 1)
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.startswith("cuda")):
            found = self._model(frame[None].to(self._device))  # a sequence of one picture
        if self._points == "world_points":
            points = found["world_points"][0, 0, rows, columns].float()
            return lift_points(points, grid, inside=inside, source="VGGT world_points")
        half_view = found["pose_enc"][0, 0, 7:9].double() / 2  # vertical, horizontal field of view of the frame
        focal_y, focal_x = (_VGGT_SIDE / 2 / half_view.tan()).tolist()
        down, across, middle = shape[0] / height, shape[1] / width, _VGGT_SIDE / 2
        camera = Camera(focal_x * across, focal_y * down, (middle - left) * across, (middle - top) * down)
        return lift_depth(
            found["depth"][0, 0, rows, columns, 0].float(), grid, camera, inside=inside, source="VGGT depth"
        )


def _check_image(image: UInt8[np.ndarray, "h w 3"], grid: PatchGrid) -> tuple[int, int]:
    """Height and width of the picture, if the grid is of a picture of that size."""
    size = (grid.image_height, grid.image_width)
    if image.shape[:2] != size:
        raise ValueError(f"the grid is of a picture of {size} (height, width), but this one has {image.shape[:2]}")
    return size


def _check_sum(network: torch.nn.Module) -> str:
    """Of the weights, by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _load_depth(name: str) -> tuple[Any, Any]:
    """Image processor and network, checked for completeness."""
    require_libraries("a depth model", "transformers")
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    local = {"local_files_only": True} if Path(name).is_dir() else {}
    remedy = "pass a folder with network and image processor, or OWNER/NAME of the hub"
    with OneSentence(f"{name} cannot be read as a depth model of transformers", remedy):
        processor = AutoImageProcessor.from_pretrained(name, **local)
        model, info = AutoModelForDepthEstimation.from_pretrained(
            name, output_loading_info=True, use_safetensors=True, dtype=torch.float32, **local
        )
    missing = sorted(key for key in info["missing_keys"] if not _UNUSED.search(key))
    if missing:
        raise ValueError(f"the weights of {name} are not complete: {missing[0]} is missing; fetch them again")
    for part in (model.config, getattr(model.config, "backbone_config", None)):
        sides = getattr(part, "image_size", None)
        if (
            getattr(part, "model_type", "") in _SQUARE_TABLES
            and isinstance(sides, list | tuple)
            and len(set(sides)) > 1
        ):
            raise ValueError(
                f"expected a depth network that was trained on squares; {name} has image_size "
                f"{' x '.join(map(str, sides))}, whose positions transformers reads as those of a square: pass another"
            )
    return processor, model


def _check_input(pixels: Tensor, name: str) -> None:
    """Refuse a rectangle for a network whose tokens transformers puts back as a square."""
    height, width = pixels.shape[-2:]
    if height != width:
        raise ValueError(
            f"expected the image processor of {name} to make squares; it makes {height} x {width}, and transformers "
            "puts this network's tokens back as a square: set keep_aspect_ratio to false in preprocessor_config.json"
        )


def lifting_model(structure: str, device: str = "cpu") -> DepthModel | VggtModel | None:
    """The network behind "depth:MODEL" (relative depth), "metric:MODEL", "vggt" or "vggt:WEIGHTS"; else None.

    Raises:
        ValueError: If the network cannot be had.
    """
    kind, _, name = structure.partition(":")
    if kind in ("depth", "metric") and name:
        return DepthModel(name, predicts="disparity" if kind == "depth" else "depth", device=device)
    if kind == "vggt":
        return VggtModel(name, device=device) if name else VggtModel(device=device)
    return None
