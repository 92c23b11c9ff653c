"""The pull loss of T2S-DA: pixels of translated source pictures are drawn to source prototypes, Eqs. (2)-(13).

Pure functions of tensors, for frozen features and for the trainer alike. The student sees the translation, the teacher
the source and the target; only the student's features get a gradient. Where the paper's Algorithm 1 departs from its
equations (FACTS T-10) the equations are the defaults and Algorithm 1 is an option; Eq. (3) alone is read as Algorithm 1
has it, since its weights already sum to 1.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from torch import Tensor

from saot.data import IGNORE_INDEX
from saot.transfer import Prototypes, prototype_sums


@dataclass(frozen=True)
class PullSettings:
    """How queries and keys are chosen and how the loss is summed. The loss's weight, 0.1, is the trainer's."""

    loss: Literal["infonce", "mse"] = "infonce"  # sec. 4.2: 70.0 against 69.4 mIoU
    temperature: float = 0.2  # tau of Eq. (2); sec. 4, Tab. S7
    base_queries: int = 128  # n; sec. 4, Tab. S10
    negatives: int = 1024  # m of each query class; sec. 4, Tab. S10
    query_sampling: Literal["balanced", "equalized"] = "balanced"  # sec. 3.3: CBQS; "equalized" is CEQS
    negative_sampling: Literal["equalized", "pooled", "source"] = "equalized"  # sec. 3.3: DENPS; Tab. S3: source alone
    unreliable: float = 0.5  # alpha of Eq. (9); sec. 4, Tab. S9
    prototypes: Literal["mean_then_unit", "unit_then_mean"] = "mean_then_unit"  # Eqs. (5)-(6); Alg. 1, line 32
    weight_power: float = 0.5  # beta of Eq. (12); sec. 3.4, Tab. S8; 0 turns the re-weighting off
    weight_divisor: Literal["max", "min"] = "max"  # Eq. (12); Alg. 1, line 27
    weight_form: Literal["power", "product"] = "power"  # Eq. (12); Alg. 1, line 28
    absent_class: Literal["max", "skip"] = "max"  # a class without pseudo-label; unspecified, FACTS T-11
    pairs: Literal["mean", "sum"] = "mean"  # Alg. 1, line 62; Eq. (3) prints a sum, FACTS T-10 e
    classes: Literal["sum", "mean"] = "sum"  # Alg. 1; Eq. (3) prints 1/C although the weights sum to 1

    def __post_init__(self) -> None:
        draws_some = self.base_queries >= 1 and self.negatives >= 1
        if self.temperature <= 0 or not draws_some or not 0 <= self.unreliable <= 1 or self.weight_power < 0:
            raise ValueError(
                "expected temperature above 0, base_queries and negatives of 1 or more, unreliable between 0 and 1 and "
                f"weight_power of 0 or more, but {self} came"
            )


@dataclass(frozen=True)
class PullBatch:
    """Features of one mini-batch, pixel by pixel; they need not have unit length.

    Attributes:
        queries: (n, d) the student's projector on translated source pixels, Eq. (4).
        source: (n, d) the teacher's projector on the same pixels before translation.
        labels: (n,) classes of these pixels; 255 for "ignore", which are neither query nor key.
        target: (m, d) the teacher's projector on target pixels; m may be 0 (domain generalisation).
        pseudo_labels: (m,) the teacher's classes; 255 leaves a pixel out.
        confidence: (m,) the teacher's largest probability.
    """

    queries: Float[Tensor, "n d"]
    source: Float[Tensor, "n d"]
    labels: Integer[Tensor, " n"]
    target: Float[Tensor, "m d"]
    pseudo_labels: Integer[Tensor, " m"]
    confidence: Float[Tensor, " m"]


@dataclass(frozen=True)
class PullResult:
    """The loss and what it was made of, for logs.

    Attributes:
        loss: Eq. (3); 0 without a query.
        class_losses: (K,) mean over the queries of each class, unweighted; 0 without a query.
        queries: (K,) queries drawn, n_q(c).
        source_negatives: (K,) source keys drawn for the queries of each class.
        target_negatives: (K,) target keys drawn.
        weights: (K,) w* as given.
        threshold: gamma of Eq. (9).
    """

    loss: Float[Tensor, ""]
    class_losses: Float[Tensor, " K"]
    queries: Int64[Tensor, " K"]
    source_negatives: Int64[Tensor, " K"]
    target_negatives: Int64[Tensor, " K"]
    weights: Float[Tensor, " K"]
    threshold: Float[Tensor, ""]


def pull_batch(
    queries: Float[Tensor, "b d h w"],
    source: Float[Tensor, "b d h w"],
    labels: Integer[Tensor, "b lh lw"],
    target: Float[Tensor, "t d th tw"],
    probs: Float[Tensor, "t K ph pw"],
) -> PullBatch:
    """Feature maps as a batch of pixels, with labels and probabilities brought to their size by `nearest` (FACTS T-9).

    Args:
        queries: The student's projector on the translation.
        source: The teacher's projector on the source.
        labels: Of the source, at any size.
        target: The teacher's projector on the target.
        probs: The teacher's softmax on the target, at any size.

    Example:
        >>> labels, probs = torch.tensor([[[0, 1], [1, 1]]]), torch.tensor([0.3, 0.7]).view(1, 2, 1, 1)
        >>> made = pull_batch(torch.ones(1, 3, 1, 2), torch.ones(1, 3, 1, 2), labels, torch.ones(1, 3, 1, 1), probs)
        >>> made.labels.tolist(), made.pseudo_labels.tolist(), made.queries.shape
        ([0, 1], [1], torch.Size([2, 3]))
    """
    height, width = queries.shape[-2:]
    confidence, pseudo_labels = nearest(probs, (target.shape[-2], target.shape[-1])).max(1)
    flat = [maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (queries, source, target)]
    near = nearest(labels, (height, width)).flatten()
    return PullBatch(flat[0], flat[1], near, flat[2], pseudo_labels.flatten(), confidence.flatten())


def nearest(maps: Shaped[Tensor, "*batch h w"], size: tuple[int, int]) -> Shaped[Tensor, "*batch nh nw"]:
    """The maps at another size: row r takes row floor(r h / nh), columns alike (torch's "nearest").

    Example:
        >>> nearest(torch.tensor([[0, 1, 2, 3]]), (1, 2)).tolist()
        [[0, 2]]
    """
    rows, columns = (torch.arange(size[i], device=maps.device) * maps.shape[i - 2] // size[i] for i in (0, 1))
    return maps[..., rows.unsqueeze(1), columns]


def source_prototypes(
    features: Float[Tensor, "n d"],
    labels: Integer[Tensor, " n"],
    num_classes: int,
    form: Literal["mean_then_unit", "unit_then_mean"] = "mean_then_unit",
) -> Prototypes:
    """Positive keys k_c+: the mean feature of each class, then scaled to unit length, Eqs. (5) and (6).

    Args:
        features: The teacher's, of the source; no gradient goes through them.
        labels: Their classes, 255 for "ignore".
        num_classes: Number of classes K.
        form: "unit_then_mean" is Algorithm 1: the mean of unit features, not scaled again.

    Returns:
        Keys (K, d), zero for classes without a pixel, and which classes have one.

    Example:
        >>> source_prototypes(torch.tensor([[9.0, 0.0], [0.0, 12.0]]), torch.tensor([1, 1]), 2).means[1].tolist()
        [0.6000000238418579, 0.800000011920929]
    """
    _check_labels(labels, num_classes, "labels")
    features = _wide(features.detach())
    if form == "unit_then_mean":
        features = _unit(features)
    sums, counts = prototype_sums(features, labels.long(), num_classes)
    means = sums / counts.clamp_min(1).unsqueeze(1)
    return Prototypes((_unit(means) if form == "mean_then_unit" else means).to(features.dtype), counts > 0)


def query_counts(
    labels: Integer[Tensor, " n"],
    num_classes: int,
    base: int = PullSettings.base_queries,
    sampling: Literal["balanced", "equalized"] = "balanced",
) -> Int64[Tensor, " K"]:
    """Queries of each class, n_q(c) = ceil(C p(c) n) with p(c) the share of labelled pixels, Eq. (11).

    Args:
        labels: Classes of the source pixels; "ignore" does not count.
        num_classes: C.
        base: n.
        sampling: "equalized" takes n of each class that occurs (CEQS, sec. 3.3).

    Example:
        >>> query_counts(torch.tensor([0, 0, 0, 1, 255]), num_classes=3, base=3)  # 9 * 3/4 and 9 * 1/4, rounded up
        tensor([7, 3, 0])
    """
    pixels = _pixels(labels, num_classes, "labels")
    if sampling == "equalized":
        return torch.where(pixels > 0, base, 0)
    return -(-pixels * num_classes * base // max(int(pixels.sum()), 1))  # in integers: no rounding before the ceiling


def confidence_threshold(confidence: Float[Tensor, " m"], unreliable: float = 0.5) -> Float[Tensor, ""]:
    """gamma: the percentile below which target pixels count as unreliable, Eq. (9); 0 without a pixel.

    Args:
        confidence: Of all target pixels of the batch.
        unreliable: alpha, their share.

    Example:
        >>> confidence_threshold(torch.tensor([0.5, 0.25, 1.0]), 0.5)
        tensor(0.5000)
    """
    wide = _wide(confidence)
    return torch.quantile(wide, unreliable) if len(wide) else wide.new_zeros(())


def class_confidence(
    confidence: Float[Tensor, "*pixels"], pseudo_labels: Integer[Tensor, "*pixels"], num_classes: int
) -> tuple[Float[Tensor, " K"], Int64[Tensor, " K"]]:
    """conf(c): the mean confidence of target pixels labelled c, Eq. (13), at the full size of the prediction.

    Args:
        confidence: The teacher's largest probability.
        pseudo_labels: Its classes, 255 leaves a pixel out.
        num_classes: Number of classes K.

    Returns:
        Means (K,), 0 for a class that is never predicted, and the number of pixels (K,).

    Example:
        >>> class_confidence(torch.tensor([0.5, 1.0, 0.9]), torch.tensor([0, 0, 255]), num_classes=2)
        (tensor([0.7500, 0.0000], dtype=torch.float64), tensor([2, 0]))
    """
    pixels = _pixels(pseudo_labels.flatten(), num_classes, "pseudo_labels")
    keep = pseudo_labels != IGNORE_INDEX
    sums = torch.zeros(num_classes, dtype=torch.float64, device=confidence.device)
    sums.index_add_(0, pseudo_labels[keep].long(), confidence[keep].detach().double())
    return sums / pixels.clamp_min(1), pixels


def class_weights(
    mean: Float[Tensor, " K"], pixels: Int64[Tensor, " K"], settings: PullSettings = PullSettings()
) -> Float[Tensor, " K"]:
    """w*: dynamic weights [(1 - conf(c)) / max_c' (1 - conf(c'))]^beta, scaled to sum 1, Eq. (12).

    Whatever the divisor, it cancels when the weights are scaled; so does beta as a factor (Algorithm 1), which makes
    them proportional to 1 - conf(c). A divisor of 0 is left out.

    Args:
        mean: conf(c), from `class_confidence`.
        pixels: Pixels of each class; one without any gets the largest weight, or none with `absent_class="skip"`.
        settings: beta and the readings.

    Returns:
        Weights (K,); uniform where nothing is known or every confidence is 1.

    Example:
        >>> class_weights(torch.tensor([0.19, 0.84]), torch.tensor([7, 3]))  # 0.9 to 0.4
        tensor([0.6923, 0.3077])
    """
    seen = pixels > 0
    counted = seen if settings.absent_class == "skip" and bool(seen.any()) else torch.ones_like(seen)
    doubt = torch.where(seen, (1 - mean).clamp_min(0), 0.0)
    if bool(seen.any()):
        divisor = doubt[seen].max() if settings.weight_divisor == "max" else doubt[seen].min()
        doubt = doubt / torch.where(divisor > 0, divisor, 1.0)
    beta = settings.weight_power
    raw = doubt**beta if settings.weight_form == "power" else doubt * beta
    raw = torch.where(seen, raw, raw.max())
    raw = torch.where(counted, raw, 0.0)
    return raw / raw.sum() if bool(raw.sum() > 0) else counted.to(raw.dtype) / counted.sum()


def info_nce(
    queries: Float[Tensor, "q d"], positive: Float[Tensor, " d"], negatives: Float[Tensor, "k d"], temperature: float
) -> Float[Tensor, " q"]:
    """-log [e^(q.k+ / tau) / (e^(q.k+ / tau) + sum e^(q.k- / tau))] of each query, Eq. (2).

    Args:
        queries: Unit features of one class.
        positive: Their key, of unit length.
        negatives: Unit keys of other classes; without any the loss is 0.
        temperature: tau.

    Example:
        >>> info_nce(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0]), torch.tensor([[0.0, -1.0]]), 0.2)  # log 2
        tensor([0.6931])
    """
    logits = torch.cat([(queries @ positive).unsqueeze(1), queries @ negatives.T], dim=1) / temperature
    return torch.logsumexp(logits, dim=1) - logits[:, 0]


def squared_distance(queries: Float[Tensor, "q d"], positive: Float[Tensor, " d"]) -> Float[Tensor, " q"]:
    """The objective called MSE, |q - k+|^2 of unit features, sec. 3.1.

    Example:
        >>> squared_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0]))
        tensor([2.])
    """
    return (queries - positive).square().sum(1)


def pull_loss(
    batch: PullBatch,
    weights: Float[Tensor, " K"],
    settings: PullSettings,
    generator: torch.Generator,
    positives: Prototypes | None = None,
) -> PullResult:
    """L_pull, Eq. (3): the weighted sum over classes of the loss between queries and their class's source prototype.

    Queries are drawn with replacement, as Algorithm 1 does; so are negatives, once for all queries of a class.

    Args:
        batch: Features, labels and pseudo-labels of the mini-batch.
        weights: w* of the K classes, from `class_weights`.
        settings: How keys are drawn and losses summed.
        generator: Of all draws.

    Other:
        positives: Keys in place of the source's prototypes (sec. 4.2's "source -> target"), used as they are.

    Returns:
        The loss and what was used. Gradients reach `batch.queries` alone. A class without source pixel or key takes
        no part; its weight is not given to others.

    Raises:
        ValueError: If a label is no class.

    Example:
        >>> ones = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # each pixel is its class's prototype
        >>> batch = PullBatch(ones, ones, torch.tensor([0, 1]), ones[:0], torch.tensor([]).long(), torch.tensor([]))
        >>> settings = PullSettings(temperature=1.0, negatives=1)
        >>> result = pull_loss(batch, torch.tensor([0.5, 0.5]), settings, torch.Generator().manual_seed(0))
        >>> round(float(result.loss), 4), result.queries.tolist()  # log(1 + e^-1)
        (0.3133, [128, 128])
    """
    _check_labels(batch.pseudo_labels, len(weights), "pseudo_labels")
    with torch.autocast(batch.queries.device.type, enabled=False):
        keys = positives or source_prototypes(batch.source, batch.labels, len(weights), settings.prototypes)
        counts = query_counts(batch.labels, len(weights), settings.base_queries, settings.query_sampling)
        known = batch.pseudo_labels != IGNORE_INDEX
        threshold = confidence_threshold(batch.confidence[known], settings.unreliable)
        low = known & (_wide(batch.confidence) < threshold)
        loss = _wide(batch.queries[:0]).sum()  # 0 that a backward pass can go through
        used, losses = torch.zeros(3, len(weights), dtype=torch.long), torch.zeros(len(weights), dtype=loss.dtype)
        for label in torch.nonzero((counts > 0) & keys.present).flatten().tolist():
            pixels = torch.nonzero(batch.labels == label).flatten()
            queries = _unit(_wide(batch.queries[_draw(pixels, int(counts[label]), generator)]))
            positive, drawn = keys.means[label].detach().to(loss.dtype), (pixels[:0], pixels[:0])
            if settings.loss == "mse":
                each = squared_distance(queries, positive)
            else:
                drawn = _draw_negatives(batch, low, label, settings, generator)
                negatives = torch.cat([batch.source[drawn[0]], batch.target[drawn[1]]]).detach()
                each = info_nce(queries, positive, _unit(_wide(negatives)).to(loss.dtype), settings.temperature)
            used[:, label] = torch.tensor([len(queries), len(drawn[0]), len(drawn[1])])
            losses[label] = each.detach().mean()
            summed = each.mean() if settings.pairs == "mean" else each.sum()
            loss = loss + weights[label].detach().to(loss.dtype) * summed
    loss = loss / len(weights) if settings.classes == "mean" else loss
    return PullResult(loss, losses, used[0], used[1], used[2], weights.detach(), threshold)


def _draw_negatives(
    batch: PullBatch, low: Bool[Tensor, " m"], label: int, settings: PullSettings, generator: torch.Generator
) -> tuple[Int64[Tensor, " s"], Int64[Tensor, " t"]]:
    """Source and target pixels for queries of one class: K_s- and K_t- of Eqs. (7), (8), and (10) read per class.

    Half of them come from each domain (DENPS); where a domain has none, the other gives all, so that their number,
    which the loss grows with, stays the same. Ignored source pixels have no label, so nothing says they are another
    class.
    """
    source = torch.nonzero((batch.labels != label) & (batch.labels != IGNORE_INDEX)).flatten()
    target = torch.nonzero(low & (batch.pseudo_labels != label)).flatten()
    if settings.negative_sampling == "source":
        target = target[:0]
    if settings.negative_sampling == "pooled":
        places = torch.arange(len(source) + len(target), device=source.device)
        drawn = _draw(places, settings.negatives, generator)
        return source[drawn[drawn < len(source)]], target[drawn[drawn >= len(source)] - len(source)]
    share = settings.negatives // 2 if len(source) and len(target) else settings.negatives * bool(len(target))
    return _draw(source, settings.negatives - share, generator), _draw(target, share, generator)


def _draw(pixels: Int64[Tensor, " n"], count: int, generator: torch.Generator) -> Int64[Tensor, " k"]:
    """`count` of these pixels with replacement; none of none. Drawn on the generator's device, FACTS T-10 h."""
    if not len(pixels):
        return pixels
    return pixels[torch.randint(len(pixels), (count,), generator=generator, device=generator.device).to(pixels.device)]


def _pixels(labels: Tensor, num_classes: int, what: str) -> Int64[Tensor, " K"]:
    """Pixels of each class."""
    _check_labels(labels, num_classes, what)
    return torch.bincount(labels[labels != IGNORE_INDEX].long(), minlength=num_classes)


def _check_labels(labels: Tensor, num_classes: int, what: str) -> None:
    wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_classes))]
    if len(wrong):
        raise ValueError(
            f"{what} has class {int(wrong[0])}, but allowed are 0-{num_classes - 1} and {IGNORE_INDEX} for ignore"
        )


def _unit(features: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """norm(.) of Eq. (6): features over their l2 norm; a zero vector, which a final ReLU can give, stays zero."""
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / torch.where(norms > 0, norms, 1.0)


def _wide(values: Tensor) -> Tensor:
    """In single precision at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
