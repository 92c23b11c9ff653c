"""Candidates of a pair of pictures, sec. 4.3, and how long a training keeps them."""

import copy
from collections import OrderedDict

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import how_to_install
from saot.recipes import TransportRecipe
from saot.transfer.cost import SemanticCost
from saot.transport import Support, faiss_support, hierarchical_support, multiscale_support, topk_support

_KEPT_PAIRS = 2**24  # pairs of tokens over all kept supports: some 350 MB of indices


def pair_support(
    source: Float[Tensor, "n d"],
    target: Float[Tensor, "m d"],
    transport: TransportRecipe,
    cost: SemanticCost | None = None,
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"] | None = None,
) -> Support:
    """Candidates of each source token, sec. 4.3: the most similar targets in raw features, or the cheapest ones.

    With `support_space="projected"` these are the targets of least learned cost, Eq. (3), semantic prior and all, and
    `cover` adds each target's cheapest sources.

    Args:
        source: Unit features of n source tokens.
        target: Unit features of m target tokens.
        transport: How many candidates, and how they are searched.
        cost: The learned cost; None searches raw features.
        labels: Classes of the sources, which the cost asks for.

    Raises:
        ValueError: If the cost is searched and there are no labels, or faiss is asked for and cannot be had.
    """
    with torch.no_grad():
        if cost is not None and cost.config.support_space == "projected":
            if labels is None:
                raise ValueError("expected labels of the source tokens for a support of the learned cost; got none")
            source, target = cost.search_vectors(source, labels, target)
            line = (0.0, float(source[0].norm() * target[0].norm()))  # all lengths of a side are equal, C = -<p, q>
            return _searched(source, target, transport, line)
        return _searched(source, target, transport)


def _searched(
    source: Tensor, target: Tensor, transport: TransportRecipe, line: tuple[float, float] = (2.0, 2.0)
) -> Support:
    """The nearest vectors by cosine, all or nearly all of them, as `transport.search` says.

    Args:
        source: Vectors of n source tokens.
        target: Vectors of m target tokens.
        transport: How they are searched.
        line: (u, v) where the cost of a pair is u - v cos; |x - y|^2 of unit features unless given.

    Raises:
        ValueError: If faiss is asked for and cannot be had.
    """
    k, cover = transport.k, transport.cover or None
    if transport.search == "exact":
        return topk_support(source, target, k=k, cover=cover)
    if transport.search == "fast":
        return topk_support(source, target, k=k, cover=cover, search="fast")
    if transport.search == "hierarchical":
        return hierarchical_support(
            source,
            target,
            k,
            cover,
            epsilon=transport.epsilon,
            tau=transport.tau,
            share=transport.region_share,
            regions=transport.clusters or None,
            line=line,
        ).support
    how = {
        "recall": transport.recall,
        "clusters": transport.clusters or None,
        "probes": transport.probes or None,
    }
    if transport.search == "multiscale":
        return multiscale_support(source, target, k, cover, **how).support
    try:
        return faiss_support(source, target, k, cover, **how).support
    except ImportError as error:
        raise ValueError(
            "expected transport.search among those that are installed; got faiss, which is not; "
            f"{how_to_install('ann')}"
        ) from error


class SupportKeeper:
    """Supports of a training's pairs, each searched once as long as it holds.

    In raw features that is for good. By the learned cost it is until the next step whose number is a
    multiple of `cost.config.support_refresh`: the search uses the cost as it was at that step. That copy,
    `searcher`, belongs into the training's state, so that a resumed training searches as an undisturbed one.
    """

    def __init__(self, cost: SemanticCost, transport: TransportRecipe) -> None:
        self.cost, self.transport = cost, transport
        self.searcher = copy.deepcopy(cost).eval()
        self._kept: OrderedDict[tuple[int, int], Support] = OrderedDict()
        self._pairs = 0

    def at_step(self, number: int) -> None:
        """Forget what no longer holds; call it before each step with the step's number."""
        if self.cost.config.support_space == "projected" and number % self.cost.config.support_refresh == 0:
            self.searcher.load_state_dict(self.cost.state_dict())
            self._kept.clear()
            self._pairs = 0

    def get(
        self,
        pair: tuple[int, int],
        source: Float[Tensor, "n d"],
        target: Float[Tensor, "m d"],
        labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    ) -> Support:
        """The support of this pair of pictures; `pair` are their numbers, `labels` the classes of the sources."""
        if pair in self._kept:
            self._kept.move_to_end(pair)
            return self._kept[pair]
        support = pair_support(source, target, self.transport, self.searcher, labels)
        self._kept[pair] = support
        self._pairs += support.nnz
        while self._pairs > _KEPT_PAIRS and len(self._kept) > 1:
            self._pairs -= self._kept.popitem(last=False)[1].nnz
        return support
