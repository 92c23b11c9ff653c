"""The learned cost, Eqs. (3) and (4): an appearance metric plus a semantic prior from class prototypes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from saot.data import IGNORE_INDEX
from saot.recipes import CostRecipe
from saot.transport import SparseCost, Support, squared_euclidean_cost


@dataclass(frozen=True)
class Prototypes:
    """Class means of source features and which classes there are.

    Attributes:
        means: (K, d); zero rows for absent classes.
        present: (K,), bool.
    """

    means: Float[Tensor, "K d"]
    present: Bool[Tensor, " K"]


def class_prototypes(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    num_classes: int,
    normalize: bool = True,
) -> Prototypes:
    """Mean feature of each class, u_c of sec. 4.1; the classes without a token are marked absent.

    Args:
        features: Source tokens.
        labels: Their classes, 255 for "ignore".
        num_classes: Number of classes K.
        normalize: Scale each mean to unit length (appendix E.3; sec. 4.1 does not).

    Example:
        >>> class_prototypes(torch.eye(2), torch.tensor([1, 255]), num_classes=2).present
        tensor([False,  True])
    """
    sums, counts = prototype_sums(features, labels, num_classes)
    made = prototypes_from_sums(sums, counts, normalize)
    return Prototypes(made.means.to(features.dtype), made.present)


def prototype_sums(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | UInt8[Tensor, " n"], num_classes: int
) -> tuple[Float[Tensor, "K d"], Int[Tensor, " K"]]:
    """Sum and number of each class's tokens, in double precision, to be added over pictures."""
    keep = labels != IGNORE_INDEX
    classes = labels[keep].long()
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    sums.index_add_(0, classes, features[keep].double())
    return sums, torch.bincount(classes, minlength=num_classes)


def prototypes_from_sums(sums: Float[Tensor, "K d"], counts: Int[Tensor, " K"], normalize: bool = True) -> Prototypes:
    """Prototypes from sums over a whole data set."""
    present = counts > 0
    means = sums / counts.clamp_min(1).unsqueeze(-1)
    if normalize:
        means = nn.functional.normalize(means, dim=-1)
    return Prototypes(means.float(), present)


