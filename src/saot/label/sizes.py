"""Decoders of several input sizes as one: class by class, each size gets a weight (appendix P of the paper)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saot.data import PatchGrid
from saot.decoder import picture_logits
from saot.evaluate import on_cells, scores_at

FIT_STEPS = 200
FIT_RATE = 0.05
PULL = 1e-2  # squared distance of the log-weights from equal ones, per weight


class SizesDecoder(nn.Module):
    """The decoders of several input sizes, their answers summed class by class.

    The probability of class c is, up to a factor, sum_s w[s, c] softmax(logits_s + bias_s)[c], each size's logits
    upsampled to the first one's tokens or cells.

    Args:
        members: One a size; the first is the one with most tokens, and the answers lie on its grid.
        weights: Of each size for each class (S, K); each class's weights sum to 1.
        biases: Logit adjustment of each size (S, K); zero for none.
    """

    weights: Tensor
    biases: Tensor

    def __init__(
        self, members: Sequence[nn.Module], weights: Float[Tensor, "S K"], biases: Float[Tensor, "S K"]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", weights)
        self.register_buffer("biases", biases)

    def forward(self, tokens: Sequence[Float[Tensor, "_ d"]], grids: Sequence[PatchGrid]) -> Float[Tensor, "cells K"]:
        """Log of the joined probabilities of a picture, on the first size's tokens or on r x r cells of each.

        Args:
            tokens: All tokens of the picture at each size.
            grids: How it lies under them.
        """
        parts = zip(self.members, tokens, grids, self.biases, strict=True)
        logits = [picture_logits(member, own, grid.height, grid.width) + bias for member, own, grid, bias in parts]
        cells = [on_cells(values.float().cpu(), grid) for values, grid in zip(logits, grids, strict=True)]
        finest = cells[0][1]
        logs = torch.stack([on_grid(values, grid, finest).log_softmax(-1) for values, grid in cells])
        joined = (self.weights.cpu().log().unsqueeze(1) + logs).logsumexp(0)
        return on_tokens(joined, finest, grids[0]).to(tokens[0].device)


def fit_weights(probs: Float[Tensor, "S p K"], classes: Int64[Tensor, " p"], num_classes: int) -> Float[Tensor, "S K"]:
    """Weights of S predictors for each of K classes; each class's weights sum to 1.

    The fused score of class c is sum_s w[s, c] probs[s, :, c]; the weights minimise the cross-entropy of the
    normalised scores at labelled points, averaged within each class first, so that frequent classes do not decide.

    Args:
        probs: Class probabilities of each predictor at p points.
        classes: True class of each point.
        num_classes: K.

    Example:
        >>> good, bad = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.full((2, 2), 0.5)
        >>> bool((fit_weights(torch.stack([good, bad]), torch.tensor([0, 1]), 2)[0] > 0.6).all())
        True
    """
    size = probs.shape[0]
    if probs.shape[1] == 0:
        return torch.full((size, num_classes), 1 / size)
    counts = torch.bincount(classes, minlength=num_classes).float()
    share = 1 / counts[classes] / (counts > 0).sum()
    logs = torch.zeros(size, num_classes, requires_grad=True)
    optimizer = torch.optim.Adam([logs], lr=FIT_RATE)
    for _ in range(FIT_STEPS):
        fused = (logs.softmax(0).unsqueeze(1) * probs).sum(0)
        right = fused.gather(1, classes.unsqueeze(1)).squeeze(1) / fused.sum(1)
        loss = -(share * right.clamp_min(torch.finfo(right.dtype).tiny).log()).sum() + PULL * logs.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logs.detach().softmax(0)


def centres(grid: PatchGrid) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Row and column of the picture's pixel under the centre of each token.

    Example:
        >>> rows, columns = centres(PatchGrid(28, 56, 28, 56, 14, 2, 4))
        >>> rows.unique().tolist(), columns.unique().tolist()
        ([7, 21], [7, 21, 35, 49])
    """

    def places(tokens: int, image: int, network: int) -> Tensor:
        return ((torch.arange(tokens) + 0.5) * grid.patch_size * image / network).long().clamp_max(image - 1)

    rows = places(grid.height, grid.image_height, grid.input_height)
    columns = places(grid.width, grid.image_width, grid.input_width)
    return rows.repeat_interleave(grid.width), columns.repeat(grid.height)


def join(
    grids: Sequence[PatchGrid], logits: Sequence[Float[Tensor, "_ K"]], weights: Float[Tensor, "S K"]
) -> tuple[Float[Tensor, "m K"], PatchGrid]:
    """Weighted sum of several decoders' probabilities on the finest of their grids, over one picture.

    Args:
        grids: The tokens of each decoder.
        logits: Its answers for those tokens, or for r x r cells of each.
        weights: Of each decoder for each class.

    Returns:
        The sum, and the grid it lies on: tokens or cells, whichever was finest.

    Example:
        >>> coarse, fine = PatchGrid(4, 4, 4, 4, 4, 1, 1), PatchGrid(4, 4, 4, 4, 2, 2, 2)
        >>> scores, grid = join([coarse, fine], [torch.zeros(1, 2), torch.zeros(4, 2)], torch.full((2, 2), 0.5))
        >>> grid == fine, scores.tolist()
        (True, [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    """
    parts = [on_cells(values, grid) for values, grid in zip(logits, grids, strict=True)]
    finest = max((grid for _, grid in parts), key=lambda grid: grid.num_tokens)
    joined = [torch.softmax(on_grid(values, grid, finest), -1) for values, grid in parts]
    return (weights.unsqueeze(1) * torch.stack(joined)).sum(0), finest


def on_grid(scores: Float[Tensor, "n K"], grid: PatchGrid, other: PatchGrid) -> Float[Tensor, "m K"]:
    """Scores of one grid, upsampled bilinearly, at the centres of another grid over the same picture."""
    return scores if grid == other else scores_at(scores, grid, *centres(other)).to(scores)


def on_tokens(scores: Float[Tensor, "m K"], cells: PatchGrid, grid: PatchGrid) -> Float[Tensor, "cells K"]:
    """Scores of cells, or of tokens, as many of them as the grid's tokens have.

    Cells of the last tokens that lie wholly in padding get what the last ones before them have: whoever knows cells by
    their number (`saot.evaluate`) drops them again.

    Example:
        >>> tokens = PatchGrid(3, 2, 3, 2, 2, 2, 1)
        >>> cells = tokens.subdivide(2)
        >>> cells.height, cells.width, on_tokens(torch.arange(6.0).view(6, 1), cells, tokens).flatten().tolist()
        (3, 2, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 5.0])
    """
    parts = cells.input_height // grid.input_height
    rows, columns = (
        torch.arange(tokens * parts, device=scores.device).clamp_max(last - 1)
        for tokens, last in ((grid.height, cells.height), (grid.width, cells.width))
    )
    return scores.view(cells.height, cells.width, -1)[rows][:, columns].flatten(0, 1)
