"""Every setting of the main job, frozen, with its source.

`SAOT` in a comment is the paper; its tables are T1 to T21, its appendices A to P.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from saot.recipes.checked import (
    SOME,
    Checked,
    ClassTau,
    Count,
    Dropped,
    Number,
    Positive,
    Range,
    Reached,
    Share,
    Tau,
    Weight,
)


@dataclass(frozen=True)
class TransportRecipe(Checked):
    """How one pair of pictures is transported, Eqs. (1) and (8)."""

    k: Count = 128  # T11: target candidates of each source token
    cover: Number = 0  # sec. 4.3: source top-k alone; c > 0 adds each target's c best sources
    epsilon: Positive = 0.1  # T11
    tau: Tau = 0.3  # T11
    max_iter: Count = 30  # T11
    tol: Weight = 1e-5  # T11; measured as `TransportResult.residual`
    reference: Literal["product", "counting"] = "product"  # Eq. (1); "counting" is Eq. (8) as printed
    search: Literal["exact", "fast", "multiscale", "faiss", "hierarchical"] = "exact"  # ours: how candidates are found
    recall: Reached = 0.95  # multiscale and faiss: share of the true candidates to find
    clusters: Number = 0  # multiscale and faiss: cells of targets, hierarchical: regions a picture; 0 is 2 sqrt(m)
    region_share: Reached = 0.95  # hierarchical, app. P: share of a region's mass whose other regions are searched
    probes: Number = 0  # multiscale and faiss: cells looked into for each source; 0 is as many as `recall` needs
    alpha: Weight = 0.0  # T11: of the structure term, appendix D; 0 is off
    structure: Literal["grid", "features"] = "grid"  # D^s, D^t of Eq. (13), which D leaves open: ours; C30
    structure_steps: Count = 30  # most linearisations of Eq. (13); D does not say


@dataclass(frozen=True)
class CostRecipe(Checked):
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
    groups: Literal["one", "categories", "classes"] = "one"  # app. P: a cost of its own for each group of classes


@dataclass(frozen=True)
class TransferRecipe(Checked):
    """Which sources speak for a target picture, and how their answers are joined, sec. 6.7 and E.4."""

    multi_sources: Count = 3  # T7
    pseudo_sources: Count = 5  # E.4
    source_temperature: Positive = 0.1  # E.4: softmax over global similarities
    sharpen: Positive = 0.5  # E.4: p^(1/T)
    uncovered: Literal["nearest_source", "uniform"] = "nearest_source"  # the paper does not say
    ignored_patches: Literal["exclude", "include"] = "exclude"  # C24: pixels marked ignore in the vote


@dataclass(frozen=True)
class DecoderRecipe(Checked):
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
    grown_points: bool = False  # fine: a point labels what it lies on, by Segment Anything, where the backbone is its
    mlp_widths: tuple[Positive, Positive] = (
        1.0,
        0.5,
    )  # mlp3, times hidden: T4's 1.6M; (0.5, 0.5) is its "512 hidden", A-3
    conv_width: Positive = 0.3125  # conv, times hidden: 320 channels have T4's 3.1M; no width is given
    conv_blocks: Number = 3  # conv: T4
    crop: Count = 12  # conv: side of a training window, tokens; ours
    subdivision: Count = 4  # fine: cells along each side of a token; ours
    context: Number = 0  # fine: levels of means over 3^l x 3^l tokens seen beside the four neighbours; ours
    smooth: Number = 1  # fine: scores of a cell are means over the cells up to so many away, 1 is 3 x 3; 0 is off; ours
    start: Literal["apart", "alike"] = "apart"  # fine: whether each cell draws first weights of its own; ours, best.md
    context_dropout: Share = 0.5  # fine: share of training tokens that do without those levels; ours


@dataclass(frozen=True)
class TaughtRecipe(Checked):
    """Ours, preset best: stage 2 on labels of several teachers, held to class shares by a plan over the classes."""

    teachers: Number = 0  # networks of stage 1 that differ in their draws; their mean teaches stage 2; 0 is the paper
    tau: ClassTau = 1.0  # nats: how strongly the plan keeps to the source's class shares; 0 is no plan
    rounds: Number = 2  # of stage 2; the network of one round is the teacher of the next
    steps: Number = 500  # of each round, which goes on from the one before with the taught tokens as one more term
    learning_rate: Positive = 5e-4
    final_learning_rate: Weight = 1e-6


@dataclass(frozen=True)
class TailRecipe(Checked):
    """Ours, in preset `best` alone: a decoder that the network's own last layers are part of, where they can be had.

    With a network that has none to train, `decoder` and `taught` say what is trained.
    """

    steps: Number = 0  # of stage 1; 0 is off
    taught_steps: Number = 120  # of stage 2, which goes on with the taught tokens as one more term
    learning_rate: Positive = 1e-3
    taught_rate: Positive = 0.5  # of stage 2, times that of stage 1
    final_rate: Weight = 0.01  # at the end of a stage, times that at its beginning
    tail_rate: Weight = 0.1  # of the network's last layers, times that of the decoder
    warm_up: Number = 30  # steps in which the rate grows to what it is
    clip: Positive = 1.0  # longest gradient
    weight_decay: Weight = 1e-2
    width: Count = 128  # channels of the decoder on the tokens' grid; half as many on finer ones
    dropout: Dropped = 0.1
    ema_decay: Share = 0.98  # of the running mean of the weights, which is what is kept
    crop: Count = 28  # side of a training window, tokens
    source_windows: Count = 2  # a step of stage 1
    points_crop: Count = 14  # side of a window with points, tokens: a few of them show more points than a large one
    points_windows: Count = 4  # a step
    source_beside: Count = 1  # source windows a step of stage 2
    taught_windows: Count = 2  # a step of stage 2
    class_power: Weight = 0.5  # 0 draws windows, and weighs their cells, by class uniformly; 1 by the cells of each

    @property
    def architecture(self) -> str:
        """As of a `DecoderRecipe`."""
        return "tail"

    @property
    def subdivision(self) -> int:
        """Cells along each side of a token."""
        return 4

    @property
    def context(self) -> int:
        """Levels of means around a token: a window shows what is around it."""
        return 0

    @property
    def batch(self) -> int:
        """Taught tokens a step of stage 2."""
        return self.taught_windows * self.crop**2


@dataclass(frozen=True)
class RefineRecipe(Checked):
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
class BaselineRecipe(Checked):
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
    probe_weight_decays: Annotated[tuple[Weight, ...], SOME] = (
        1e-3,
        1e-4,
        1e-5,
        1e-6,
    )  # ours: chosen on held-out source pictures
    probe_iterations: Count = 300  # ours: L-BFGS, to convergence; the paper runs 2,000 steps of Adam


@dataclass(frozen=True)
class ScoreRecipe(Checked):
    """How scores become masks and what may be chosen on declared points, E.6."""

    upsample: Literal["logits", "probs"] = "logits"  # C27, for networks; transports give probabilities
    logit_adjustment: Annotated[tuple[float, ...], SOME] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # E.6
    holdout_points: Dropped = 0.0  # share of point pictures kept from training to choose the adjustment
    holdout_least: Number = 0  # where fewer points would be held out, none are: too few to choose anything on
    decision: Literal["likeliest", "expected_iou"] = "likeliest"  # of a network's posterior; ours: best.md


@dataclass(frozen=True)
class InterventionRecipe(Checked):
    """What table 18 tries for rare classes, K.2; lengths and rates are ours, since the paper gives none."""

    logit_adjustment: Annotated[tuple[float, ...], SOME] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # K.2
    focal_gamma: Weight = 2.0  # K.2
    head_steps: Weight = 0.2  # head re-calibration: share of stage 1's steps
    finetune_steps: Weight = 0.2  # the same of fine-tuning
    finetune_rates: Annotated[tuple[Positive, ...], SOME] = (
        1e-5,
        5e-5,
        1e-4,
        5e-4,
    )  # T18 "4 LR cfgs"; the smallest where none is chosen
    rare_classes: Number = 6  # K: six classes at zero; at most half of those the source shows


@dataclass(frozen=True)
class BridgeRecipe(Checked):
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

    name: str = "own"
    transport: TransportRecipe = field(default_factory=TransportRecipe)
    cost: CostRecipe = field(default_factory=CostRecipe)
    transfer: TransferRecipe = field(default_factory=TransferRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    tail: TailRecipe = field(default_factory=TailRecipe)
    taught: TaughtRecipe = field(default_factory=TaughtRecipe)
    refine: RefineRecipe = field(default_factory=RefineRecipe)
    baselines: BaselineRecipe = field(default_factory=BaselineRecipe)
    scores: ScoreRecipe = field(default_factory=ScoreRecipe)
    interventions: InterventionRecipe = field(default_factory=InterventionRecipe)
    bridge: BridgeRecipe = field(default_factory=BridgeRecipe)
