"""The source's pictures in the target's colours, for the pull loss of T2S-DA; their features lie in the store too."""

import hashlib
import json

import numpy as np
import torch
from jaxtyping import UInt8

from saot.adapt.fourier import fourier_translate
from saot.data import ImageSet
from saot.runs import generator_for

TRANSLATION_VERSION = 1  # of everything below; another number makes all features of translations anew


def translated_pictures(source: ImageSet, target: ImageSet, beta: float, seed: int) -> ImageSet:
    """Each source picture translated by FDA with a target picture that the seed draws.

    The paper translates crops of the target's size; here it is the whole source picture, and the target is fitted to
    its size. Values are rounded to whole numbers, as backbones take pictures.

    A key names the content, "fda/DIGEST/SOURCE KEY": runs of other seeds, targets or beta have features of their own in
    the same store.

    Args:
        source: Pictures to translate; masks hold for the translations.
        target: Pictures whose colours they take.
        beta: See `fourier_translate`.
        seed: Fixes the target picture of each source picture, whatever other source pictures there are.
    """
    partners = [
        int(torch.randint(len(target), (1,), generator=generator_for(seed, "translation", key))) for key in source.keys
    ]
    prints = [
        translation_fingerprint(source.fingerprint(number), target.fingerprint(partner), beta)
        for number, partner in enumerate(partners)
    ]

    def load(number: int) -> UInt8[np.ndarray, "h w 3"]:
        translation = fourier_translate(source.image(number), target.image(partners[number]), beta)
        return np.rint(translation).astype(np.uint8)

    keys = tuple(f"fda/{mark[:12]}/{key}" for mark, key in zip(prints, source.keys, strict=True))
    spec = f"{source.spec} in the colours of {target.spec}"
    return ImageSet(spec, source.classes, keys, load, prints.__getitem__, source.size)


def translation_fingerprint(source: str, target: str, beta: float) -> str:
    """The name of a translation's content, from those of both pictures.

    Args:
        source: Fingerprint of the picture that is translated.
        target: Fingerprint of the one whose colours it takes.
        beta: See `fourier_translate`.
    """
    return hashlib.sha256(json.dumps(["fda", TRANSLATION_VERSION, source, target, beta]).encode()).hexdigest()
