"""Stage 2: self-training with an EMA teacher (sec. 4.5, appendix E.4)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from saot.decoder.distill import DecoderFit, Term, adamw, term_losses
from saot.decoder.network import Decoder, GridDecoder, picture_logits
from saot.decoder.noise import noise
from saot.decoder.pool import Grid, Rows, TokenPool, token_pool
from saot.recipes import DecoderRecipe, RefineRecipe
from saot.runs import (
    Checkpoint,
    Progress,
    cosine_rate,
    descend,
    generator_for,
    set_rate,
    train_steps,
)


@dataclass(frozen=True)
class TargetTokens:
    """All target tokens, picture by picture; no label anywhere.

    Attributes:
        num_pictures: How many pictures.
        picture: Picture number to its tokens (n, d).
        rows: Picture number and token numbers to features.
        dim: Width d.
        grid: Picture number to rows and columns of its tokens; None will do for decoders of single tokens.
    """

    num_pictures: int
    picture: Callable[[int], Tensor]
    rows: Rows
    dim: int
    grid: Grid | None = None

    def logits(self, network: nn.Module, number: int) -> Float[Tensor, "n K"]:
        """What a network says of all tokens of a picture."""
        tokens = self.picture(number)
        rows, columns = (1, len(tokens)) if self.grid is None else self.grid(number)
        return picture_logits(network, tokens, rows, columns)


@torch.no_grad()
def teacher_labels(teacher: nn.Module, target: TargetTokens, config: RefineRecipe) -> list[UInt8[Tensor, " n"]]:
    """Hard pseudo-labels of every target token, 255 below the dynamic threshold.

    Probabilities are sharpened with T (p^(1/T) is a softmax of logits / T); the threshold is
    min(0.8 x median confidence, 0.5), over the whole pseudo-label set (paper-notes C31).
    """
    labels, confidences = [], []
    for number in range(target.num_pictures):
        probs = torch.softmax(target.logits(teacher, number) / config.sharpen, dim=-1)
        confidence, label = probs.max(-1)
        labels.append(label.to(torch.uint8).cpu())
        confidences.append(confidence.half().cpu())
    median = float(torch.cat(confidences).float().median())
    threshold = min(config.threshold_scale * median, config.threshold_cap)
    return [
        torch.where(confidence.float() >= threshold, label, torch.full_like(label, 255))
        for label, confidence in zip(labels, confidences, strict=True)
    ]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, weight by weight."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new, 1.0 - decay)


class PseudoLabels:
    """The current pseudo-labels; a part of the checkpoint, since they stem from an earlier teacher.

    Soft ones would take K numbers a token, so the teacher that gives them is kept in their place.

    Args:
        teacher: Whose labels they are.
        target: Tokens to label.
        config: Settings of T12.
    """

    def __init__(self, teacher: Decoder, target: TargetTokens, config: RefineRecipe) -> None:
        self.teacher, self.target, self.config = teacher, target, config
        self.labels: list[Tensor] = []
        self.version = -1
        self.labeller = copy.deepcopy(teacher).eval() if config.pseudo == "soft" else None

    def make(self, version: int) -> None:
        """Label every target token with the teacher of the moment."""
        self.labels, self.version = teacher_labels(self.teacher, self.target, self.config), version
        if self.labeller is not None:
            self.labeller.load_state_dict(self.teacher.state_dict())

    def pool(self) -> TokenPool:
        """The tokens above the threshold, with their classes or, for soft pseudo-labels, the labeller's answers."""
        target, classes = self.target, self.teacher.head.weight.shape[0]
        soft = None if self.labeller is None else self._soft
        return token_pool(self.labels, classes, target.rows, target.dim, soft, target.grid)

    @torch.no_grad()
    def _soft(self, picture: int, tokens: Int[Tensor, " k"]) -> Float[Tensor, "k K"]:
        labeller = self.labeller
        assert labeller is not None, "only soft pseudo-labels are asked for"
        if isinstance(labeller, GridDecoder):
            logits = self.target.logits(labeller, picture).cpu()[tokens]
        else:
            device = next(labeller.parameters()).device
            logits = labeller(self.target.rows(picture, tokens).to(device).float()).cpu()
        return torch.softmax(logits / self.config.sharpen, dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Labels and the number of their making; the labeller's weights where there is one."""
        kept = {} if self.labeller is None else {"labeller": dict(self.labeller.state_dict())}
        return {"labels": self.labels, "version": self.version, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.labels, self.version = list(state["labels"]), int(state["version"])
        if self.labeller is not None:
            self.labeller.load_state_dict(state["labeller"])


def refine_decoder(
    decoder: Decoder,
    target: TargetTokens,
    config: RefineRecipe,
    *,
    terms: Sequence[Term] = (),
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    crop: int = DecoderRecipe.crop,
) -> DecoderFit:
    """The EMA teacher after self-training on the target tokens.

    Student and teacher start from `decoder`; the teacher labels all tokens every `config.regenerate` steps, the
    student learns the confident ones by cross-entropy with label smoothing, class first, and the teacher follows.
    With `config.pseudo="soft"` it learns the teacher's sharpened probabilities of the same tokens instead, by the
    confidence-weighted KL of stage 1 (table 6).

    Args:
        decoder: Stage 1; left as it is.
        target: Unlabelled tokens.
        config: Settings of T12.
        terms: Kept beside the pseudo-labels (source, points); the paper has none.
        seed: Fixes draws and dropout.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Other:
        crop: Side of a training window, tokens, where the decoder looks at neighbours.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    student, teacher = copy.deepcopy(decoder).train(), copy.deepcopy(decoder).eval()
    optimizer = adamw(student.parameters(), config)
    pseudo = PseudoLabels(teacher, target, config)
    extra = term_losses(terms, config, seed, "refine", student, crop=crop)
    current: list[tuple[int, Callable[[int], Tensor]]] = []

    def pseudo_loss(number: int) -> Tensor:
        version = number // config.regenerate
        if pseudo.version != version:
            pseudo.make(version)
        if not current or current[0][0] != version:
            smoothing, term = config.label_smoothing, Term(f"pseudo-{version}", pseudo.pool())
            made = term_losses([term], config, seed, "refine", student, label_smoothing=smoothing, crop=crop)
            current[:] = [(version, made[0])]
        return current[0][1](number)

    def step(number: int) -> dict[str, float]:
        set_rate(
            optimizer,
            cosine_rate(number, config.steps, config.learning_rate, config.final_learning_rate),
        )
        with noise(generator_for(seed, "dropout", "refine", number).initial_seed(), student.head.weight.device):
            loss = pseudo_loss(number)
            for term, other in zip(terms, extra, strict=True):
                loss = loss + term.weight * other(number)
        descend(loss, optimizer, number, "the student")
        update_teacher(teacher, student, config.ema_decay)
        return {"loss": float(loss.detach())}

    state = {"student": student, "teacher": teacher, "optimizer": optimizer, "pseudo": pseudo}
    history = train_steps(step, config.steps, state, checkpoint, progress)
    return DecoderFit(teacher, history)
