"""Where a recipe departs from the paper's, and why."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saot.recipes.presets import PRINTED
from saot.recipes.words import OPTIONS

_TIME = "time on two cores"
_STRUCTURE = "the paper leaves the structure term off; appendix D has its equations"
_OURS = "ours: the paper leaves it out"
REASONS: dict[str, str] = {
    "transport.cover": "no target is left without candidate sources",
    "transport.search": "time: the paper compares all tokens of both pictures",
    "transport.alpha": _STRUCTURE,
    "transport.reference": "Eq. (1); with uniform weights its labels are those of Eq. (8), its masses those of a plan",
    "transport.structure": _STRUCTURE,
    "cost.groups": "appendix P proposes a cost for each group of classes and does not run it",
    "cost.head": "U^T V x of Eq. (4) does not fit the printed V: d -> 256; (V u).(V x) has the printed 0.52M weights",
    "cost.reduction": "with the mean, Eqs. (6) and (7) weigh as much whatever the number of points",
    "cost.steps": f"{_TIME}; the paper's appendix K.4 finds 500 sufficient at its resolution",
    "decoder.architecture": "cells of a patch, seen with its neighbours: small things are lost in whole patches",
    "decoder.hidden": _TIME,
    "decoder.steps": _TIME,
    "decoder.batch": _TIME,
    "decoder.rounds": "never defined in the paper; one round is enough to judge the plan by",
    "decoder.class_power": "rare classes keep a say without drowning the frequent ones",
    "decoder.target_weight": "beside true points, transported labels are the weaker witness",
    "decoder.points_weight": "the declared points also train the decoder, as they do every competitor that has them",
    "decoder.grown_points": "one click says what a whole object is, not a pixel of it",
    "decoder.context": "what lies around a patch says what it is",
    "tail.steps": "what frozen features leave out no decoder finds again",
    "taught.teachers": "two networks together label better than one; the plan is one between target tokens and classes",
    "taught.steps": _TIME,
    "taught.rounds": "labels of the first round still have the class shares of stage 1",
    "refine.steps": _TIME,
    "refine.batch": _TIME,
    "refine.ema_decay": "as much of the first weights is forgotten in fewer steps",
    "refine.regenerate": "four makings of pseudo-labels, as in the paper",
    "refine.class_power": "rare classes keep a say without drowning the frequent ones",
    "refine.source_weight": "keeps stage 2 from drifting",
    "refine.points_weight": "keeps stage 2 from drifting",
    "baselines.nearest": "a bank of all sources is the stronger competitor",
    "baselines.bank": "memory and time on two cores",
    "baselines.propagation_bank": "memory and time on two cores",
    "baselines.probe_iterations": _TIME,
    "bridge.weight": f"{_OURS}; T2S-DA's pull loss draws translated source tokens to source prototypes",
    "scores.logit_adjustment": "both directions are tried; the choice is still made on declared points",
    "scores.decision": "mIoU is the measure, and the likeliest class is not the best answer for it",
    "scores.holdout_least": "too few points choose badly",
    "scores.holdout_points": "points the network was trained on say little about it",
}


@dataclass(frozen=True)
class RecipeDifference:
    """One setting in which ours departs from the paper's, as printed in reports and tables."""

    field: str
    paper: str
    used: str
    reason: str = ""


def differences(
    recipe: Any, reference: Any = PRINTED, reasons: Mapping[str, str] = REASONS
) -> tuple[RecipeDifference, ...]:
    """Every field of `recipe` that differs from `reference`, in reading order; names are left out.

    Args:
        recipe: The frozen dataclass in use, of any depth.
        reference: The paper's, of the same class; what SAOT prints unless given.
        reasons: Why, by dotted path.

    Example:
        >>> from saot.recipes import PAPER, replaced
        >>> [d.field for d in differences(replaced(PAPER, "transport.k", 64))]
        ['transport.k', 'cost.head']
    """

    def walk(used: Any, paper: Any, path: str) -> list[RecipeDifference]:
        if not dataclasses.is_dataclass(used) or type(used) is not type(paper):
            return [] if used == paper else [RecipeDifference(path, str(paper), str(used), reasons.get(path, ""))]
        found = []
        for each in dataclasses.fields(used):
            inner = f"{path}.{each.name}" if path else each.name
            if inner not in OPTIONS:
                found += walk(getattr(used, each.name), getattr(paper, each.name), inner)
        return found

    return tuple(walk(recipe, reference, ""))
