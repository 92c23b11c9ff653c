"""Object masks of a picture with MobileSAM: from points, from boxes, or from an automatic grid; masks on tokens.

Pre- and post-processing, the choice of masks and the automatic grid are those of Segment Anything (Kirillov et
al., 2023, sections 3 and 5, appendix B). Prompts are supervision: whoever matches inside masks made from boxes
or clicks should say so (Shape-of-You uses SAM masks with category prompts).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from saot.data import sha256_file
from saot.features.base import resize_image
from saot.features.published import read_weights
from saot.features.sam_decoder import FRAME, NUM_MASKS, SamDecoder
from saot.features.tinyvit import PIXEL_DEVIATION, PIXEL_MEAN, TinyViT


@dataclass(frozen=True)
class Prompt:
    """What points at one object of a picture; x counts pixels from the left, y from the top.

    Attributes:
        points: Places (x, y), each in [0, width) and [0, height) of the picture.
        labels: For each point, 1 if it lies on the object and 0 if it lies beside it.
        box: Left, top, right, bottom; right and bottom may be the picture's width and height.

    Raises:
        ValueError: If there is neither point nor box, labels and points differ in number, a label is neither 0
            nor 1, or the box has no area. Whether all lies in the picture is checked where the picture is known.

    Example:
        >>> Prompt.at(120, 80) == Prompt(points=((120, 80),), labels=(1,))
        True
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if not self.points and self.box is None:
            raise ValueError("a prompt needs at least one point or a box; got neither")
        if len(self.points) != len(self.labels):
            raise ValueError(f"expected one label for each of {len(self.points)} points, got {len(self.labels)}")
        for label in self.labels:
            if label not in (0, 1):
                raise ValueError(f"a point's label is 1 (on the object) or 0 (beside it), but one is {label}")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"expected a box (left, top, right, bottom) with some area, got {self.box}")

    @classmethod
    def at(cls, x: float, y: float) -> "Prompt":
        """The object under one point."""
        return cls(points=((x, y),), labels=(1,))


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """What the encoder sees in one picture; any number of prompts can be asked of it.

    Attributes:
        embedding: The neck's output, as it is: neither scaled to length 1 nor without its padding.
        image_size: Height and width of the picture, pixels.
        input_size: Height and width after resizing, before padding to the frame of 1024 x 1024 pixels.
    """

    embedding: Float[Tensor, "64 64 256"]
    image_size: tuple[int, int]
    input_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PictureMasks:
    """Masks of one picture, on the CPU.

    Attributes:
        masks: True on the object, at the picture's own size.
        predicted_iou: How well the network thinks each mask fits, about 0 to 1 and not calibrated.
        stability: Intersection over union of the mask cut a little higher and a little lower, 0 to 1; 0 if empty.
    """

    masks: Bool[Tensor, "*p h w"]
    predicted_iou: Float[Tensor, "*p"]
    stability: Float[Tensor, "*p"]


@dataclass(frozen=True)
class GridSettings:
    """How the automatic grid finds masks; the defaults are Segment Anything's.

    Its larger settings, crops of the picture and the removal of small regions, are off there and absent here.

    Attributes:
        points_per_side: The grid has this number of points along each side, at the centres of equal cells.
        min_predicted_iou: Masks the network trusts less are dropped, 0-1.
        min_stability: Masks that are less stable are dropped, 0-1.
        stability_offset: How much higher and lower a mask is cut to see how stable it is, logits.
        max_box_iou: Of two masks whose boxes overlap more, the one trusted less is dropped, 0-1.
        points_per_batch: Prompts answered at a time; changes memory (some 25 MB each), not masks.

    Raises:
        ValueError: If a number is out of its range.
    """

    points_per_side: int = 32
    min_predicted_iou: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    max_box_iou: float = 0.7
    points_per_batch: int = 16

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("min_predicted_iou", "min_stability", "max_box_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 to 1, but is {getattr(self, name)}")
        if not self.stability_offset >= 0:
            raise ValueError(f"stability_offset must not be negative, but is {self.stability_offset}")