class SemanticCost(nn.Module):
    """Learned ground cost between labelled source and target tokens, Eq. (3); one a class group if there are any.

    With groups (appendix P, "class-conditional transport") the cost of a source x of class c in group g is

        C(x, y) = |s_g * W (x - y)|^2 - exp(t_g) lambda_sem log pi_c(y),        s_g = exp(theta_g),

    theta_g a vector and t_g a number, both learned and 0 at first, so that a training starts from Eq. (3).

    Args:
        dim: Feature width d.
        config: Widths, weights and readings of Eq. (4).
        prototypes: Data-set prototypes, kept with the weights; None means each call brings or makes its own.
            Needed by `head="free"`, whose class vectors start from them.
        groups: Group of each class, 0, 1, ...; None is Eq. (3), one cost for all.
    """

    def __init__(
        self,
        dim: int,
        config: CostRecipe = CostRecipe(),
        prototypes: Prototypes | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        wide = dim if config.head == "full" else config.dim
        self.appearance = nn.Linear(dim, config.dim, bias=False)  # W; a bias would cancel in Eq. (3)
        self.semantic = nn.Linear(dim, wide, bias=False)  # V
        if config.spectral_norm:
            spectral_norm(self.appearance)
            spectral_norm(self.semantic)
        if prototypes is not None:
            self.register_buffer("prototype_means", prototypes.means.clone())
            self.register_buffer("prototype_present", prototypes.present.clone())
        self.class_vectors: nn.Parameter | None = None
        if config.head == "free":
            if prototypes is None:
                raise ValueError('head="free" starts from prototypes; pass prototypes=class_prototypes(...)')
            with torch.no_grad():
                self.class_vectors = nn.Parameter(self.semantic(prototypes.means))
        if groups is not None:
            self.register_buffer("class_groups", torch.tensor(list(groups), dtype=torch.int64))
            count = max(groups) + 1
            self.group_scale = nn.Parameter(torch.zeros(count, config.dim))  # theta
            self.group_prior = nn.Parameter(torch.zeros(count))  # t

    def prototypes(self) -> Prototypes | None:
        """The data-set prototypes kept with the weights, if any."""
        if not hasattr(self, "prototype_means"):
            return None
        return Prototypes(self.get_buffer("prototype_means"), self.get_buffer("prototype_present"))

    def project(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """W x, the features in which appearance is compared."""
        return self.appearance(features)

    def class_log_probs(self, target: Float[Tensor, "m d"], prototypes: Prototypes) -> Float[Tensor, "m K"]:
        """log pi(x), Eq. (4); classes that are absent from the prototypes get -inf, outside the softmax.

        "shared" reads U^T V as (V u_c) . (V x), since U is d x K and V maps to fewer than d; "full" keeps V square
        and the printed form; "free" learns the class vectors.
        """
        projected = self.semantic(target)
        if self.class_vectors is not None:
            vectors = self.class_vectors
        elif self.config.head == "full":
            vectors = prototypes.means
        else:
            vectors = self.semantic(prototypes.means)
        if self.config.normalize_projection:
            projected = nn.functional.normalize(projected, dim=-1)
            known = torch.where(prototypes.present.unsqueeze(-1), vectors, 1.0)  # a length of 0 bends without bound
            vectors = nn.functional.normalize(known, dim=-1)
        logits = projected @ vectors.T / self.config.temperature
        return torch.log_softmax(logits.masked_fill(~prototypes.present, -torch.inf), dim=-1)

    @overload
    def forward(
        self,
        source: Tensor,
        source_labels: Tensor,
        target: Tensor,
        *,
        prototypes: Prototypes | None = None,
        support: Support,
    ) -> SparseCost: ...

    @overload
    def forward(
        self,
        source: Tensor,
        source_labels: Tensor,
        target: Tensor,
        *,
        prototypes: Prototypes | None = None,
        support: None = None,
    ) -> Tensor: ...

    def forward(
        self,
        source: Float[Tensor, "n d"],
        source_labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
        target: Float[Tensor, "m d"],
        *,
        prototypes: Prototypes | None = None,
        support: Support | None = None,
    ) -> SparseCost | Float[Tensor, "n m"]:
        """The cost of every pair on the support, or of all pairs.

        Args:
            source: Source tokens.
            source_labels: Their classes. A source token marked 255 has no class and pays no semantic cost: drop it
                or give it zero weight.
            target: Target tokens.
            prototypes: Overrides those kept with the weights; without either, they are this source's own
                (Algorithm 1, line 3) and classes absent from it stay outside the softmax.
            support: Pairs that may carry mass.

        Raises:
            ValueError: If a source label has no prototype.
        """
        prior, safe, weight = self._semantic_part(source, source_labels, target, prototypes)
        appearance = self._appearance(source, source_labels, target, support)
        if support is None:
            return appearance + weight.unsqueeze(-1) * prior[safe]  # pyright: ignore[reportOperatorIssue]
        assert isinstance(appearance, SparseCost)
        rows, cols = support.row.long(), support.col.long()
        flat = prior.reshape(-1).index_select(0, safe[rows] * prior.shape[1] + cols)
        return SparseCost(appearance.values + weight[rows] * flat, support)

    def search_vectors(
        self,
        source: Float[Tensor, "n d"],
        source_labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
        target: Float[Tensor, "m d"],
        *,
        prototypes: Prototypes | None = None,
    ) -> tuple[Float[Tensor, "n p"], Float[Tensor, "m p"]]:
        """Vectors of both sides by which a search for high cosines finds low costs.

        Eq. (3) is an inner product: with W x and W y projected, q the class of x and psi(y) the priors of y,

            -C = <(2 W x, -|W x|^2, -1, -r e_q), (W y, 1, |W y|^2, r psi(y))>,        r = sqrt(lambda_sem).

        With groups, (2 s^2 W x, -|s W x|^2, -s^2, -exp(t) r e_q) meets (W y, 1, (W y)^2, r psi(y)), squares one by one.
        A coordinate of its own fills up each side to one length. So cos(p_i, q_j) = -C_ij over a constant, and the
        nearest vectors are the cheapest pairs, for a source and for a target alike, up to rounding.

        Args:
            source: Source tokens.
            source_labels: Their classes, 255 for "ignore".
            target: Target tokens.
            prototypes: As in a call of the cost.

        Returns:
            p (n, dim + K + 4) and q (m, dim + K + 4), where K counts the prototypes; with groups 2 dim + K + 3. No
            gradient.

        Raises:
            ValueError: If a source label has no prototype.
        """
        with torch.no_grad():
            prior, classes, weight = self._semantic_part(source, source_labels, target, prototypes)
            x, y = self.project(source), self.project(target)
            root = self.config.lambda_sem**0.5
            which = torch.zeros(len(x), prior.shape[0], dtype=x.dtype, device=x.device)
            which.scatter_(1, classes.unsqueeze(1), -weight.unsqueeze(1) / (root or 1.0))
            squares = y.square()
            if self.grouped:
                stretch = self._scales()[self._group_of(source_labels)].square()
                left = [2 * stretch * x, -(stretch * x.square()).sum(1, keepdim=True), -stretch, which]
            else:
                squares = squares.sum(1, keepdim=True)
                left = [2 * x, -x.square().sum(1, keepdim=True), -torch.ones_like(x[:, :1]), which]
            right = [y, torch.ones_like(y[:, :1]), squares, root * prior.T]
            left, right = torch.cat(left, 1), torch.cat(right, 1)
            filled = []
            for side in (left, right):
                length = side.square().sum(1, keepdim=True)
                filled.append((length.max() - length).sqrt())
            zeros = [torch.zeros_like(each) for each in filled]
            return torch.cat([left, filled[0], zeros[0]], 1), torch.cat([right, zeros[1], filled[1]], 1)

    def _semantic_part(
        self, source: Tensor, source_labels: Tensor, target: Tensor, prototypes: Prototypes | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """psi of Eq. (3) for each class and target (K, m), the class of each source, and what it weighs."""
        prototypes = prototypes or self.prototypes() or self._own_prototypes(source, source_labels)
        classes = source_labels.long()
        labelled = classes != IGNORE_INDEX
        used = classes[labelled]
        if len(used) and not bool(prototypes.present[used].all()):
            missing = int(used[~prototypes.present[used]][0])
            raise ValueError(
                f"expected a prototype for every source class; class {missing} has none; "
                "compute the prototypes from all source pictures"
            )
        prior = -self.class_log_probs(target, prototypes).T  # (K, m)
        prior = prior.masked_fill(~prototypes.present.unsqueeze(-1), 0.0)
        safe = torch.where(labelled, classes, torch.zeros_like(classes))
        weight = self.config.lambda_sem * labelled.to(prior.dtype)
        if self.grouped:
            weight = weight * self.group_prior.exp()[self.get_buffer("class_groups")[safe]]
        return prior, safe, weight

    @property
    def grouped(self) -> bool:
        """Whether there is a cost for each class group."""
        return hasattr(self, "class_groups")

    def _scales(self) -> Tensor:
        """s of each group, (G + 1, dim); the last row, of ones, is that of sources without a class."""
        scales = self.group_scale.exp()
        return torch.cat([scales, torch.ones_like(scales[:1])])

    def _group_of(self, labels: Tensor) -> Tensor:
        """The group of each source; one more than the last for those without a class."""
        groups, classes = self.get_buffer("class_groups"), labels.long()
        known = classes != IGNORE_INDEX
        return torch.where(known, groups[classes.masked_fill(~known, 0)], len(self.group_prior))

    def _appearance(
        self, source: Tensor, labels: Tensor, target: Tensor, support: Support | None
    ) -> Tensor | SparseCost:
        """|s_g * W (x - y)|^2 of every pair, or of those on the support; s is 1 where there are no groups."""
        x, y = self.project(source), self.project(target)
        if not self.grouped:
            return squared_euclidean_cost(x, y, support=support)
        group, scales = self._group_of(labels), self._scales()
        places, parts = [], []
        for number in group.unique().tolist():
            scaled = x * scales[number], y * scales[number]
            mine = (group == number).nonzero().squeeze(1)
            if support is None:
                parts.append(squared_euclidean_cost(scaled[0][mine], scaled[1]))
            else:
                mine = (group[support.row.long()] == number).nonzero().squeeze(1)
                pairs = Support.from_pairs(support.row[mine], support.col[mine], support.shape)  # in the same order
                parts.append(squared_euclidean_cost(*scaled, support=pairs).values)
            places.append(mine)
        back = torch.cat(places).argsort()
        joined = torch.cat(parts).index_select(0, back)
        return joined if support is None else SparseCost(joined, support)

    def _own_prototypes(self, source: Tensor, labels: Tensor) -> Prototypes:
        known = labels[labels != IGNORE_INDEX]
        classes = int(known.max()) + 1 if len(known) else 1
        return class_prototypes(source.detach(), labels, classes, self.config.normalize_prototypes)
