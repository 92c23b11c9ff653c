"""DACS: classes of a source picture pasted onto a target picture, then colour jitter and blur (FACTS T-2).

Pictures are tensors (b, 3, h, w) between 0 and 1. Numbers and formulas are those of DAFormer's code, which takes the
colour jitter of kornia 0.5: brightness is added, contrast multiplies, saturation and hue change in HSV.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor, nn

Change = Literal["brightness", "contrast", "saturation", "hue"]


@dataclass(frozen=True)
class MixSettings:
    """How pictures are mixed and changed."""

    classes_of: Literal["batch", "picture"] = "batch"  # FACTS T-2: classes are counted over the batch
    jitter_above: float = 0.2  # FACTS T-2: colours change when U is larger
    jitter_strength: float = 0.2  # FACTS T-2: of all four
    blur_above: float = 0.5  # FACTS T-2
    blur_sigma: tuple[float, float] = (0.15, 1.15)  # FACTS T-2; pixels
    blur_kernel: float = 0.1  # FACTS T-2: kernel over side

    def __post_init__(self) -> None:
        if not 0 <= self.jitter_strength <= 0.5 or not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(
                f"expected a jitter_strength between 0 and 0.5 and a blur_sigma above 0, smaller first, but {self} came"
            )


@dataclass(frozen=True)
class Mixed:
    """Target pictures with source classes pasted on.

    Attributes:
        images: (b, 3, h, w).
        labels: (b, h, w) the source's labels where pasted, pseudo-labels elsewhere.
        weights: (b, h, w) 1 where pasted, the pseudo-labels' elsewhere.
        masks: (b, h, w) where the source was pasted.
    """

    images: Float[Tensor, "b 3 h w"]
    labels: Int64[Tensor, "b h w"]
    weights: Float[Tensor, "b h w"]
    masks: Bool[Tensor, "b h w"]


def class_masks(
    labels: Integer[Tensor, "b h w"], generator: torch.Generator, classes_of: Literal["batch", "picture"] = "batch"
) -> Bool[Tensor, "b h w"]:
    """ClassMix: which source pixels to paste, those of half of the classes, rounded up, drawn for each picture.

    Args:
        labels: Of the source; 255 counts as a class, as in DACS: what is pasted with it is ignored.
        generator: Of the draws.
        classes_of: Whether the half is of all classes of the batch, as in DAFormer, or of the picture, as in DACS.

    Example:
        >>> mask = class_masks(torch.tensor([[[0, 1, 2]]]), torch.Generator().manual_seed(0))
        >>> int(mask.sum())  # two of the three classes
        2
    """
    masks, union = [], torch.unique(labels)
    for label in labels:
        classes = union if classes_of == "batch" else torch.unique(label)
        order = torch.randperm(len(classes), generator=generator, device=generator.device).to(labels.device)
        masks.append(torch.isin(label, classes[order[: math.ceil(len(classes) / 2)]]))
    return torch.stack(masks)


def class_mix(
    images: Float[Tensor, "b 3 h w"],
    labels: Integer[Tensor, "b h w"],
    target_images: Float[Tensor, "b 3 h w"],
    pseudo_labels: Integer[Tensor, "b h w"],
    pseudo_weights: Float[Tensor, "b h w"],
    masks: Bool[Tensor, "b h w"],
) -> Mixed:
    """The source where the mask holds, the target elsewhere: pictures, labels and weights alike.

    Args:
        images: Of the source.
        labels: Of the source; they weigh 1.
        target_images: What the source is pasted onto.
        pseudo_labels: The teacher's classes of the target.
        pseudo_weights: Their weights, q of Eq. (S2).
        masks: From `class_masks`.

    Example:
        >>> black, white = torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1, 2)
        >>> fours, halves = torch.tensor([[[4, 4]]]), torch.full((1, 1, 2), 0.5)
        >>> mixed = class_mix(black, fours, white, fours + 1, halves, torch.tensor([[[True, False]]]))
        >>> mixed.images[0, 0].tolist(), mixed.labels.tolist(), mixed.weights.tolist()
        ([[0.0, 1.0]], [[[4, 5]]], [[[1.0, 0.5]]])
    """
    mixed = torch.where(masks.unsqueeze(1), images, target_images)
    classes = torch.where(masks, labels.long(), pseudo_labels.long())
    return Mixed(mixed, classes, torch.where(masks, 1.0, pseudo_weights), masks)


def augment(
    images: Float[Tensor, "b 3 h w"], generator: torch.Generator, settings: MixSettings = MixSettings()
) -> Float[Tensor, "b 3 h w"]:
    """Mixed pictures in other colours, blurred: whether, is drawn once a batch; how, for each picture.

    Args:
        images: Between 0 and 1; labels need no change.
        generator: Of all draws.
        settings: Thresholds and strengths.

    Example:
        >>> picture = torch.full((1, 3, 8, 8), 0.5)
        >>> changed = augment(picture, torch.Generator().manual_seed(0))
        >>> changed.shape, bool((changed == picture).all())
        (torch.Size([1, 3, 8, 8]), False)
    """
    jitter, blur = (float(value) for value in _uniform(2, generator))
    if jitter > settings.jitter_above:
        images = torch.stack([jitter_colours(image, settings.jitter_strength, generator) for image in images])
    if blur > settings.blur_above:
        low, high = settings.blur_sigma
        sigmas = (low + (high - low) * _uniform(len(images), generator)).tolist()
        kernel = (
            kernel_size(images.shape[-2], settings.blur_kernel),
            kernel_size(images.shape[-1], settings.blur_kernel),
        )
        images = torch.stack([gaussian_blur(image, s, kernel) for image, s in zip(images, sigmas, strict=True)])
    return images


def jitter_colours(
    image: Float[Tensor, "3 h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "3 h w"]:
    """The picture with brightness, contrast, saturation and hue each changed by up to `strength`, in a random order.

    Args:
        image: Between 0 and 1.
        strength: Largest change: of brightness; of the factors of contrast and saturation; of hue, in turns.
        generator: Of the draws.

    Example:
        >>> grey = torch.full((3, 1, 1), 0.5)
        >>> bool((jitter_colours(grey, 0.0, torch.Generator().manual_seed(0)) == grey).all())
        True
    """
    names: tuple[Change, ...] = get_args(Change)
    moves = ((2 * _uniform(len(names), generator) - 1) * strength).tolist()
    for which in torch.randperm(len(names), generator=generator, device=generator.device).tolist():
        image = adjust_colours(image, names[which], moves[which])
    return image


def adjust_colours(image: Float[Tensor, "3 h w"], change: Change, move: float) -> Float[Tensor, "3 h w"]:
    """The picture after one change, cut to [0, 1].

    Args:
        image: Between 0 and 1.
        change: "brightness" adds `move`; "contrast" multiplies by 1 + move, "saturation" does so in HSV; "hue" turns.
        move: How much; a hue comes back after 1.

    Example:
        >>> orange = torch.tensor([0.5, 0.25, 0.0]).view(3, 1, 1)
        >>> adjust_colours(orange, "brightness", 0.25).flatten().tolist()
        [0.75, 0.5, 0.25]
        >>> adjust_colours(orange, "hue", 1 / 3).flatten().tolist()  # red to green, green to blue
        [0.0, 0.5, 0.25]
    """
    if change == "brightness":
        return (image + move).clamp(0, 1)
    if change == "contrast":
        return (image * (1 + move)).clamp(0, 1)
    hue, saturation, value = rgb_to_hsv(image)
    if change == "saturation":
        saturation = (saturation * (1 + move)).clamp(0, 1)
    else:
        hue = (hue + move) % 1
    return hsv_to_rgb(torch.stack([hue, saturation, value]))


def rgb_to_hsv(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Hue in turns, saturation and value, all between 0 and 1; grey has hue 0.

    Example:
        >>> rgb_to_hsv(torch.tensor([0.0, 0.5, 0.25]).view(3, 1, 1)).flatten().tolist()  # 5/12 of a turn: green to blue
        [0.4166666567325592, 1.0, 0.5]
    """
    red, green, blue = image
    value, chroma = image.amax(0), image.amax(0) - image.amin(0)
    span = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(value == blue, 4 + (red - green) / span, 0.0)
    sixths = torch.where(value == green, 2 + (blue - red) / span, sixths)
    sixths = torch.where(value == red, (green - blue) / span, sixths)
    hue = torch.where(chroma > 0, sixths / 6 % 1, 0.0)
    return torch.stack([hue, chroma / torch.where(value > 0, value, 1.0), value])


