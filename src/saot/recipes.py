"""Every setting of the main job, frozen, with its source, and the presets built from them.

A recipe is a plain value: it is written into `run.json`, compared with the paper's, and never changed in place.
`SAOT` in a comment is the paper; its tables are T1 to T21, its appendices A to P.
"""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """What a value of a declared type must be besides: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]
    infinite: bool = False  # infinity is a value, too


Count = Annotated[int, Range("of 1 or more", lambda value: value >= 1)]
Number = Annotated[int, Range("of 0 or more", lambda value: value >= 0)]
Weight = Annotated[float, Range("of 0 or more", lambda value: value >= 0)]
Positive = Annotated[float, Range("above 0", lambda value: value > 0)]
Share = Annotated[float, Range("from 0 to 1", lambda value: 0 <= value <= 1)]
Reached = Annotated[float, Range("above 0 and at most 1", lambda value: 0 < value <= 1)]
Dropped = Annotated[float, Range("of 0 or more and below 1", lambda value: 0 <= value < 1)]
Tau = Annotated[float, Range("above 0, or inf,", lambda value: value > 0, infinite=True)]
ClassTau = Annotated[float, Range("of 0 or more, or inf,", lambda value: value >= 0, infinite=True)]
_SOME = Range("(at least one)", lambda values: len(values) > 0)


class _Checked:
    """A part of a recipe: a value that is not of its field's type, or outside of its range, is refused."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            if not _fits(getattr(self, name), hint):
                told = f"{type(self).__name__}.{name}"
                raise ValueError(f"expected {_described(hint)} for {told}; got {getattr(self, name)!r}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The declared type of each field of a dataclass, with its range."""
    return get_type_hints(kind, include_extras=True)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type and in its range; a whole number is a number, true is neither."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        infinite = inner[1].infinite and type(value) is float and math.isinf(value)
        return (infinite or _fits(value, inner[0])) and inner[1].holds(value)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is tuple:
        parts = inner[:1] * len(value) if inner[-1] is ... and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if inner:
        return any(_fits(value, each) for each in inner)
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is hint and not dataclasses.is_dataclass(hint)


def _described(hint: Any) -> str:
    """A declared type and its range in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_described(inner[0])} {inner[1].words}"
    if origin is Literal:
        return f"one of {', '.join(str(each) for each in inner)}"
    if origin is tuple:
        number, *ranges = get_args(inner[0]) or inner[:1]
        kind, example = ("whole numbers", "512") if number is int else ("numbers", "0.5")
        kind += "".join(f" {each.words}" for each in ranges)
        return f"{'' if inner[-1] is ... else '2 '}{kind} in brackets, such as [{example},{example}]"
    if inner:
        return " or ".join(_described(each) for each in inner)
    if dataclasses.is_dataclass(hint):
        return "a value for one of its fields: " + ", ".join(each.name for each in dataclasses.fields(hint)) + ";"
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}.get(hint, "a word")


@dataclass(frozen=True)
class TransportRecipe(_Checked):
    """How one pair of pictures is transported, Eqs. (1) and (8)."""

    k: Count = 128  # T11: target candidates of each source token
    cover: Number = 0  # sec. 4.3: source top-k alone; c > 0 adds each target's c best sources
    epsilon: Positive = 0.1  # T11
    tau: Tau = 0.3  # T11
    max_iter: Count = 30  # T11
    tol: Weight = 1e-5  # T11; measured as `TransportResult.residual`
    reference: Literal["product", "counting"] = "product"  # Eq. (1); "counting" is Eq. (8) as printed
    search: Literal["exact", "fast", "multiscale", "faiss"] = "exact"  # ours: how candidates are found, for large grids
    recall: Reached = 0.95  # multiscale and faiss: share of the true candidates to find
    clusters: Number = 0  # multiscale and faiss: cells of targets; 0 is 2 sqrt(m)
    probes: Number = 0  # multiscale and faiss: cells looked into for each source; 0 is as many as `recall` needs
    alpha: Weight = 0.0  # T11: of the structure term, appendix D; 0 is off
    structure: Literal["grid", "features"] = "grid"  # D^s, D^t of Eq. (13), which D leaves open: ours; C30
    structure_steps: Count = 30  # most linearisations of Eq. (13); D does not say


@dataclass(frozen=True)
class CostRecipe(_Checked):
    """The learned cost and its training, Eqs. (3)-(9), Algorithm 1."""

    dim: Count = 256  # T11: W and V are d -> 256
    lambda_sem: Weight = 0.1  # T11
    temperature: Positive = 0.1  # T11: of the semantic prior
    head: Literal["shared", "full", "free"] = "shared"  # reading of Eq. (4), paper-notes C8
    normalize_projection: bool = False  # C8: L2 norm after V; off is the printed form
    spectral_norm: bool = True  # T11
    normalize_prototypes: bool = True  # E.3; C9
    prototype_scope: Literal["dataset", "pair"] = "dataset"  # C9
    support_space: Literal["raw", "projected"] = "raw"  # sec. 4.3; "projected" takes the cheapest pairs; C10
    support_refresh: Count = 1  # "projected": steps between searches with the cost of the moment
    lambda_ent: Weight = 0.1  # T11, Eq. (6)
    lambda_div: Weight = 0.05  # T11, Eq. (7)
    steps: Number = 14_000  # T11
    learning_rate: Positive = 5e-4  # T11
    weight_decay: Weight = 1e-4  # T11
    points_per_class: Count = 20  # T11, E.3
    reduction: Literal["mean", "sum"] = "mean"  # Eq. (9) prints a sum; C14
    absent_class: Literal["drop_points", "clamp"] = "drop_points"  # paper-notes A-8


@dataclass(frozen=True)
class TransferRecipe(_Checked):
    """Which sources speak for a target picture, and how their answers are joined, sec. 6.7 and E.4."""

    multi_sources: Count = 3  # T7
    pseudo_sources: Count = 5  # E.4
    source_temperature: Positive = 0.1  # E.4: softmax over global similarities
    sharpen: Positive = 0.5  # E.4: p^(1/T)
    uncovered: Literal["nearest_source", "uniform"] = "nearest_source"  # the paper does not say
    ignored_patches: Literal["exclude", "include"] = "exclude"  # C24: pixels marked ignore in the vote


@dataclass(frozen=True)
class DecoderRecipe(_Checked):
    """Decoder and stage 1, T12. The same network and loop train every MLP competitor."""

    architecture: Literal["residual", "mlp3", "conv", "fine"] = "residual"  # T4; "fine" is ours: cells, with neighbours
    hidden: Count = 1024  # T12
    blocks: Number = 2  # T12
    dropout: Dropped = 0.1  # T12
    steps: Number = 25_000  # T12
    batch: Count = 2048  # T12: tokens of each term (2,048 source + 2,048 target)
    learning_rate: Positive = 1e-3  # T12
    final_learning_rate: Weight = 1e-5  # T12
    weight_decay: Weight = 1e-4  # T12
    rounds: Count = 2  # T12 "self-training rounds", never defined; ours: paper-notes C17
    class_power: Weight = 0.0  # 0 draws classes uniformly (E.4); 1 in proportion to their tokens
    target_weight: Weight = 1.0  # weight of the pseudo-label term; unspecified, C17
    points_weight: Weight = 0.0  # cross-entropy on the declared points; off in the paper
    mlp_widths: tuple[Positive, Positive] = (
        1.0,
        0.5,
    )  # mlp3, times hidden: T4's 1.6M; (0.5, 0.5) is its "512 hidden", A-3
    conv_width: Positive = 0.3125  # conv, times hidden: 320 channels have T4's 3.1M; no width is given
    conv_blocks: Number = 3  # conv: T4
    crop: Count = 12  # conv: side of a training window, tokens; ours
    subdivision: Count = 4  # fine: cells along each side of a token; ours
    context: Number = 0  # fine: levels of means over 3^l x 3^l tokens seen beside the four neighbours; ours
    context_dropout: Share = 0.5  # fine: share of training tokens that do without those levels; ours


@dataclass(frozen=True)
class TaughtRecipe(_Checked):
    """Ours, preset best: stage 2 on labels of several teachers, held to class shares by a plan over the classes."""

    teachers: Number = 0  # networks of stage 1 that differ in their draws; their mean teaches stage 2; 0 is the paper
    tau: ClassTau = 1.0  # nats: how strongly the plan keeps to the source's class shares; 0 is no plan
    rounds: Number = 2  # of stage 2; the network of one round is the teacher of the next
    steps: Number = 500  # of each round, which goes on from the one before with the taught tokens as one more term
    learning_rate: Positive = 5e-4
    final_learning_rate: Weight = 1e-6


@dataclass(frozen=True)
class RefineRecipe(_Checked):
    """Stage 2, EMA teacher, T12."""

    steps: Number = 20_000  # 0 leaves stage 2 out
    pseudo: Literal["hard", "soft"] = "hard"  # T6: cross-entropy on classes, or KL on the teacher's probabilities
    batch: Count = 2048
    learning_rate: Positive = 5e-4
    final_learning_rate: Weight = 1e-6
    weight_decay: Weight = 1e-4
    ema_decay: Share = 0.9999
    sharpen: Positive = 0.5
    label_smoothing: Dropped = 0.1
    threshold_scale: Weight = 0.8  # threshold = min(0.8 x median confidence, 0.5)
    threshold_cap: Share = 0.5
    regenerate: Count = 5_000
    class_power: Weight = 0.0
    source_weight: Weight = 0.0  # keep the source labels in stage 2; off in the paper
    points_weight: Weight = 0.0  # keep the declared points in stage 2; off in the paper


@dataclass(frozen=True)
class BaselineRecipe(_Checked):
    """The paper's eight competitors, T13, and the linear probe as it should be."""

    bank: Count = 200_000  # T13: tokens kept of all sources together
    neighbours: Count = 10  # T13: k of KNN-Global and LabelProp
    nearest: Literal["bank", "top1"] = "bank"  # C26: the paper's NN looks at one picture
    vote_temperature: Positive = 0.1  # T13 "softmax vote"
    prototype_temperature: Positive = 0.1  # T13
    ot_iterations: Count = 50  # T13
    propagation_alpha: Share = 0.5  # T13
    propagation_steps: Number = 20  # T13
    propagation_bank: Count = 200_000  # T13
    probe_weight_decays: Annotated[tuple[Weight, ...], _SOME] = (
        1e-3,
        1e-4,
        1e-5,
        1e-6,
    )  # ours: chosen on held-out source pictures
    probe_iterations: Count = 300  # ours: L-BFGS, to convergence; the paper runs 2,000 steps of Adam


@dataclass(frozen=True)
class ScoreRecipe(_Checked):
    """How scores become masks and what may be chosen on declared points, E.6."""

    upsample: Literal["logits", "probs"] = "logits"  # C27, for networks; transports give probabilities
    logit_adjustment: Annotated[tuple[float, ...], _SOME] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # E.6
    holdout_points: Dropped = 0.0  # share of point pictures kept from training to choose the adjustment
    holdout_least: Number = 0  # where fewer points would be held out, none are: too few to choose anything on


@dataclass(frozen=True)
class InterventionRecipe(_Checked):
    """What table 18 tries for rare classes, K.2; lengths and rates are ours, since the paper gives none."""

    logit_adjustment: Annotated[tuple[float, ...], _SOME] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # K.2
    focal_gamma: Weight = 2.0  # K.2
    head_steps: Weight = 0.2  # head re-calibration: share of stage 1's steps
    finetune_steps: Weight = 0.2  # the same of fine-tuning
    finetune_rates: Annotated[tuple[Positive, ...], _SOME] = (
        1e-5,
        5e-5,
        1e-4,
        5e-4,
    )  # T18 "4 LR cfgs"; the smallest where none is chosen
    rare_classes: Number = 6  # K: six classes at zero; at most half of those the source shows


@dataclass(frozen=True)
class BridgeRecipe(_Checked):
    """T2S-DA's pull loss on frozen features, beside the terms of stage 1; all else is as in `PullSettings`."""

    weight: Weight = 0.0  # lambda; 0 is off, T2S-DA has 0.1 (Tab. S6)
    beta: Annotated[float, Range("from 0 to 0.5", lambda value: 0 <= value <= 0.5)] = (
        0.01  # share of the spectrum taken from the target; FACTS T-6
    )
    queries: Count = 128  # n of Eq. (11); T2S-DA sec. 4
    negatives: Count = 1024  # m of each query class; T2S-DA sec. 4
    width: Count = 256  # of the projector, T2S-DA sec. 4


@dataclass(frozen=True)
class Recipe:
    """All settings of `saot run`. Presets are instances; `differences` lists where two of them part."""

    name: str = "paper"
    transport: TransportRecipe = field(default_factory=TransportRecipe)
    cost: CostRecipe = field(default_factory=CostRecipe)
    transfer: TransferRecipe = field(default_factory=TransferRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    taught: TaughtRecipe = field(default_factory=TaughtRecipe)
    refine: RefineRecipe = field(default_factory=RefineRecipe)
    baselines: BaselineRecipe = field(default_factory=BaselineRecipe)
    scores: ScoreRecipe = field(default_factory=ScoreRecipe)
    interventions: InterventionRecipe = field(default_factory=InterventionRecipe)
    bridge: BridgeRecipe = field(default_factory=BridgeRecipe)


PAPER = Recipe()

PAPER_SMALL = Recipe(
    name="paper-small",
    cost=CostRecipe(steps=1_000),
    decoder=DecoderRecipe(hidden=256, steps=2_000, batch=1024, rounds=1),
    refine=RefineRecipe(steps=1_500, batch=1024, ema_decay=0.998, regenerate=375),
    baselines=BaselineRecipe(bank=100_000, propagation_bank=20_000),
)

BEST = Recipe(
    name="best",
    transport=TransportRecipe(cover=4),
    cost=CostRecipe(steps=1_000),
    decoder=DecoderRecipe(
        architecture="fine", context=3, hidden=256, steps=1_200, batch=768, rounds=1, class_power=0.5, points_weight=1.0
    ),
    taught=TaughtRecipe(teachers=2),
    refine=RefineRecipe(
        steps=900,
        batch=768,
        ema_decay=0.998,
        regenerate=225,
        class_power=0.5,
        source_weight=1.0,
        points_weight=1.0,
    ),
    baselines=BaselineRecipe(bank=100_000, propagation_bank=20_000),
    scores=ScoreRecipe(
        logit_adjustment=(0.0, -1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 1.0), holdout_points=0.2, holdout_least=500
    ),
)

PRESETS: dict[str, Recipe] = {recipe.name: recipe for recipe in (PAPER, PAPER_SMALL, BEST)}


def preset(name: str) -> Recipe:
    """The preset of this name.

    Raises:
        ValueError: If there is none; the message lists those there are.

    Example:
        >>> preset("paper").cost.steps
        14000
    """
    if name not in PRESETS:
        raise ValueError(f"expected a preset among {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]


def as_dict(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON values; infinity becomes the string "inf".

    A bridge, a structure term and an approximate search that are off are left out: what it was like before there were
    any, so that older runs go on.

    Example:
        >>> pulled = with_words(BEST, ["bridge.weight=0.1", "transport.alpha=0.3"])
        >>> "bridge" in as_dict(BEST), as_dict(pulled)["bridge"]["weight"]
        (False, 0.1)
        >>> "alpha" in as_dict(BEST)["transport"], as_dict(pulled)["transport"]["alpha"]
        (False, 0.3)
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        if isinstance(value, float) and math.isinf(value):
            return "inf"
        return value

    values = plain(dataclasses.asdict(recipe))
    if isinstance(recipe, Recipe) and recipe.bridge.weight == 0:
        del values["bridge"]
    transport = recipe.transport if isinstance(recipe, Recipe) else recipe
    if isinstance(transport, TransportRecipe):
        inner = values if transport is recipe else values["transport"]
        off = ("alpha", "structure", "structure_steps") if transport.alpha == 0 else ()
        off += ("search", "recall", "clusters", "probes") if transport.search == "exact" else ()
        for name in off:
            del inner[name]
    return values


_TIME = "time on two cores"
_STRUCTURE = "the paper leaves the structure term off; appendix D has its equations"
_OURS = "ours: the paper leaves it out"
REASONS: dict[str, str] = {
    "transport.cover": "no target is left without candidate sources",
    "transport.search": "time: the paper compares all tokens of both pictures",
    "transport.alpha": _STRUCTURE,
    "transport.structure": _STRUCTURE,
    "cost.steps": f"{_TIME}; the paper's appendix K.4 finds 500 sufficient at its resolution",
    "decoder.architecture": "cells of a patch, seen with its neighbours: small things are lost in whole patches",
    "decoder.hidden": _TIME,
    "decoder.steps": _TIME,
    "decoder.batch": _TIME,
    "decoder.rounds": "never defined in the paper; one round is enough to judge the plan by",
    "decoder.class_power": "rare classes keep a say without drowning the frequent ones",
    "decoder.target_weight": "beside true points, transported labels are the weaker witness",
    "decoder.points_weight": "the declared points also train the decoder, as they do every competitor that has them",
    "decoder.context": "what lies around a patch says what it is",
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
    "baselines.bank": "memory and time on two cores",
    "baselines.propagation_bank": "memory and time on two cores",
    "baselines.probe_iterations": _TIME,
    "bridge.weight": f"{_OURS}; T2S-DA's pull loss draws translated source tokens to source prototypes",
    "scores.logit_adjustment": "both directions are tried; the choice is still made on declared points",
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
    recipe: Any, reference: Any = PAPER, reasons: Mapping[str, str] = REASONS
) -> tuple[RecipeDifference, ...]:
    """Every field of `recipe` that differs from `reference`, in reading order; names are left out.

    Args:
        recipe: The frozen dataclass in use, of any depth.
        reference: The paper's, of the same class.
        reasons: Why, by dotted path.

    Example:
        >>> [d.field for d in differences(Recipe(name="x", transport=TransportRecipe(k=64)))]
        ['transport.k']
    """

    def walk(used: Any, paper: Any, path: str) -> list[RecipeDifference]:
        if not dataclasses.is_dataclass(used) or type(used) is not type(paper):
            return [] if used == paper else [RecipeDifference(path, str(paper), str(used), reasons.get(path, ""))]
        found = []
        for each in dataclasses.fields(used):
            inner = f"{path}.{each.name}" if path else each.name
            if inner not in _OPTIONS:
                found += walk(getattr(used, each.name), getattr(paper, each.name), inner)
        return found

    return tuple(walk(recipe, reference, ""))


_OPTIONS = {"name": "--preset", "method": "--method"}  # fields that decide several settings at once


def replaced(recipe: T, path: str, value: Any) -> T:
    """The recipe with one field replaced, named by its dotted path.

    Args:
        recipe: A frozen dataclass, of any depth.
        path: Such as "transport.tau".
        value: What stands there from now on; its class checks it.

    Raises:
        ValueError: If there is no such field; it says which ones there are.

    Example:
        >>> replaced(PAPER, "transport.k", 64).transport.k
        64
    """
    changed: Any = value
    for owner, name in reversed(_owners(recipe, path, type(recipe).__name__)):
        changed = dataclasses.replace(owner, **{name: changed})
    return changed


def with_words(recipe: T, changes: Sequence[str]) -> T:
    """The recipe with fields replaced as a command line spells them, one after the other.

    Args:
        recipe: A frozen dataclass, of any depth.
        changes: "PATH=VALUE" each; the value in JSON (`0.5`, `true`, `null`, `[512,512]`), `inf` or a bare word.

    Raises:
        ValueError: If a path is not known or a value is not of the declared type or out of its range.

    Example:
        >>> with_words(PAPER, ["transport.tau=inf", "refine.pseudo=soft"]).transport.tau
        inf
    """
    for change in changes:
        path, equals, word = change.partition("=")
        if not equals:
            raise ValueError(f"expected --set PATH=VALUE, such as pull.weight=0.2; got {change!r}")
        if path in _OPTIONS and hasattr(recipe, path):
            raise ValueError(f"expected {_OPTIONS[path]} for what decides several settings at once; got --set {change}")
        hint = _declared(recipe, path, "--set")
        values = [_plain(value) for value in _readings(word) if _fits(_plain(value), hint)]
        if not values:
            raise ValueError(f"expected {_described(hint)} for {path}; got {word!r}")
        try:
            recipe = with_value(recipe, path, values[0])
        except ValueError as error:
            raise ValueError(f"--set {change}: {error}") from error
    return recipe


def with_value(recipe: T, path: str, value: Any) -> T:
    """The recipe with one field replaced by a value as JSON and TOML have it: lists are tuples, 1 is 1.0 of a number.

    Raises:
        ValueError: If the path is not known or the value is not of the declared type or out of its range.

    Example:
        >>> with_value(PAPER, "decoder.mlp_widths", [1, 0.5]).decoder.mlp_widths
        (1.0, 0.5)
    """
    hint, plain = _declared(recipe, path, type(recipe).__name__), _plain(value)
    if not _fits(plain, hint):
        raise ValueError(f"expected {_described(hint)} for {path}; got {value!r}")
    return replaced(recipe, path, _as_declared(plain, hint))


def setting_paths(recipe: Any, before: str = "") -> dict[str, Any]:
    """Every setting by its dotted path, in reading order, without the name.

    Example:
        >>> list(setting_paths(PAPER))[:3]
        ['transport.k', 'transport.cover', 'transport.epsilon']
    """
    found: dict[str, Any] = {}
    for each in dataclasses.fields(recipe):
        value, path = getattr(recipe, each.name), f"{before}{each.name}"
        if dataclasses.is_dataclass(value):
            found |= setting_paths(value, f"{path}.")
        elif path not in _OPTIONS:
            found[path] = value
    return found


def _readings(word: str) -> list[Any]:
    """What a word may stand for, the likeliest first; itself if it is no value."""
    found: list[Any] = []
    for read in (json.loads, float):
        with contextlib.suppress(ValueError):
            found.append(read(word))
    return found or [word]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _declared(recipe: Any, path: str, top: str) -> Any:
    """The declared type of the field at a dotted path."""
    owner, name = _owners(recipe, path, top)[-1]
    return _hints(type(owner))[name]


def _as_declared(value: Any, hint: Any) -> Any:
    """A whole number as the number that is declared, so that 1 and 1.0 are one setting."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _as_declared(value, inner[0])
    if origin is tuple:
        parts = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(map(_as_declared, value, parts))
    return float(value) if hint is float else value


def _owners(recipe: Any, path: str, top: str) -> list[tuple[Any, str]]:
    """The values along a dotted path, each with the name of its field that the path goes on with."""
    found, before = [], ""
    for name in path.split("."):
        if not dataclasses.is_dataclass(recipe):
            what = "null" if recipe is None else repr(recipe)
            raise ValueError(f"expected a setting that exists; got {path}, but {before} is {what} and has no fields")
        known = [each.name for each in dataclasses.fields(recipe)]
        if name not in known:
            raise ValueError(
                f"expected a setting that exists; got {path}, but {before or top} knows {', '.join(known)}"
            )
        found.append((recipe, name))
        recipe, before = getattr(recipe, name), f"{before}.{name}".lstrip(".")
    return found


# The demonstration: preset best, shrunk until two cores do it in about two minutes.
DEMO_SOURCE = "scenes:game:train,count=32"
DEMO_TARGET = "scenes:street:train,count=32"
DEMO_TEST = "scenes:street:val,count=16"
DEMO_SIZE = "336x672"  # network input: 24 x 48 tokens
DEMO = Recipe(
    name="demo",
    transport=TransportRecipe(cover=4),
    cost=CostRecipe(steps=250),
    decoder=DecoderRecipe(
        architecture="fine", context=3, hidden=128, steps=600, batch=512, rounds=1, class_power=0.5, points_weight=1.0
    ),
    taught=TaughtRecipe(teachers=2, rounds=1, steps=200),
    refine=RefineRecipe(
        steps=300,
        batch=512,
        ema_decay=0.99,
        regenerate=100,
        class_power=0.5,
        source_weight=1.0,
        points_weight=1.0,
    ),
    baselines=BaselineRecipe(bank=20_000, propagation_bank=10_000, probe_iterations=150),
    scores=BEST.scores,
)
