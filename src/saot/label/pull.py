"""What the pull loss of T2S-DA draws from in a run, where it is on."""

import torch
from torch import Tensor

from saot.decoder import ExtraLoss, token_pool
from saot.label.cells import seen
from saot.label.job import Job
from saot.recipes import DecoderRecipe


def pull_of(job: Job, recipe: DecoderRecipe) -> ExtraLoss | None:
    """Source tokens beside their translations, and target tokens, as a decoder of this recipe sees them; None if off.

    Neighbours and pyramid of a translated token are those of its own, translated picture.

    Raises:
        ValueError: If the weight is negative.
    """
    bridge = job.recipe.bridge
    if bridge.weight < 0:
        raise ValueError(f"expected bridge.weight >= 0; got {bridge.weight}: 0 leaves the pull loss out")
    if bridge.weight == 0:
        return None
    (original, width), (translated, _) = seen(job, "source", recipe), seen(job, "translated", recipe)

    def both(picture: int, tokens: Tensor) -> Tensor:
        return torch.cat([original(picture, tokens), translated(picture, tokens)], dim=-1)

    everywhere = [torch.zeros(job.target.grid(n).num_tokens, dtype=torch.uint8) for n in range(len(job.target))]
    source = token_pool(job.source_labels, job.num_classes, both, 2 * width)
    target = token_pool(everywhere, 1, *seen(job, "target", recipe))
    wing = job.inputs.wings.pull
    assert wing is not None, "checked when the run was opened"
    return wing.loss(source, target, bridge)