def hsv_to_rgb(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The inverse of `rgb_to_hsv`.

    Example:
        >>> hsv_to_rgb(torch.tensor([0.5, 1.0, 0.5]).view(3, 1, 1)).flatten().tolist()  # cyan
        [0.0, 0.5, 0.5]
    """
    hue, saturation, value = image
    channels = []
    for offset in (5, 3, 1):  # red, green and blue fall off at different hues
        place = (offset + 6 * hue) % 6
        channels.append(value - value * saturation * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels)


def kernel_size(side: int, share: float = MixSettings.blur_kernel) -> int:
    """Length of the blur along one side: ceil(share * side), less one if even; at least 1.

    Example:
        >>> kernel_size(512), kernel_size(510), kernel_size(7)  # 52, 51 and 1 before
        (51, 51, 1)
    """
    length = math.ceil(share * side)
    return max(length - (length % 2 == 0), 1)


def gaussian_blur(image: Float[Tensor, "c h w"], sigma: float, kernel: tuple[int, int]) -> Float[Tensor, "c h w"]:
    """The picture under a Gaussian cut to the kernel, its weights scaled to sum 1; edges are mirrored.

    Args:
        image: Any number of channels.
        sigma: Standard deviation, pixels.
        kernel: Odd height and width; half of each must be smaller than the picture's side.

    Raises:
        ValueError: If the kernel is even or too large for the picture.

    Example:
        >>> line = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]])
        >>> gaussian_blur(line, 1.0, (1, 3)).flatten()  # 1 to e^(-1/2) on either side
        tensor([0.0000, 0.2741, 0.4519, 0.2741, 0.0000])
    """
    if any(length % 2 == 0 or length // 2 >= side for length, side in zip(kernel, image.shape[1:], strict=True)):
        raise ValueError(f"expected an odd kernel that fits {tuple(image.shape[1:])}, but {kernel} came")
    for axis, length in enumerate(kernel):
        half = length // 2
        places = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
        weights = torch.softmax(-(places**2) / (2 * sigma**2), 0)
        padding = (0, 0, half, half) if axis == 0 else (half, half, 0, 0)
        shape = (1, 1, length, 1) if axis == 0 else (1, 1, 1, length)
        padded = nn.functional.pad(image.unsqueeze(1), padding, mode="reflect")
        image = nn.functional.conv2d(padded, weights.view(shape)).squeeze(1)
    return image


def _uniform(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Numbers in [0, 1), drawn on the generator's device."""
    return torch.rand(count, generator=generator, device=generator.device)
