"""The bridge from T2S-DA to frozen features: its pull loss (`pull.py`) as one more term of stage 1.

Queries come from translated source tokens, positive keys are the prototypes of the same tokens untranslated, negatives
are other source tokens and unsure target tokens, Eqs. (2)-(13) of T2S-DA. What is read differently here:

- q and k are a projector of two layers on what feeds the decoder's head, as in the paper; it is trained along and
  thrown away. Layers are linear, since tokens stand alone, and LayerNorm takes the place of BatchNorm.
- Stage 1 has no EMA teacher, so the keys, pseudo-labels and confidences are those of the network itself at that step,
  without dropout and without a gradient.
- A token has the majority label of its patch, also where the decoder answers for its cells; its posterior is the mean
  over them.
- Source tokens are drawn class first as those of the other terms; target tokens as they come.
- Whole pictures are translated, not crops, and their features lie in the store.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saot.adapt.pull import PullBatch, PullSettings, class_confidence, class_weights, pull_loss
from saot.adapt.translate import fourier_translate
from saot.data import ImageSet
from saot.decoder import BlockReader, Decoder, FineDecoder, MLPDecoder, TokenDecoder, TokenPool
from saot.recipes import BridgeRecipe, DecoderRecipe
from saot.runs import code_version, first_weights, generator_for

TRANSLATION_VERSION = 1  # of `translated_pictures`; another number makes all features of translations anew


@dataclass(frozen=True)
class Pull:
    """What the pull loss draws from.

    Attributes:
        source: Labelled source tokens; features are the token's, followed by those of the same token translated.
        target: Every target token; its label is not looked at.
        recipe: Weight and settings.
        version: Of the translation.
    """

    source: TokenPool
    target: TokenPool
    recipe: BridgeRecipe
    version: int = 0

    name = "pull"

    @property
    def weight(self) -> float:
        """Lambda."""
        return self.recipe.weight

    def identity(self) -> dict[str, Any]:
        """What equal trainings have in common, as plain values."""
        pools = {"source": self.source.identity, "target": self.target.identity}
        return {**dataclasses.asdict(self.recipe), "version": self.version, "code": code_version("adapt"), **pools}

    def start(
        self, config: DecoderRecipe, seed: int, decoder: Decoder
    ) -> tuple[nn.Module, Callable[[int], Float[Tensor, ""]]]:
        """See `pull_step`."""
        return pull_step(self, config, seed, decoder)


def make_projector(width_in: int, width: int, seed: int) -> nn.Sequential:
    """Two layers with ReLU, T2S-DA sec. 4; their weights depend on the seed alone."""
    with first_weights(generator_for(seed, "projector weights").initial_seed()):
        first, second = nn.Linear(width_in, width), nn.Linear(width, width)
    return nn.Sequential(first, nn.LayerNorm(width), nn.ReLU(), second, nn.LayerNorm(width), nn.ReLU())


def pull_step(
    pull: Pull, config: DecoderRecipe, seed: int, decoder: Decoder
) -> tuple[nn.Module, Callable[[int], Float[Tensor, ""]]]:
    """An untrained projector, and step to L_pull with draws of its own, for the device the decoder is on.

    Args:
        pull: Pools and settings.
        config: Batch size and class power.
        seed: Fixes the draws and the projector.
        decoder: Its weights of the moment are used.

    Raises:
        ValueError: If the decoder looks at neighbours.
    """
    if not isinstance(decoder, TokenDecoder | MLPDecoder | FineDecoder):
        raise ValueError(
            "expected a decoder of single tokens for the pull loss; got one that looks at neighbours: choose another "
            "decoder.architecture than conv, or bridge.weight 0"
        )
    device, recipe = next(decoder.parameters()).device, pull.recipe
    settings = PullSettings(base_queries=recipe.queries, negatives=recipe.negatives)
    projector = make_projector(decoder.head.in_features, recipe.width, seed).to(device)

    def reader(pool: TokenPool, name: str) -> BlockReader:
        return BlockReader(
            pool,
            config.batch,
            config.class_power,
            lambda n: generator_for(seed, "batch", "pull", name, n),
            device,
            config.steps,
        )

    source, target = reader(pull.source, "source"), reader(pull.target, "target")
    num_classes = len(pull.source.starts) - 1

    @torch.no_grad()
    def keys(tokens: Tensor) -> tuple[Tensor, Tensor]:
        embedded = decoder.embed(tokens)
        posterior = decoder.head(embedded).unflatten(-1, (-1, num_classes)).softmax(-1).mean(-2)
        return projector(embedded), posterior

    def loss(number: int) -> Tensor:
        pair, labels = source.draws(number)
        tokens, translated = pair.chunk(2, dim=-1)
        queries = projector(decoder.embed(translated))
        training = decoder.training
        decoder.eval()
        (source_keys, _), (target_keys, posterior) = keys(tokens), keys(target.draws(number)[0])
        decoder.train(training)
        confidence, pseudo_labels = posterior.max(-1)
        batch = PullBatch(queries, source_keys, labels, target_keys, pseudo_labels, confidence)
        weights = class_weights(*class_confidence(confidence, pseudo_labels, num_classes), settings)
        return pull_loss(batch, weights, settings, generator_for(seed, "pull", number)).loss

    return projector, loss


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


class FrozenPull:
    """The pull loss as a run of `saot run` wants it handed in."""

    def translate(self, source: ImageSet, target: ImageSet, bridge: BridgeRecipe, seed: int) -> ImageSet:
        """See `translated_pictures`."""
        return translated_pictures(source, target, bridge.beta, seed)

    def loss(self, source: TokenPool, target: TokenPool, bridge: BridgeRecipe) -> Pull:
        """What the pull loss draws from."""
        return Pull(source, target, bridge, TRANSLATION_VERSION)
