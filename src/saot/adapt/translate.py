"""T of T2S-DA, sec. 3.2: source pictures made to look like another domain's, their labels still true.

FDA takes the target's colours; the others need no target picture and stand for SimCLR's two photometric changes, which
the paper's comparison of translators uses. Pictures are raw RGB, 0-255.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saot.adapt.fourier import BETA, fourier_translate_batch
from saot.adapt.mixing import adjust_colours, gaussian_blur, kernel_size

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
