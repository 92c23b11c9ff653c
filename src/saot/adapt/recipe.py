"""Every setting of an adaptation, frozen, with its source, and the presets built from them.

A comment names the paper's section or table, or the fact sheet's item (FACTS T-1 to T-14) where the paper is silent
and the code it stands on (DAFormer, HRDA, FDA) decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from saot.adapt.crops import CAT_MAX_RATIO
from saot.adapt.mixing import MixSettings
from saot.adapt.pull import PullSettings
from saot.adapt.sampling import RareClassSettings
from saot.adapt.teacher import TeacherSettings
from saot.adapt.translate import TranslatorSettings
from saot.label import parse_size
from saot.recipes import RecipeDifference, differences, with_words

Method = Literal["source-only", "dacs", "t2s-da", "t2s-da-dg"]
METHODS: dict[str, str] = {
    "source-only": "cross-entropy on the labelled source, nothing else",
    "dacs": "mean teacher on mixed pictures, with DAFormer's strategies: the paper's baseline",
    "t2s-da": "the same with the pull loss: translated source pixels are drawn to source prototypes",
    "t2s-da-dg": "domain generalisation: no target picture is used at all",
}


@dataclass(frozen=True)
class NetworkRecipe:
    """What is trained."""

    encoder: str = "mit-b5"  # sec. 4; mit-b0 .. mit-b5, resnet-101, mobile-sam
    head: Literal["daformer", "deeplab-v2"] = "daformer"  # sec. 4
    channels: int = 256  # DAFormer: of its head
    two_scale: bool = False  # HRDA, FACTS T-4
    pull_scale: Literal["context", "detail"] = "context"  # FACTS T-4: unstated
    projector_kernel: Literal[1, 3] = 1  # FACTS T-9: unstated
    projector_last: Literal["relu", "linear"] = "relu"  # sec. 4; "linear" is U2PL's form


@dataclass(frozen=True)
class PicturesRecipe:
    """Sizes are (height, width) in pixels; None leaves pictures as they are."""

    source_size: tuple[int, int] | None = (720, 1280)  # sec. 4
    target_size: tuple[int, int] | None = (512, 1024)  # sec. 4; the size pictures are scored at, too
    crop: tuple[int, int] = (512, 512)  # sec. 4
    cat_max_ratio: float = CAT_MAX_RATIO  # FACTS T-1
    flip: float = 0.5  # FACTS T-1
    window: tuple[int, int] | None = None  # of a sliding window for scoring; None is the whole picture (DAFormer)
    stride: tuple[int, int] | None = None  # of that window; None is two thirds of it

    def of_source(self) -> "PicturesRecipe":
        """The same, with the size of source pictures as that at which pictures are scored."""
        return replace(self, target_size=self.source_size)

    def __post_init__(self) -> None:
        sizes = (self.source_size, self.target_size, self.crop, self.window, self.stride)
        if any(side < 1 for size in sizes if size is not None for side in size):
            raise ValueError(f"expected sizes of 1 pixel or more, but {self} came")
        if not 0 < self.cat_max_ratio <= 1 or not 0 <= self.flip <= 1:
            raise ValueError(f"expected cat_max_ratio above 0 and up to 1 and flip between 0 and 1, but {self} came")
        window, stride = self.window, self.stride
        if window and stride and (stride[0] > window[0] or stride[1] > window[1]):
            raise ValueError(f"expected a stride within the window {window}, or pixels are left out; {stride} came")


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW, its schedule, and how a step is made up."""

    steps: int = 40_000  # sec. 4
    batch: int = 2  # sec. 4: so many source and so many target pictures
    accumulate: int = 1  # batches whose gradients a step averages
    rate: float = 6e-5  # sec. 4: of the encoder
    head_factor: float = 10.0  # sec. 4: of head and projector
    betas: tuple[float, float] = (0.9, 0.999)  # sec. 4
    weight_decay: float = 0.01  # sec. 4; 0 for norms, FACTS T-1
    warmup: int = 1_500  # sec. 4
    warmup_ratio: float = 1e-6  # FACTS T-1
    power: float = 1.0  # FACTS T-1: of the polynomial
    precision: Literal["no", "fp16", "bf16"] = "no"
    clip: float = 0.0  # largest norm of the gradient; 0 clips nothing


