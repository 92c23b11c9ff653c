"""Decoders of several input sizes as one: class by class, each size gets a weight learned on declared points.

Appendix P of the paper proposes it: upsample the predictions of several sizes to one grid and learn fusion weights for
each class. The points are those the run has declared, so nothing is chosen on the pictures that are scored.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.data import ClassSet, PatchGrid
from saot.evaluate import ConfusionMatrix, on_cells, predict_mask, scores_at
from saot.label import Contest, Domain, chosen_adjustment, draw_tokens
from saot.runs import generator_for, load_tensors, save_tensors
from saot.tables.experiment import Experiment
from saot.tables.label.runs import Finished, Runs
from saot.tables.label.settings import fused_rows, settings_for
from saot.tables.label_room import MethodScore, Scored, opened
from saot.tables.presets.names import DECODER, FUSED
from saot.tables.request import Request
from saot.tables.table import run_name

FIT_STEPS = 200
FIT_RATE = 0.05
PULL = 1e-2  # squared distance of the log-weights from equal ones, per weight


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


def fuse(experiment: Experiment, request: Request, made: Runs, classes: ClassSet) -> None:
    """Score the joined runs of each seed; the result stands with the first of them as `saot_fused`."""
    for seed in request.seeds:
        settings = [settings_for(request, experiment, row.changes, seed) for row in fused_rows(experiment)]
        runs = [made.finished[run_name(one)] for one in settings]
        path = made.folder / "fused" / f"{'-'.join(run_name(one) for one in settings)}.safetensors"
        kept = load_tensors(path)
        if kept is None:
            kept = _fused(runs, made, classes)
            save_tensors(path, kept)
        outcomes = [run.outcome for run in runs if run.outcome is not None]
        first, budget = outcomes[0], max(outcome.methods[DECODER].budget for outcome in outcomes)
        score = MethodScore(kept["counts"], budget, float(kept["seconds"]))
        joined = Scored({**first.methods, FUSED: score}, first.stages)
        made.finished[run_name(settings[0])] = dataclasses.replace(runs[0], outcome=joined)


def _fused(runs: Sequence[Finished], made: Runs, classes: ClassSet) -> dict[str, Tensor]:
    """Counts of the joined decoders on the evaluation set, and the weights (S, K)."""
    with ExitStack() as stack:
        contests = [
            stack.enter_context(opened(run.settings, run.folder, made.store_of(run.settings), made.device))
            for run in runs
        ]
        points = declared_pixels(contests[0])
        weights = fit_weights(
            torch.stack([_at_points(contest, points) for contest in contests]),
            torch.cat([labels for *_, labels in points]) if points else torch.zeros(0, dtype=torch.int64),
            len(classes.names),
        )
        domains = [contest.evaluation.domain for contest in contests]
        answers = [_answers(contest, domain) for contest, domain in zip(contests, domains, strict=True)]
        truth, began, counts = contests[0].evaluation.truth, time.perf_counter(), []
        assert truth is not None, "tables are scored on labelled pictures"
        for number in range(len(truth)):
            grids = [domain.grid(number) for domain in domains]
            joined, grid = join(grids, [answer(number) for answer in answers], weights)
            matrix = ConfusionMatrix(len(classes.names))
            matrix.update(predict_mask(joined, grid), torch.from_numpy(truth.mask(number)))
            counts.append(matrix.counts)
    return {
        "counts": torch.stack(counts),
        "weights": weights,
        "seconds": torch.tensor(time.perf_counter() - began),
    }


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


def declared_pixels(contest: Contest) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """The declared points that weights are learned on: picture, rows and columns in pixels, classes.

    Those held out from training, where there are any; none at all where evaluation pictures are target pictures too.
    With points that are drawn anew at each step, one such draw.
    """
    found, target, declared = [], contest.data.target, contest.data.points
    points = declared.tokens
    if contest.evaluation.declared:
        return found
    if points.resample:
        generator = generator_for(contest.bench.seed, "fusion")
        for number, labels in enumerate(points.dense):
            tokens, classes = draw_tokens(labels, points.resample, generator)
            rows, columns = centres(target.grid(number))
            found.append((number, rows[tokens], columns[tokens], classes))
    elif len(points):
        chosen = points.held() if len(points.held()) else points
        for number in chosen.picture.unique().tolist():
            x, y, classes = declared.pixels.of(target.images.keys[number])
            found.append((number, y.long(), x.long(), classes.long()))
    return [part for part in found if len(part[-1])]


def _answers(contest: Contest, domain: Domain) -> Callable[[int], Tensor]:
    """Logits of a run's decoder for a picture of a domain, its own logit adjustment added."""
    decoder = contest.decoder().decoder
    bias = chosen_adjustment(contest.bench, contest.data, decoder).bias

    def answer(number: int) -> Tensor:
        logits = domain.logits(decoder, number).float().cpu()
        return logits if bias is None else logits + bias.to(logits)

    return answer


def _at_points(contest: Contest, points: Sequence[tuple[int, Tensor, Tensor, Tensor]]) -> Float[Tensor, "p K"]:
    """Class probabilities of a run's decoder at pixels of target pictures."""
    data = contest.data
    if not points:
        return torch.zeros(0, data.num_classes)
    answer = _answers(contest, data.target)
    parts = [scores_at(answer(number), data.target.grid(number), rows, columns) for number, rows, columns, _ in points]
    return torch.softmax(torch.cat(parts), -1)