class PromptSegmenter:
    """MobileSAM: pictures, then prompts, to masks; `identity` is the check sum of its weights.

    Args:
        weights: The published `mobile_sam.pt`, or the same tensors as `.safetensors`.
        device: Where the networks run.

    Raises:
        ValueError: If the file is absent or damaged, or is not the whole of MobileSAM.
    """

    def __init__(self, weights: str | Path, *, device: str = "cpu") -> None:
        state = read_weights(Path(weights))
        self.identity = sha256_file(weights)
        self._encoder, self._decoder, self._device = TinyViT(), SamDecoder(), device
        self._decoder.load_published(state)
        self._encoder.load_published(state)
        for network in (self._encoder, self._decoder):
            network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> EncodedPicture:
        """The picture's embedding: long side to 1024 (bilinear), mean and deviation, zeros right and below.

        Args:
            image: RGB, 0 to 255, any size.

        Raises:
            ValueError: If the picture is empty.
        """
        height, width = image.shape[:2]
        if height == 0 or width == 0:
            raise ValueError(f"expected a picture with pixels, got one of {width}x{height} (width x height)")
        scale = FRAME / max(height, width)
        size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        pixels = torch.from_numpy(resize_image(image, size, "pillow-bilinear").astype(np.float32)).to(self._device)
        pixels = (pixels - pixels.new_tensor(PIXEL_MEAN)) / pixels.new_tensor(PIXEL_DEVIATION)
        pixels = F.pad(pixels, (0, 0, 0, FRAME - size[1], 0, FRAME - size[0]))
        return EncodedPicture(self._encoder(pixels[None])["neck"][0], (height, width), size)

    def segment(
        self,
        picture: EncodedPicture,
        prompts: Sequence[Prompt],
        *,
        choice: Literal["auto", "three", "one"] = "auto",
    ) -> PictureMasks:
        """The mask of each prompt, answered independently of the others.

        Args:
            picture: From `encode`.
            prompts: One for each object.
            choice: `"three"`: of the three masks for ambiguous prompts (whole, part, subpart) the one with the
                highest predicted IoU. `"one"`: the mask for unambiguous prompts. `"auto"`: `"three"` where the
                prompt is a single point and `"one"` elsewhere, as the authors recommend.

        Returns:
            One mask for each of p prompts (p, height, width); one may be empty.

        Raises:
            ValueError: If there is no prompt, or one lies outside the picture.
        """
        logits, iou = self._answers(picture, prompts)
        single = torch.tensor([prompt.box is None and len(prompt.points) == 1 for prompt in prompts])
        three = torch.full_like(single, choice == "three") if choice != "auto" else single
        chosen = torch.where(three, 1 + iou[:, 1:].argmax(1).cpu(), 0)
        row = torch.arange(len(prompts))
        return _finished(logits[row, chosen], iou[row, chosen], picture)

    def candidates(self, picture: EncodedPicture, prompts: Sequence[Prompt]) -> PictureMasks:
        """All four masks of each prompt: the one for unambiguous prompts, then three for ambiguous ones.

        Args:
            picture: From `encode`.
            prompts: One for each object.

        Returns:
            Masks (p, 4, height, width) for p prompts.

        Raises:
            ValueError: If there is no prompt, or one lies outside the picture.
        """
        logits, iou = self._answers(picture, prompts)
        found, shape = _finished(logits.flatten(0, 1), iou.flatten(), picture), (len(prompts), NUM_MASKS)
        return PictureMasks(*(part.unflatten(0, shape) for part in vars(found).values()))

    def everything(self, picture: EncodedPicture, settings: GridSettings | None = None) -> PictureMasks:
        """Masks of whatever can be found from a regular grid of points.

        Each point's three masks for ambiguous prompts are kept if the network trusts them and they are stable;
        of those whose boxes overlap only the most trusted stays.

        Args:
            picture: From `encode`.
            settings: None is Segment Anything's own grid of 32 x 32 points.

        Returns:
            Any number of masks, perhaps none, most trusted first; they may overlap and leave gaps.
        """
        settings = settings or GridSettings()
        height, width = picture.image_size
        steps = (np.arange(settings.points_per_side) + 0.5) / settings.points_per_side
        places = [(x * width, y * height) for y in steps.tolist() for x in steps.tolist()]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(places), settings.points_per_batch):
            found += self._good_masks(picture, places[start : start + settings.points_per_batch], settings)
        if not found:
            return PictureMasks(torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0), torch.zeros(0))
        logits, iou, boxes = (torch.stack(parts) for parts in zip(*found, strict=True))
        kept = _suppressed(boxes, iou, settings.max_box_iou)
        return _finished(logits[kept], iou[kept], picture, settings.stability_offset)

    @torch.no_grad()
    def _answers(
        self, picture: EncodedPicture, prompts: Sequence[Prompt]
    ) -> tuple[Float[Tensor, "p 4 256 256"], Float[Tensor, "p 4"]]:
        """Logits and predicted IoU of all four masks; prompts alike in shape pass together, in batches of 16."""
        if not prompts:
            raise ValueError("expected at least one prompt, got an empty list")
        for prompt in prompts:
            _check_inside(prompt, picture.image_size)
        groups: dict[tuple[int, bool], list[int]] = {}
        for number, prompt in enumerate(prompts):
            groups.setdefault((len(prompt.points), prompt.box is not None), []).append(number)
        order, logits, iou = [], [], []
        for alike in groups.values():
            for start in range(0, len(alike), 16):
                part = alike[start : start + 16]
                answer = self._decoder(picture.embedding, *_in_frame([prompts[i] for i in part], picture))
                order += part
                logits.append(answer[0])
                iou.append(answer[1])
        back = torch.tensor(order).argsort()
        return torch.cat(logits)[back], torch.cat(iou)[back]

    @torch.no_grad()
    def _good_masks(
        self, picture: EncodedPicture, places: list[tuple[float, float]], settings: GridSettings
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Logits, predicted IoU and box of the trusted and stable masks at some points."""
        points, labels, boxes = _in_frame([Prompt.at(x, y) for x, y in places], picture)
        tokens, image = self._decoder.attend(picture.embedding, self._decoder.prompts(points, labels, boxes))
        iou = self._decoder.predicted_iou(tokens)[:, 1:]
        trusted = (iou >= settings.min_predicted_iou).any(1)
        if not bool(trusted.any()):
            return []
        logits, iou = self._decoder.draw(tokens[trusted], image[trusted])[:, 1:], iou[trusted]
        good = []
        for row, column in (iou >= settings.min_predicted_iou).nonzero().tolist():
            full = _to_picture(logits[row, column], picture)
            if bool((full > 0).any()) and float(_stability(full, settings.stability_offset)) >= settings.min_stability:
                good.append((logits[row, column].clone(), iou[row, column], _box(full > 0)))  # the batch can go
        return good


def _check_inside(prompt: Prompt, size: tuple[int, int]) -> None:
    height, width = size
    for x, y in prompt.points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"point x={x:g}, y={y:g} lies outside its picture of {width}x{height} pixels (width x height); "
                "count pixels from 0 at the top left"
            )
    if prompt.box is not None:
        left, top, right, bottom = prompt.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box {prompt.box} (left, top, right, bottom) reaches outside its picture of {width}x{height} "
                "pixels (width x height); cut it at the picture's edge"
            )


def _in_frame(
    prompts: Sequence[Prompt], picture: EncodedPicture
) -> tuple[Float[Tensor, "p k 2"], Int[Tensor, "p k"], Float[Tensor, "p b 4"]]:
    """Points, labels and boxes of prompts alike in shape, pixels of the frame (scaled, as published)."""
    device = picture.embedding.device
    scale = torch.tensor([new / old for new, old in zip(picture.input_size, picture.image_size, strict=True)]).flip(0)
    count, corners = len(prompts), 0 if prompts[0].box is None else 2
    points = torch.tensor([prompt.points for prompt in prompts], dtype=torch.float32)
    boxes = torch.tensor([prompt.box or () for prompt in prompts], dtype=torch.float32)
    labels = torch.tensor([prompt.labels for prompt in prompts], dtype=torch.long)
    points, boxes = (places.view(count, k, 2) * scale for places, k in ((points, labels.shape[1]), (boxes, corners)))
    return points.to(device), labels.to(device), boxes.view(count, corners // 2, 4).to(device)


def _to_picture(logits: Float[Tensor, "256 256"], picture: EncodedPicture) -> Float[Tensor, "h w"]:
    """Logits at the picture's size: up to the frame, padding cut off, to the picture; bilinear, as published."""
    frame = F.interpolate(logits[None, None], (FRAME, FRAME), mode="bilinear", align_corners=False)
    cut = frame[:, :, : picture.input_size[0], : picture.input_size[1]]
    return F.interpolate(cut, picture.image_size, mode="bilinear", align_corners=False)[0, 0]


def _finished(
    logits: Float[Tensor, "p 256 256"], iou: Float[Tensor, " p"], picture: EncodedPicture, offset: float = 1.0
) -> PictureMasks:
    """Masks at the picture's size, one at a time since their logits are large."""
    masks = torch.zeros(len(logits), *picture.image_size, dtype=torch.bool)
    stability = torch.zeros(len(logits))
    for number, logit in enumerate(logits):
        full = _to_picture(logit, picture)
        masks[number], stability[number] = full > 0, _stability(full, offset)
    return PictureMasks(masks, iou.cpu(), stability)


def _stability(logits: Float[Tensor, "h w"], offset: float) -> Float[Tensor, ""]:
    """Of two masks, one inside the other, the intersection over union is a ratio of areas."""
    inner, outer = (logits > offset).sum(), (logits > -offset).sum()
    return torch.where(outer > 0, inner / outer.clamp(min=1), 0.0)


def _box(mask: Bool[Tensor, "h w"]) -> Int[Tensor, "4"]:
    """Left, top, right, bottom around a mask that is not empty; right and bottom are one past the last pixel."""
    columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _suppressed(boxes: Int[Tensor, "k 4"], scores: Float[Tensor, " k"], limit: float) -> Int[Tensor, " kept"]:
    """Non-maximum suppression: which stay, best first; none overlaps a better one that stays by more than `limit`."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = scores.argsort(descending=True, stable=True)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[order, :2])
        opposite = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (opposite - corner).clamp(min=0).prod(1)
        order = order[shared / (area[best] + area[order] - shared) <= limit]
    return torch.stack(kept)
