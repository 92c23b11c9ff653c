"""Decoders of several input sizes as one: class by class, each size gets a weight learned on declared points.

Here the runs of a table are joined that were made size by size. `saot run --size A,B` joins them in one run, with the
same weights (`saot.label`, `fusion.py` and `sizes.py`).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from saot.data import ClassSet
from saot.evaluate import ConfusionMatrix, predict_mask
from saot.label import Contest, Domain, chosen_adjustment, declared_pixels, fit_weights, join, probs_at
from saot.runs import load_tensors, save_tensors
from saot.tables.experiment import Experiment
from saot.tables.label.runs import Finished, Runs
from saot.tables.label.settings import fused_rows, settings_for
from saot.tables.label_room import MethodScore, Scored, opened
from saot.tables.presets.names import DECODER, FUSED
from saot.tables.request import Request
from saot.tables.table import run_name


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
        biases, size = [_bias(contest) for contest in contests], len(classes.names)
        probs = [
            probs_at(contest.data.target, contest.decoder().decoder, bias, points, size)
            for contest, bias in zip(contests, biases, strict=True)
        ]
        weights = fit_weights(
            torch.stack(probs),
            torch.cat([labels for *_, labels in points]) if points else torch.zeros(0, dtype=torch.int64),
            size,
        )
        domains = [contest.evaluation.domain for contest in contests]
        answers = [_answers(*each) for each in zip(contests, domains, biases, strict=True)]
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


def _bias(contest: Contest) -> Tensor:
    """The logit adjustment of a run's decoder; zero for none."""
    found = chosen_adjustment(contest.bench, contest.data, contest.decoder().decoder).bias
    return torch.zeros(contest.data.num_classes) if found is None else found.float()


def _answers(contest: Contest, domain: Domain, bias: Tensor) -> Callable[[int], Tensor]:
    """Logits of a run's decoder for a picture of a domain, its own logit adjustment added."""
    decoder = contest.decoder().decoder
    return lambda number: domain.logits(decoder, number).float().cpu() + bias
