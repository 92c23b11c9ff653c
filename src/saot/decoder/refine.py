"""Stage 2: self-training with an EMA teacher (sec. 4.5, appendix E.4)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from saot.decoder.distill import DecoderFit, Term, batch_readers, term_loss
from saot.decoder.network import TokenDecoder
from saot.decoder.pool import BlockReader, Rows, token_pool
from saot.recipes import RefineRecipe
from saot.transfer import Checkpoint, cosine_rate, generator_for, train_steps
from saot.transfer.training import Progress, check_finite, set_rate


@dataclass(frozen=True)
class TargetTokens:
    """All target tokens, picture by picture; no label anywhere.

    Attributes:
        num_pictures: How many pictures.
        picture: Picture number to its tokens (n, d).
        rows: Picture number and token numbers to features.
        dim: Width d.
    """

    num_pictures: int
    picture: Callable[[int], Tensor]
    rows: Rows
    dim: int


@torch.no_grad()
def teacher_labels(teacher: nn.Module, target: TargetTokens, config: RefineRecipe) -> list[UInt8[Tensor, " n"]]:
    """Hard pseudo-labels of every target token, 255 below the dynamic threshold.

    Probabilities are sharpened with T (p^(1/T) is a softmax of logits / T); the threshold is
    min(0.8 x median confidence, 0.5), over the whole pseudo-label set (paper-notes C31).
    """
    labels, confidences = [], []
    for number in range(target.num_pictures):
        probs = torch.softmax(teacher(target.picture(number)) / config.sharpen, dim=-1)
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
    """The current pseudo-labels; a part of the checkpoint, since they stem from an earlier teacher."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []
        self.version = -1

    def state_dict(self) -> dict[str, Any]:
        """Labels and the number of their making."""
        return {"labels": self.labels, "version": self.version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.labels, self.version = list(state["labels"]), int(state["version"])


def refine_decoder(
    decoder: TokenDecoder,
    target: TargetTokens,
    config: RefineRecipe,
    *,
    terms: Sequence[Term] = (),
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> DecoderFit:
    """The EMA teacher after self-training on the target tokens.

    Student and teacher start from `decoder`; the teacher labels all tokens every `config.regenerate` steps, the
    student learns the confident ones by cross-entropy with label smoothing, class first, and the teacher follows.

    Args:
        decoder: Stage 1; left as it is.
        target: Unlabelled tokens.
        config: Settings of T12.
        terms: Kept beside the pseudo-labels (source, points); the paper has none.
        seed: Fixes draws and dropout.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    student, teacher = copy.deepcopy(decoder).train(), copy.deepcopy(decoder).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    pseudo = PseudoLabels()
    extra = batch_readers(terms, config, seed, "refine", student)
    current: list[tuple[int, BlockReader]] = []

    def pseudo_reader(number: int) -> BlockReader:
        version = number // config.regenerate
        if pseudo.version != version:
            pseudo.labels, pseudo.version = teacher_labels(teacher, target, config), version
        if not current or current[0][0] != version:
            pool = token_pool(pseudo.labels, int(decoder.head.out_features), target.rows, target.dim)
            term = Term(f"pseudo-{version}", pool)
            current[:] = [(version, batch_readers([term], config, seed, "refine", student)[0])]
        return current[0][1]

    def step(number: int) -> dict[str, float]:
        reader = pseudo_reader(number)
        set_rate(
            optimizer,
            cosine_rate(number, config.steps, config.learning_rate, config.final_learning_rate),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, "dropout", "refine", number).initial_seed())
            loss = term_loss(student, *reader(number), config.label_smoothing)
            for term, other in zip(terms, extra, strict=True):
                loss = loss + term.weight * term_loss(student, *other(number))
        check_finite(loss, number, "the student")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_teacher(teacher, student, config.ema_decay)
        return {"loss": float(loss.detach())}

    state = {"student": student, "teacher": teacher, "optimizer": optimizer, "pseudo": pseudo}
    history = train_steps(step, config.steps, state, checkpoint, progress)
    return DecoderFit(teacher, history)