@dataclass(frozen=True)
class PullRecipe:
    """The pull loss and what is pulled where; `weight` 0 leaves it out."""

    weight: float = 0.1  # lambda; Tab. S6
    settings: PullSettings = field(default_factory=PullSettings)
    queries: Literal["pseudo_target", "source"] = "pseudo_target"  # sec. 4.2, first table
    positives: Literal["source", "pseudo_target", "target"] = "source"  # idem
    reweight: Literal["pull", "target", "none", "fixed"] = "pull"  # sec. 4.2: DRW on L_pull, on L_target, or nowhere
    fixed_weights: tuple[float, ...] = ()  # Tab. S5, "fixed": one a class, scaled to sum 1

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"expected pull.weight of 0 or more; got {self.weight}")
        if min(self.fixed_weights, default=0) < 0 or (self.fixed_weights and sum(self.fixed_weights) == 0):
            raise ValueError(f"expected pull.fixed_weights of 0 or more, not all 0; got {self.fixed_weights}")


@dataclass(frozen=True)
class AdaptRecipe:
    """All settings of `saot adapt`."""

    name: str = "paper"
    method: Method = "t2s-da"
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    pictures: PicturesRecipe = field(default_factory=PicturesRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    self_training: bool = True  # L_target, Eq. (S1)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    teacher_mode: Literal["train", "eval"] = "train"  # FACTS T-10 i: batch norm; dropout is off in both
    mix: MixSettings | None = field(default_factory=MixSettings)  # None: the teacher's labels of plain target pictures
    rare: RareClassSettings | None = field(default_factory=RareClassSettings)  # None draws pictures evenly
    feature_distance: float = 0.005  # FACTS T-3; 0 leaves it out
    supervise: Literal["source", "pseudo_target"] = "source"  # sec. 4.2: cross-entropy on x^s or on T(x^s)
    detail_weight: float = 0.1  # FACTS T-4: of the detail crop's own loss, two_scale only
    translator: TranslatorSettings = field(default_factory=TranslatorSettings)
    pull: PullRecipe = field(default_factory=PullRecipe)

    def __post_init__(self) -> None:
        if self.optimizer.steps < 1 or self.optimizer.batch < 1 or self.optimizer.accumulate < 1:
            raise ValueError(f"expected steps, batch and accumulate of 1 or more, but {self.optimizer} came")
        if self.feature_distance < 0 or not 0 <= self.detail_weight <= 1:
            raise ValueError(
                "expected feature_distance of 0 or more and detail_weight between 0 and 1; got "
                f"{self.feature_distance} and {self.detail_weight}"
            )
        ignored, height = self.teacher.ignore_top + self.teacher.ignore_bottom, self.pictures.crop[0]
        if self.self_training and max(ignored - height, 2 * self.teacher.ignore_sides - self.pictures.crop[1]) >= 0:
            raise ValueError(
                f"expected margins of pseudo-labels smaller than the crop; got {ignored} ignored rows of {height} and "
                f"2 x {self.teacher.ignore_sides} ignored columns of {self.pictures.crop[1]}: no target pixel would "
                "count; lower teacher.ignore_top and teacher.ignore_bottom"
            )
        if self.method == "t2s-da-dg" and (self.self_training or self.translator.kind == "fda"):
            raise ValueError(
                "domain generalisation sees no target picture: expected self_training off and a translator that needs "
                "none (colour-jitter, blur, colour-jitter+blur), as `with_method` sets them"
            )
        if self.method == "t2s-da-dg" and self.pull.positives == "target":
            raise ValueError(
                "domain generalisation sees no target picture: expected pull.positives of source or pseudo_target, but "
                "target came"
            )

    def check_classes(self, num_classes: int) -> None:
        """Refuse weights that are not one a class.

        Raises:
            ValueError: If fixed weights are used and their number is not that of the classes.
        """
        if self.pulls and self.pull.reweight == "fixed" and len(self.pull.fixed_weights) != num_classes:
            raise ValueError(
                f"expected pull.fixed_weights with a weight for each of {num_classes} classes; got "
                f"{len(self.pull.fixed_weights)}"
            )

    @property
    def needs_target(self) -> bool:
        """Whether target pictures take part in training."""
        return self.self_training or self.pull_uses_target or (self.translates and self.translator.kind == "fda")

    @property
    def pulls(self) -> bool:
        """Whether L_pull is part of the objective."""
        return self.pull.weight > 0

    @property
    def pull_uses_target(self) -> bool:
        """Whether the pull loss looks at target features."""
        return self.pulls and self.method != "t2s-da-dg"

    @property
    def translates(self) -> bool:
        """Whether T(x^s) is needed."""
        wanted = self.pull.queries == "pseudo_target" or self.pull.positives == "pseudo_target"
        return (self.pulls and wanted) or self.supervise == "pseudo_target"


def with_method(recipe: AdaptRecipe, method: str) -> AdaptRecipe:
    """The recipe with the switches of a method.

    "source-only" is cross-entropy alone, as the table's first row is read: no rare-class sampling, no feature
    distance. "t2s-da-dg" is that with the pull loss, without re-weighting and target negatives (sec. 4.4). Its
    translator, that of Kundu et al., is not to be had; colour jitter with blur takes its place, which needs no target
    picture either and which the paper's own comparison of translators finds to do as well.

    Raises:
        ValueError: If the method is not known.

    Example:
        >>> with_method(AdaptRecipe(), "dacs").pulls, with_method(AdaptRecipe(), "source-only").self_training
        (False, False)
    """
    off = replace(recipe.pull, weight=0.0)
    if method == "source-only":
        return replace(
            recipe, method=method, self_training=False, rare=None, feature_distance=0.0, pull=off, supervise="source"
        )
    if method == "dacs":
        return replace(recipe, method=method, pull=off)
    if method == "t2s-da":
        return replace(recipe, method=method)
    if method == "t2s-da-dg":
        settings = replace(recipe.pull.settings, negative_sampling="source")
        return replace(
            recipe,
            method=method,
            self_training=False,
            rare=None,
            feature_distance=0.0,
            translator=replace(recipe.translator, kind="colour-jitter+blur"),
            pull=replace(recipe.pull, reweight="none", settings=settings),
        )
    raise ValueError(f"expected one of the methods {', '.join(METHODS)}; got {method!r}")


PAPER = AdaptRecipe()

PAPER_CNN = AdaptRecipe(
    name="paper-cnn",
    network=NetworkRecipe(encoder="resnet-101", head="deeplab-v2"),  # sec. 4
)

PAPER_HRDA = AdaptRecipe(
    name="paper-hrda",
    network=NetworkRecipe(two_scale=True),
    pictures=PicturesRecipe(  # FACTS T-4
        source_size=(1440, 2560), target_size=(1024, 2048), crop=(1024, 1024), window=(1024, 1024), stride=(512, 512)
    ),
    rare=RareClassSettings(min_crop_ratio=2.0),  # FACTS T-4
    teacher=TeacherSettings(ignore_top=30, ignore_bottom=240, ignore_sides=30),  # FACTS T-4
)

SMALL = AdaptRecipe(
    name="small",
    network=NetworkRecipe(encoder="mobile-sam", channels=64),
    pictures=PicturesRecipe(source_size=None, target_size=None, crop=(128, 128)),
    optimizer=OptimizerRecipe(steps=600, warmup=50, rate=3e-4),
    teacher=TeacherSettings(decay=0.99, ignore_top=0, ignore_bottom=0),
    rare=RareClassSettings(min_pixels=200),
)

PRESETS = {recipe.name: recipe for recipe in (PAPER, PAPER_CNN, PAPER_HRDA, SMALL)}
REASONS: dict[str, str] = {
    "network.encoder": "weights that are at hand",
    "network.channels": "time on two cores",
    "pictures.source_size": "pictures are small already",
    "pictures.target_size": "pictures are small already",
    "pictures.crop": "time on two cores",
    "optimizer.steps": "time on two cores",
    "optimizer.warmup": "as large a share of fewer steps",
    "optimizer.rate": "fewer steps; chosen on held-out source pictures",
    "teacher.decay": "as much of the first weights is forgotten in fewer steps",
    "teacher.ignore_top": "crops are small and show no edge of the lens",
    "teacher.ignore_bottom": "crops are small and show no bonnet",
    "rare.min_pixels": "pictures are small",
}


def adapt_preset(name: str) -> AdaptRecipe:
    """A preset by name.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> adapt_preset("paper").optimizer.steps
        40000
    """
    if name not in PRESETS:
        raise ValueError(f"expected one of the presets {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]


def for_source(recipe: AdaptRecipe, source: str) -> AdaptRecipe:
    """The paper's recipe at the size that it has for a source: SYNTHIA 1280x760, GTA5 1280x720 (sec. 4).

    Args:
        recipe: A preset, or one made of it.
        source: SPEC of the source.

    Example:
        >>> for_source(PAPER, "synthia:/data/synthia").pictures.source_size
        (760, 1280)
        >>> for_source(PAPER_HRDA, "synthia:/data/synthia").pictures.source_size
        (1520, 2560)
        >>> for_source(PAPER, "gta5:/data/gta5") == PAPER
        True
    """
    size = {(720, 1280): (760, 1280), (1440, 2560): (1520, 2560)}.get(recipe.pictures.source_size or (0, 0))
    if size is None or source.partition(":")[0] != "synthia":
        return recipe
    return replace(recipe, pictures=replace(recipe.pictures, source_size=size))


def recipe_from_words(
    preset: str,
    method: str,
    encoder: str | None,
    steps: int | None,
    crop: str | None,
    changes: Sequence[str],
    source: str = "",
) -> AdaptRecipe:
    """The preset at the size of the source, with the method's switches, then single settings by their dotted paths.

    Raises:
        ValueError: If a name, a size or a path is not known, or a value does not fit.

    Example:
        >>> recipe = recipe_from_words("small", "t2s-da", None, 60, "128x128", ["pull.weight=0.2", "mix=null"])
        >>> recipe.optimizer.warmup, recipe.pictures.crop, recipe.pull.weight, recipe.mix
        (5, (128, 128), 0.2, None)
    """
    recipe = for_source(adapt_preset(preset), source)
    if encoder is not None:
        head = "deeplab-v2" if "resnet" in encoder else "daformer"
        recipe = replace(recipe, network=replace(recipe.network, encoder=encoder, head=head))
    if steps is not None:
        warmup = round(recipe.optimizer.warmup * steps / recipe.optimizer.steps)  # as large a share
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, steps=steps, warmup=warmup))
    if crop is not None:
        size = parse_size(crop)
        if not isinstance(size, tuple):
            raise ValueError(f"expected --crop as HEIGHTxWIDTH in pixels; got {crop!r}")
        recipe = replace(recipe, pictures=replace(recipe.pictures, crop=size))
    return with_words(with_method(recipe, method), changes)


def recipe_differences(
    recipe: AdaptRecipe, reference: AdaptRecipe = PAPER, source: str = ""
) -> tuple[RecipeDifference, ...]:
    """Fields that differ from those of the same method in the paper's recipe for this source.

    Example:
        >>> [d.field for d in recipe_differences(replace(PAPER, optimizer=OptimizerRecipe(steps=10)))]
        ['optimizer.steps']
    """
    return differences(recipe, with_method(for_source(reference, source), recipe.method), REASONS)
