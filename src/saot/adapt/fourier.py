"""One picture in the colours of another: Fourier domain adaptation (FDA, Yang and Soatto, CVPR 2020; FACTS T-6).

It is the translation T of T2S-DA, sec. 3.2: labels of the source hold for T(source), since only slow changes of colour
and light are exchanged. Pictures are raw, 0-255, before any mean is subtracted. The paper crops the source to the size
of the target, translates, and only then takes the training crop, the same from both (FACTS T-7; `saot.adapt.crops`).
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch import Tensor

BETA = 0.01  # the smallest of FDA's releases (.01, .05, .09); T2S-DA never states its own, FACTS T-6


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
