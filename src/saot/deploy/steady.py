"""Labels that are steady from frame to frame: what earlier frames say, carried along and joined to the frame's own."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saot.data import PatchGrid, sentence_of
from saot.evaluate import predict_confidence, predict_mask
from saot.features import Failed, Picture
from saot.label import FinishedRun, Labelled, Labeller
from saot.match import MatchSide, StepSettings, predict_labels


@dataclass(frozen=True)
class SteadySettings:
    """How much earlier frames count.

    Attributes:
        share: Of what is carried along in a frame's answer, from 0 on and below 1.
        memory: How many frames before it are looked at, each time anew: so a frame's answer does not depend on where
            the work began.
        between: The plan between one frame and the next.
    """

    share: float = 0.5
    memory: int = 4
    between: StepSettings = StepSettings(locality=0.005)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.memory < 1:
            raise ValueError(
                f"expected a share from 0 on and below 1, and a memory of at least 1; got {self.share} and "
                f"{self.memory}"
            )


@dataclass(frozen=True, eq=False)
class Own:
    """What a frame says by itself.

    Attributes:
        side: Its tokens.
        logits: Of its tokens or of the cells in them.
        grid: How its picture lies under the tokens.
    """

    side: MatchSide
    logits: Float[Tensor, "cells K"]
    grid: PatchGrid


def steady_logits(frames: Sequence[Own], settings: SteadySettings = SteadySettings()) -> Float[Tensor, "cells K"]:
    """Logits of the last frame, joined to what the frames before it say of the same things.

    With p_t the probabilities of the tokens of frame t by itself, and P_t the plan from it to the frame before
    (`saot.match.predict_labels`):

        y_t = (1 - share) p_t + share P_t y_(t-1),    y_0 = p_0.

    Cells in a token are moved by what the token gained: their probabilities times y / p, which add up to 1 again.

    Args:
        frames: In order of time.
        settings: Share and plan; the memory is what `frames` holds.

    Example:
        A token that is torn between two classes takes the one it had before:

        >>> side = MatchSide.of(torch.eye(2), (1, 2))
        >>> grid = PatchGrid(14, 28, 14, 28, 14, 1, 2)
        >>> before = Own(side, torch.tensor([[2.0, 0.0], [0.0, 2.0]]), grid)
        >>> now = Own(side, torch.tensor([[0.0, 0.1], [0.0, 2.0]]), grid)
        >>> steady_logits([before, now]).argmax(-1).tolist()
        [0, 1]
    """
    joined: Tensor | None = None
    for number, one in enumerate(frames):
        own = _of_tokens(one)
        if joined is None:
            joined = own
            continue
        carried = predict_labels(one.side, frames[number - 1].side, joined, settings.between)
        met = carried.sum(-1, keepdim=True) > 0
        joined = torch.where(met, (1 - settings.share) * own + settings.share * carried, own)
    assert joined is not None, "at least the frame itself"
    latest = frames[-1]
    tiny = torch.finfo(joined.dtype).tiny  # of a class that is ruled out at a token: its logits stay finite
    gained = joined.clamp_min(tiny).log() - _of_tokens(latest).clamp_min(tiny).log()
    return (latest.logits.float() + _of_cells(gained, latest)).log_softmax(-1)


def _parts(one: Own) -> int:
    """Cells along a side of a token."""
    return math.isqrt(len(one.logits) // len(one.side.tokens))


def _of_tokens(one: Own) -> Float[Tensor, "n K"]:
    """Probabilities of tokens, the means of their cells."""
    rows, columns = one.side.shape
    parts, probs = _parts(one), one.logits.float().softmax(-1)
    return probs.reshape(rows, parts, columns, parts, -1).mean((1, 3)).reshape(rows * columns, -1)


def _of_cells(values: Float[Tensor, "n K"], one: Own) -> Float[Tensor, "cells K"]:
    """Values of tokens, each for all of its cells."""
    rows, columns = one.side.shape
    parts = _parts(one)
    spread = values.reshape(rows, 1, columns, 1, -1).expand(-1, parts, -1, parts, -1)
    return spread.reshape(len(one.logits), -1)


@dataclass(frozen=True)
class SteadyRun(FinishedRun):
    """A finished run that looks at the frames before the one it labels.

    Attributes:
        sequence: All frames, in order.
        begins: Of each, the number of the first frame of its footage.
        steady: How much earlier frames count.
    """

    sequence: tuple[Picture, ...] = ()
    begins: tuple[int, ...] = ()
    steady: SteadySettings = SteadySettings()

    each = Labeller.each  # a frame needs those before it

    def own(self, image: object, fingerprint: str) -> Own:
        """What a frame says by itself."""
        features = self.features(image, fingerprint)
        grid = features[0].grid
        side = MatchSide.of(features[0].tokens.float().to(self.device), (grid.height, grid.width))
        return Own(side, self.logits_of(features), grid)

    @torch.inference_mode()
    def masks(
        self, pictures: Iterable[Picture], failed: Failed | None = None, confident: bool = False
    ) -> Iterator[Labelled]:
        """Each picture, one of the sequence, with its mask; a frame that cannot be read is passed over by later ones.

        Args:
            pictures: Any number of them.
            failed: As in `FinishedRun.masks`.
            confident: As there.

        Raises:
            ValueError: If a picture cannot be read, and nobody hears of it.
        """
        number_of = {one.name: number for number, one in enumerate(self.sequence)}
        known: dict[int, Own | None] = {}
        for picture in pictures:
            number = number_of[picture.name]
            first = max(self.begins[number], number - self.steady.memory)
            known = {n: one for n, one in known.items() if n >= first}
            for n in range(first, number):
                if n not in known:
                    known[n] = self._readable(self.sequence[n])
            try:
                image = picture.load()
                known[number] = own = self.own(image, picture.fingerprint)
            except (ValueError, OSError) as error:
                if failed is None:
                    raise
                known[number] = None
                failed(picture, sentence_of(error))
                continue
            logits = steady_logits([one for n in range(first, number + 1) if (one := known[n])], self.steady)
            confidence = predict_confidence(logits, own.grid, self.bias).cpu() if confident else None
            mask = predict_mask(logits, own.grid, self.bias, threshold=self.threshold).cpu()
            yield Labelled(picture, image, mask, confidence)

    def _readable(self, picture: Picture) -> Own | None:
        try:
            return self.own(picture.load(), picture.fingerprint)
        except (ValueError, OSError):
            return None
