"""T of T2S-DA, sec. 3.2: source pictures made to look like another domain's, their labels still true.

FDA takes the target's colours: Fourier domain adaptation, Yang and Soatto, CVPR 2020 (FACTS T-6); only slow changes of
colour and light are exchanged. The paper crops the source to the size of the target, translates, and only then takes
the training crop, the same from both (FACTS T-7; `crops.py`). The others need no target picture and stand for SimCLR's
two photometric changes, which the paper's comparison of translators uses. Pictures are raw RGB, 0-255, before any mean
is subtracted.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from saot.adapt.mixing import adjust_colours, gaussian_blur, kernel_size

BETA = 0.01  # the smallest of FDA's releases (.01, .05, .09); T2S-DA never states its own, FACTS T-6
Kind = Literal["fda", "colour-jitter", "blur", "colour-jitter+blur", "none"]
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class TranslatorSettings:
    """Which translation, how strong."""

    kind: Kind = "fda"  # sec. 4
    beta: float = BETA  # FACTS T-6: of FDA's window; never stated
    strength: float = 1.0  # SimCLR: jitter of 0.8, 0.8, 0.8, 0.2 times this
    sigma: tuple[float, float] = (0.1, 2.0)  # SimCLR: of the blur, pixels
    kernel: float = 0.1  # SimCLR: kernel over side

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 0.5 or not 0 <= self.strength <= 1 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(
                "expected beta between 0 and 0.5, strength between 0 and 1 and sigma above 0, smaller first, but "
                f"{self} came"
            )


def translate(
    source: Float[Tensor, "3 h w"],
    target: Float[Tensor, "3 h w"] | None,
    settings: TranslatorSettings,
    generator: torch.Generator,
) -> Float[Tensor, "3 h w"]:
    """T(x^s), 0-255.

    Args:
        source: Raw picture.
        target: Whose colours it takes, of the same size; only FDA looks at it.
        settings: Kind and strength.
        generator: Of all draws.

    Raises:
        ValueError: If FDA gets no target picture.

    Example:
        >>> grey = torch.full((3, 4, 4), 90.0)
        >>> translate(grey, torch.full((3, 4, 4), 200.0), TranslatorSettings(beta=0.0), torch.Generator()).max().item()
        200.0
    """
    if settings.kind == "fda":
        if target is None:
            raise ValueError("expected a target picture for Fourier translation; got none: choose another translator")
        return fourier_translate_batch(source, target, settings.beta)
    image = source / 255
    if "colour-jitter" in settings.kind:
        image = simclr_jitter(image, settings.strength, generator)
    if "blur" in settings.kind:
        sigma = settings.sigma[0] + (settings.sigma[1] - settings.sigma[0]) * _uniform(generator)
        kernel = tuple(kernel_size(side, settings.kernel) for side in image.shape[-2:])
        image = gaussian_blur(image, sigma, (kernel[0], kernel[1]))
    return image * 255


def simclr_jitter(image: Float[Tensor, "3 h w"], strength: float, generator: torch.Generator) -> Float[Tensor, "3 h w"]:
    """Brightness, contrast and saturation scaled by factors in 1 +- 0.8 s, hue turned by up to 0.2 s, in random order.

    Args:
        image: Between 0 and 1.
        strength: s.
        generator: Of the draws.

    Example:
        >>> picture = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(simclr_jitter(picture, 0.0, torch.Generator()), picture, atol=1e-6))
        True
    """
    moves = [(2 * _uniform(generator) - 1) * strength * most for most in (0.8, 0.8, 0.8, 0.2)]
    for which in torch.randperm(4, generator=generator).tolist():
        factor = 1 + moves[which]
        grey = (image * image.new_tensor(GREY).view(3, 1, 1)).sum(0, keepdim=True)
        if which == 0:
            image = image * factor
        elif which == 1:
            image = (image - grey.mean()) * factor + grey.mean()
        elif which == 2:
            image = (image - grey) * factor + grey
        else:
            image = adjust_colours(image, "hue", moves[which])
        image = image.clamp(0, 1)
    return image


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def window_half_width(size: tuple[int, int], beta: float = BETA) -> int:
    """b = floor(beta * min(h, w)): frequencies -b to b along both axes are the target's, (2b + 1)^2 in all.

    Args:
        size: Height and width, pixels.
        beta: Share of the shorter side, 0 to 0.5; 0 leaves the mean colour alone in the window.

    Raises:
        ValueError: If `beta` is out of range.

    Example:
        >>> window_half_width((512, 1024), 0.01)  # 5.12, so 11 x 11 frequencies
        5
    """
    if not 0 <= beta <= 0.5:
        raise ValueError(f"expected beta between 0 and 0.5 (half of the shorter side), but {beta} came")
    return math.floor(beta * min(size))


def fourier_translate(
    source: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "th tw 3"], beta: float = BETA
) -> Float32[np.ndarray, "h w 3"]:
    """The source with the target's amplitudes at low frequencies; the source's phases stay.

    Args:
        source: Picture to translate, 0-255.
        target: Picture whose colours it takes; of another size, it goes through `fit_to_size` first.
        beta: See `window_half_width`.

    Returns:
        The translation, clipped to [0, 255]; not rounded, since networks take it as it is.

    Raises:
        ValueError: If `beta` is out of range.

    Example:
        >>> grey, blue = np.full((2, 2, 3), 90, np.uint8), np.full((4, 4, 3), [0, 0, 200], np.uint8)
        >>> fourier_translate(grey, blue, beta=0.0)[0, 0].tolist()
        [0.0, 0.0, 200.0]
    """
    height, width = source.shape[:2]
    target = fit_to_size(target, (height, width))
    half = window_half_width((height, width), beta)
    # Pictures are real, so half of the frequencies tell everything, and what comes back is real by construction.
    spectrum, other = (np.fft.rfft2(picture.astype(np.float64), axes=(0, 1)) for picture in (source, target))
    low = _low((height, width), half)
    spectrum[low] = np.abs(other[low]) * np.exp(1j * np.angle(spectrum[low]))
    translated = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    return translated.clip(0, 255).astype(np.float32)


def fourier_translate_batch(
    source: Float[Tensor, "*batch c h w"], target: Float[Tensor, "*batch c h w"], beta: float = BETA
) -> Float[Tensor, "*batch c h w"]:
    """The same for tensors of equal size, each source with the target at its own place of the batch.

    Args:
        source: Pictures, 0-255, in single or double precision.
        target: Pictures of the same size.
        beta: See `window_half_width`.

    Raises:
        ValueError: If `beta` is out of range.

    Example:
        >>> dark, light = torch.full((1, 1, 2, 2), 10.0), torch.full((1, 1, 2, 2), 60.0)
        >>> fourier_translate_batch(dark, light, beta=0.0).flatten().tolist()
        [60.0, 60.0, 60.0, 60.0]
    """
    height, width = source.shape[-2:]
    low = torch.from_numpy(_low((height, width), window_half_width((height, width), beta))).to(source.device)
    spectrum, other = torch.fft.rfft2(source), torch.fft.rfft2(target)
    mixed = torch.where(low, torch.polar(other.abs(), spectrum.angle()), spectrum)
    return torch.fft.irfft2(mixed, s=(height, width)).clamp(0, 255)


def fit_to_size(image: UInt8[np.ndarray, "ih iw 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture scaled until it just covers the size, its sides in proportion, and cut around its centre.

    A picture of that size comes back as it is: in the paper source crops have the size of the resized target, so
    nothing is scaled (FACTS T-7).

    Args:
        image: Picture of any size.
        size: Height and width wanted.

    Example:
        >>> wide = np.array([[[0] * 3, [100] * 3, [150] * 3, [250] * 3]], np.uint8)
        >>> fit_to_size(wide, (1, 2))[0, :, 0].tolist()  # the middle of it
        [100, 150]
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    scale = max(size[0] / height, size[1] / width)
    rows, columns = max(round(height * scale), size[0]), max(round(width * scale), size[1])
    if (rows, columns) != (height, width):
        image = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def _low(size: tuple[int, int], half: int) -> Bool[np.ndarray, "h f"]:
    """Which entries of a real transform lie in the centred window: |row frequency| and |column frequency| <= half.

    FDA's torch release takes corners of 2b x 2b, which hold -b but not +b; the outcome is then not quite real.
    """
    rows = np.abs(np.rint(np.fft.fftfreq(size[0], 1 / size[0]))) <= half
    columns = np.arange(size[1] // 2 + 1) <= half
    return rows[:, None] & columns[None, :]
