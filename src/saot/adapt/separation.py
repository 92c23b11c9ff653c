"""How well features separate classes: T2S-DA's Eqs. (14) and (15), class centres across domains, samples for t-SNE."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from saot.data import IGNORE_INDEX

CHUNK = 1 << 14  # features worked on at a time: 128 MiB of float64 at 1024 channels
PER_CLASS = 256  # features of a class in T2S-DA's figure S1


def _labelled(
    features: Float[Tensor, "n d"], labels: Integer[Tensor, " m"], num_classes: int, dim: int
) -> tuple[Float[Tensor, "p d"], Int64[Tensor, " p"]]:
    """The features that have a class, and their classes."""
    if features.ndim != 2 or features.shape[1] != dim or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected features (n, {dim}) and n labels, got {tuple(features.shape)} and {tuple(labels.shape)}; "
            "flatten maps to one feature a row"
        )
    labels = labels.to(features.device)
    kept = labels != IGNORE_INDEX
    features, labels = features[kept], labels[kept].long()
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}) or be {IGNORE_INDEX} for ignore, got {int(labels.min())} to "
            f"{int(labels.max())}; map raw ids to indices"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError("a labelled feature is infinite or NaN, which would spread to the whole class; check the net")
    return features, labels


class ClassMoments:
    """Centre and compactness of each class, streamed over pictures in float64.

    Kept are counts, means and sums of squared distances to the mean, merged piece by piece, since the difference of
    two sums of squares would lose a tight class far from zero. Centres are means of the features as they come;
    the paper does not say whether features are normalised first: do so before `update` for that reading.

    Args:
        num_classes: Number of classes K.
        dim: Length d of a feature.

    Attributes:
        counts: Features of each class, (K,).
        means: Class means (K, d); zero for a class that has not come.
        scatter: Sum of |x - mean|^2 of each class, (K,).

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> moments = ClassMoments(3, 1)
        >>> moments.update(torch.tensor([[0.0], [2.0], [5.0], [99.0]]), torch.tensor([0, 0, 1, 255]))
        >>> moments.centers.flatten().tolist(), moments.compactness.tolist()
        ([1.0, 5.0, nan], [1.0, 0.0, nan])
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        if num_classes < 1 or dim < 1:
            raise ValueError(f"expected at least one class and one channel, got {num_classes} and {dim}")
        self.num_classes = num_classes
        self.dim = dim
        self.counts: Int64[Tensor, " k"] = torch.zeros(num_classes, dtype=torch.int64)
        self.means: Float64[Tensor, "k d"] = torch.zeros(num_classes, dim, dtype=torch.float64)
        self.scatter: Float64[Tensor, " k"] = torch.zeros(num_classes, dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"], labels: Integer[Tensor, " m"]) -> None:
        """Adds features; nothing is added if an error is raised.

        Args:
            features: One a row, any floating type.
            labels: Their classes; 255 leaves a feature out.

        Raises:
            ValueError: If the shapes do not fit, a class is outside [0, K), or a labelled feature is not finite.
        """
        features, labels = _labelled(features, labels, self.num_classes, self.dim)
        for some, classes in zip(features.split(CHUNK), labels.split(CHUNK), strict=True):
            self._merge(some.double(), classes)

    def _merge(self, features: Float64[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> None:
        """Adds a piece by the update of Chan, Golub and LeVeque."""
        new = torch.bincount(labels, minlength=self.num_classes)
        zeros = torch.zeros(self.num_classes, self.dim, dtype=torch.float64, device=features.device)
        means = zeros.index_add(0, labels, features) / new.clamp_min(1)[:, None]
        spread = (features - means[labels]).square().sum(1)
        scatter = zeros[:, 0].index_add(0, labels, spread)
        new, means, scatter = new.cpu(), means.cpu(), scatter.cpu()
        total = self.counts + new
        step, share = means - self.means, new / total.clamp_min(1).double()
        # a class without new features has share 0 and keeps what it had
        self.scatter = self.scatter + scatter + step.square().sum(1) * self.counts * share
        self.means = self.means + step * share[:, None]
        self.counts = total

    @property
    def present(self) -> Bool[Tensor, " k"]:
        """Which classes have come."""
        return self.counts > 0

    @property
    def centers(self) -> Float64[Tensor, "k d"]:
        """Mean feature of each class; a row of NaN where the class is absent."""
        return torch.where(self.present[:, None], self.means, torch.nan)

    @property
    def compactness(self) -> Float64[Tensor, " k"]:
        """Mean squared distance of a class's features to its centre; NaN where the class is absent."""
        return self.scatter / self.counts  # 0 / 0 where absent


def class_center_distance(moments: ClassMoments) -> Float64[Tensor, " k"]:
    """Compactness of each class over the squared distance to the other centres, T2S-DA Eq. (14); lower is better.

    CCD(i) = mean over j != i of (mean over x in class i of |x - mu_i|^2) / |mu_i - mu_j|^2. The paper prints the name
    as CDD and divides by C - 1; here j runs over the other classes that are present, and C counts these.

    Args:
        moments: Of one domain.

    Returns:
        (K,), at least 0. NaN where the class is absent or the only one; infinite where another centre coincides with
        its own, even if both classes are single points, since nothing tells them apart.

    Example:
        >>> moments = ClassMoments(2, 1)
        >>> moments.update(torch.tensor([[-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1]))
        >>> class_center_distance(moments).tolist()
        [0.25, 0.0]
    """
    present = moments.present
    centers, compactness = moments.centers[present], moments.compactness[present]
    result = torch.full((moments.num_classes,), torch.nan, dtype=torch.float64)
    if len(centers) < 2:
        return result
    distance = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist").square()
    ratio = torch.where(distance > 0, compactness[:, None] / distance, torch.inf).fill_diagonal_(0.0)
    result[present] = ratio.sum(1) / (len(centers) - 1)
    return result


class PixelDiscrimination:
    """How far single features favour their own class centre, T2S-DA Eq. (15); lower is better. A second pass.

    PDD(i) = 1 - mean over x in class i of cos(x, mu_i) / (sum over j != i of cos(x, mu_j)), j over the classes that
    have a centre; so values depend on how many classes there are. The ratio is made for features that are nowhere
    negative, as after the projector's last ReLU, whose cosines lie in [0, 1]. It may exceed 1, and PDD fall below 0.
    Where cosines can be negative, the sum may be so too; such features count as printed, and `negative` tells how
    many there are: where it is large, the value means little.

    Args:
        centers: Class centres (K, d), as `ClassMoments.centers`. A row of NaN is an absent class; a row of zeros has
            no direction, is left out of the sums, and its class gets NaN.

    Attributes:
        counts: Features in the mean of each class, (K,).
        skipped: Features left out since the ratio does not exist: they are zero, or their cosines with the other
            centres sum to exactly 0.
        negative: Features in the mean whose denominator is negative.

    Example:
        >>> pixels = PixelDiscrimination(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> pixels.update(torch.tensor([[2.0, 2.0], [0.0, 0.0]]), torch.tensor([1, 1]))
        >>> pixels.values.tolist(), pixels.skipped.tolist()  # 1 - 1 / cos 45 degrees
        ([nan, -0.4142135623730949], [0, 1])
    """

    def __init__(self, centers: Float[Tensor, "k d"]) -> None:
        norms = centers.double().cpu().norm(dim=1)
        self._directed = norms > 0  # False for NaN
        self._present = ~norms.isnan()
        kept = torch.where(self._directed[:, None], centers.double().cpu(), 0.0)
        self._units: Float64[Tensor, "k d"] = kept / torch.where(self._directed, norms, 1.0)[:, None]
        self.counts: Int64[Tensor, " k"] = torch.zeros(len(norms), dtype=torch.int64)
        self.skipped: Int64[Tensor, " k"] = torch.zeros(len(norms), dtype=torch.int64)
        self.negative: Int64[Tensor, " k"] = torch.zeros(len(norms), dtype=torch.int64)
        self._sums: Float64[Tensor, " k"] = torch.zeros(len(norms), dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"], labels: Integer[Tensor, " m"]) -> None:
        """Adds features; nothing is added if an error is raised.

        Raises:
            ValueError: As `ClassMoments.update`, or if a class has no centre.
        """
        size = len(self._units)
        features, labels = _labelled(features, labels, size, self._units.shape[1])
        unknown = [index for index in labels.unique().tolist() if not self._present[index]]
        if unknown:
            raise ValueError(f"classes {unknown} have features but no centre; pass the features the centres came from")
        for some, classes in zip(features.split(CHUNK), labels.split(CHUNK), strict=True):
            self._add(some.double(), classes)

    def _add(self, features: Float64[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> None:
        size, norms = len(self._units), features.norm(dim=1)
        cosines = features @ self._units.to(features.device).T / torch.where(norms > 0, norms, 1.0)[:, None]
        own = cosines.gather(1, labels[:, None])[:, 0]
        # the others alone, not all minus own: that would round an exact zero away
        others = cosines.scatter(1, labels[:, None], 0.0).sum(1)
        directed = self._directed.to(labels.device)[labels]
        defined = (norms > 0) & (others != 0) & directed
        ratio = own[defined] / others[defined]
        place, wrong = labels[defined], labels[~defined]
        self._sums += torch.bincount(place, ratio, minlength=size).cpu()
        self.counts += torch.bincount(place, minlength=size).cpu()
        self.skipped += torch.bincount(wrong, minlength=size).cpu()
        self.negative += torch.bincount(labels[defined & (others < 0)], minlength=size).cpu()

    @property
    def values(self) -> Float64[Tensor, " k"]:
        """PDD of each class; NaN where no feature has a ratio (see `skipped`), so also for a single class."""
        return 1 - self._sums / self.counts


def center_similarity(source: ClassMoments, target: ClassMoments) -> Float64[Tensor, " k"]:
    """Cosine between the centres of each class in two domains, T2S-DA Fig. 2 (supplement A calls it Fig. 1).

    Args:
        source: Moments of one domain.
        target: Moments of the other, features of the same network.

    Returns:
        (K,) in [-1, 1]; NaN where the class is absent in either domain, or a centre is zero and has no direction.

    Raises:
        ValueError: If the domains differ in classes or channels.
    """
    if source.means.shape != target.means.shape:
        raise ValueError(
            f"the domains have {tuple(source.means.shape)} and {tuple(target.means.shape)} classes and channels; "
            "measure both with one network and one class set"
        )
    first, second = source.centers, target.centers
    norms = first.norm(dim=1) * second.norm(dim=1)
    return ((first * second).sum(1) / norms).clamp(-1.0, 1.0)  # 0 / 0 where a centre is zero; rounding beyond 1


class ClassSample:
    """At most `per_class` features of each class, drawn evenly from a stream of unknown length.

    Every feature gets a random key and the smallest keys of a class stay, so pieces do not matter and memory is
    bounded by K * per_class features.

    Args:
        num_classes: Number of classes K.
        generator: Draws the keys; on the CPU.
        per_class: Features kept of a class.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(self, num_classes: int, generator: torch.Generator, per_class: int = PER_CLASS) -> None:
        if num_classes < 1 or per_class < 1:
            raise ValueError(f"expected at least one class and one feature of each, got {num_classes} and {per_class}")
        self.num_classes = num_classes
        self.per_class = per_class
        self._generator = generator
        self._features: Float[Tensor, "s d"] | None = None
        self._labels: Int64[Tensor, " s"] = torch.zeros(0, dtype=torch.int64)
        self._keys: Float64[Tensor, " s"] = torch.zeros(0, dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"], labels: Integer[Tensor, " m"]) -> None:
        """Offers features; 255 leaves one out. Raises ValueError as `ClassMoments.update`."""
        dim = features.shape[-1] if self._features is None else self._features.shape[1]
        features, labels = _labelled(features, labels, self.num_classes, dim)
        labels = labels.cpu()
        keys = torch.rand(len(labels), dtype=torch.float64, generator=self._generator)
        hopeful = keys < self._limits()[labels]
        chosen = features[hopeful.to(features.device)].detach().cpu()
        pool = chosen if self._features is None else torch.cat([self._features, chosen])
        keys, labels = torch.cat([self._keys, keys[hopeful]]), torch.cat([self._labels, labels[hopeful]])
        order = keys.argsort()
        order = order[labels[order].argsort(stable=True)]  # by class, then by key
        counts = torch.bincount(labels, minlength=self.num_classes)
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[order]]
        kept = order[rank < self.per_class]
        self._features, self._labels, self._keys = pool[kept], labels[kept], keys[kept]

    def _limits(self) -> Float64[Tensor, " k"]:
        """The key below which a feature of each class can still enter."""
        full = torch.bincount(self._labels, minlength=self.num_classes) >= self.per_class
        largest = torch.zeros(self.num_classes, dtype=torch.float64)
        largest.scatter_reduce_(0, self._labels, self._keys, "amax")
        return torch.where(full, largest, torch.inf)

    @property
    def features(self) -> Float[Tensor, "s d"]:
        """The sample, by class.

        Raises:
            ValueError: If nothing was offered.
        """
        if self._features is None:
            raise ValueError("expected features to sample from; none were offered: call update first")
        return self._features

    @property
    def labels(self) -> Int64[Tensor, " s"]:
        """Class of each feature of the sample, not decreasing."""
        return self._labels


def sample_per_class(
    stream: Iterable[tuple[Float[Tensor, "_ d"], Integer[Tensor, "_"]]],
    num_classes: int,
    generator: torch.Generator,
    per_class: int = PER_CLASS,
) -> tuple[Float[Tensor, "s d"], Int64[Tensor, " s"]]:
    """At most `per_class` features of each class of a stream, and their classes; see `ClassSample`.

    Args:
        stream: Features and labels, picture by picture; read once.
        num_classes: Number of classes K.
        generator: Draws the sample; on the CPU.
        per_class: Features kept of a class; T2S-DA shows 256.

    Raises:
        ValueError: If the stream is empty, or a piece does not fit.

    Example:
        >>> pieces = [(torch.zeros(5, 2), torch.tensor([0, 0, 0, 1, 255]))]
        >>> sample_per_class(pieces, 2, torch.Generator().manual_seed(0), per_class=2)[1]
        tensor([0, 0, 1])
    """
    sample = ClassSample(num_classes, generator, per_class)
    for features, labels in stream:
        sample.update(features, labels)
    return sample.features, sample.labels
