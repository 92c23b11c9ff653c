"""Low-rank adapters on the linear layers of a frozen network's last blocks (LoRA: Hu et al., 2022)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from saot.runs import generator_for

Layers = Literal["query-value", "all"]
_QUERY_VALUE = ("q_proj", "v_proj", "query", "value")  # in transformers of today and of before
_JOINED = "project_in"  # of TinyViT: rows of the queries, of the keys, of the values


class LowRank(nn.Module):
    """W' = W + (alpha / r) B A for a frozen W (Hu et al., 2022, sec. 4.1); B = 0 at first, so that W' = W.

    A layer that makes queries, keys and values at once has a pair (A, B) for each adapted third of its rows.

    Args:
        weight: W (out, in), for shape, kind and device.
        rank: r.
        alpha: Scale of the change, in units of r.
        parts: Which of `of` equal groups of rows are adapted.
        of: Number of groups.
        generator: Of the first A, uniform within 1 / sqrt(in) of zero.

    Raises:
        ValueError: If the rank is larger than a side of a group.

    Example:
        >>> weight = torch.eye(3)
        >>> adapter = LowRank(weight, rank=1, alpha=1.0)
        >>> bool((adapter(weight) == weight).all())
        True
    """

    rows: Tensor

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        rank: int,
        alpha: float,
        parts: Sequence[int] = (0,),
        of: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        height, width = weight.shape[0] // of, weight.shape[1]
        if rank > min(height, width):
            raise ValueError(
                f"expected a rank of at most {min(height, width)}, the smaller side of a layer; got {rank}"
            )
        first = (2 * torch.rand(len(parts), rank, width, generator=generator, dtype=torch.float64) - 1) / width**0.5
        self.down = nn.Parameter(first.to(weight))  # A
        self.up = nn.Parameter(weight.new_zeros(len(parts), height, rank))  # B
        self.scale = alpha / rank
        rows = torch.arange(weight.shape[0]).view(of, height)[list(parts)].flatten()
        self.register_buffer("rows", rows.to(weight.device), persistent=False)

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """W', with the gradient of A and B."""
        change = (self.up @ self.down).flatten(0, 1)
        return weight.index_add(0, self.rows, change, alpha=self.scale)


def add_adapters(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    rank: int,
    alpha: float,
    layers: Layers = "query-value",
    seed: int = 0,
) -> nn.ModuleDict:
    """Adapters on linear layers of these blocks, at work in the network from now on; all else of it is frozen.

    Args:
        network: Changed in place.
        blocks: Its blocks that are adapted.
        rank: r of each adapter.
        alpha: Scale, see `LowRank`.
        layers: Projections to queries and values, as LoRA's authors chose, or every linear layer of a block.
        seed: Fixes each first A.

    Returns:
        The adapters by the name of their layer, `/` for each dot. Their parameters are all there is to train.

    Raises:
        ValueError: If the rank is too large, or the blocks have no such layer.
    """
    network.requires_grad_(False)
    inside, found = {id(each) for block in blocks for each in block.modules()}, nn.ModuleDict()
    chosen = [
        (name, each) for name, each in network.named_modules() if id(each) in inside and isinstance(each, nn.Linear)
    ]
    for name, layer in chosen:
        last = name.rpartition(".")[2]
        if layers == "query-value" and last not in (*_QUERY_VALUE, _JOINED):
            continue
        parts, of = ((0, 1, 2) if layers == "all" else (0, 2), 3) if last == _JOINED else ((0,), 1)
        adapter = LowRank(layer.weight, rank, alpha, parts, of, generator_for(seed, "adapter", name))
        parametrize.register_parametrization(layer, "weight", adapter)
        found[name.replace(".", "/")] = adapter
    if not found:
        raise ValueError(
            f"expected blocks with linear layers for {layers}; got {len(blocks)} without: adapt all layers"
        )
    return found


def merge_adapters(network: nn.Module) -> None:
    """Make W' the weight of each adapted layer and take its adapter off: the plain network, with the same tokens."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    network.requires_grad_(False)


@contextmanager
def without_adapters(adapters: nn.ModuleDict) -> Iterator[None]:
    """The network as it was before its adapters, as long as this lasts."""
    scales = {name: adapter.scale for name, adapter in adapters.items()}
    try:
        for adapter in adapters.values():
            adapter.scale = 0.0  # type: ignore[assignment]
        yield
    finally:
        for name, adapter in adapters.items():
            adapter.scale = scales[name]  # type: ignore[assignment]


def packed_adapters(adapters: nn.ModuleDict) -> dict[str, Tensor]:
    """A (`LAYER.down`) and B (`LAYER.up`) of each adapted layer, on the CPU, by the names of the network."""
    return {name.replace("/", "."): value.detach().cpu() for name, value in adapters.state_dict().items()}


def fill_adapters(adapters: nn.ModuleDict, packed: Mapping[str, Tensor]) -> None:
    """Put back what `packed_adapters` gave."""
    adapters.load_state_dict({name: packed[name.replace("/", ".")] for name in adapters.state_dict()})
