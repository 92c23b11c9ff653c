"""SAOT rebuilt, preset best: a network that is finer than its tokens, taught by itself and by a plan over a bank."""

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from saot.data import patch_labels, point_tokens, read_points_csv
from saot.decoder import (
    Decoder,
    FineDecoder,
    GridDecoder,
    Term,
    TokenPool,
    cells_of_tokens,
    cross_rows,
    point_pool,
    token_pool,
)
from saot.decoder.fine import IGNORE
from saot.decoder.pool import Rows
from saot.pipeline.domains import Domain, TokenPoints
from saot.pipeline.job import Job, merge_facts
from saot.pipeline.networks import has_points, network, points_pool, source_pool
from saot.pipeline.workspace import load_tensors, save_tensors
from saot.recipes import DecoderRecipe
from saot.transfer import bank_transfer, generator_for, joined_correction


def taught_decoder(
    job: Job, *, vote: float | None = None, decoder: DecoderRecipe | None = None, refined: bool = True
) -> Decoder:
    """Stage 1 on source labels and points; stage 2 also on target tokens, labelled by network and plan together.

    Args:
        job: The run.
        vote: Share of the plan in these labels, the recipe's unless given; 0 is the network alone.
        decoder: Settings of stage 1, the recipe's unless given.
        refined: False leaves stage 2 out.
    """
    recipe, stage_2 = decoder or job.recipe.decoder, job.recipe.bank
    vote = job.recipe.bank.vote if vote is None else vote
    other = "" if recipe == job.recipe.decoder else f"-{recipe.architecture}"
    terms = labelled_terms(job, recipe)
    count = max(1, stage_2.teachers) if refined and stage_2.steps > 0 else 1
    teachers = [
        network(job, terms, None, name=f"teacher-{member}{other}", decoder=recipe, member=member)
        for member in range(count)
    ]
    if not refined or stage_2.steps == 0:
        return teachers[0]
    label = (f"plan-{vote}" if vote > 0 else "self") + other
    again = dataclasses.replace(
        recipe,
        steps=stage_2.steps,
        learning_rate=stage_2.learning_rate,
        final_learning_rate=stage_2.final_learning_rate,
    )
    taught = Term(label, taught_pool(job, teachers, vote, label, recipe), recipe.target_weight)
    return network(job, [*terms, taught], None, name=f"taught-{label}", decoder=again, start=copy.deepcopy(teachers[0]))


def labelled_terms(job: Job, recipe: DecoderRecipe) -> list[Term]:
    """Cross-entropy on source labels and on declared points, at cells where the decoder has them."""
    if recipe.architecture != "fine":
        terms = [Term("source", source_pool(job, job.source_labels))]
        if has_points(job):
            terms.append(Term("points", points_pool(job, job.points.training()), recipe.points_weight))
        return terms
    terms = [Term("source-cells", fine_source_pool(job, recipe.subdivision))]
    if has_points(job):
        terms.append(Term("points-cells", fine_points_pool(job, recipe.subdivision), recipe.points_weight))
    return terms


def fine_source_pool(job: Job, subdivision: int) -> TokenPool:
    """Source tokens with the labels of their cells; a token stands under every class that one of its cells has."""
    data, folder = job.inputs.source, f"cells-{subdivision}"

    def mask_cells(number: int) -> Tensor:
        path = job.space.work(folder, f"{number:06d}.safetensors")
        kept = load_tensors(path)
        if kept is None:
            kept = {"cells": _cell_labels(job, data.mask(number), job.source, number, subdivision)}
            save_tensors(path, kept)
        return kept["cells"]

    def all_cells() -> Iterator[Tensor]:
        for number in range(len(job.source)):
            yield mask_cells(number)
            job.space.tell("source cells")(number + 1, len(job.source))

    with job.space.stage("source cells"):
        return _cell_pool(job, job.source, all_cells(), lambda picture, tokens: mask_cells(picture)[tokens])


def fine_points_pool(job: Job, subdivision: int) -> TokenPool:
    """Target tokens under declared points; only the cells that hold a point have a label.

    Points that are drawn anew each step are declared as patch labels, and then all cells of a patch have its label.
    """
    if job.points.resample:
        dense, count = job.points.dense, subdivision**2

        def of_patches(picture: int, tokens: Tensor) -> Tensor:
            return dense[picture][tokens].unsqueeze(1).expand(-1, count)

        return _cell_pool(job, job.target, (part.unsqueeze(1) for part in dense), of_patches)
    tokens, cells = [], []
    for part in point_cells(job, job.points, subdivision):
        tokens.append((part != IGNORE).any(-1).nonzero().squeeze(-1))
        cells.append(part[tokens[-1]])

    def of_points(picture: int, wanted: Tensor) -> Tensor:
        return cells[picture][torch.searchsorted(tokens[picture], wanted.long())]

    return _cell_pool(job, job.target, point_cells(job, job.points, subdivision), of_points)


def point_cells(job: Job, points: TokenPoints, subdivision: int) -> Iterator[Tensor]:
    """(n, r^2) labels of the cells of each target picture: the class of the training points in it, else 255.

    A cell with points of two classes has none.
    """
    declared = read_points_csv(job.space.path("points.csv"), job.target.images, job.classes)
    held = set(points.held().picture.tolist())
    for number, key in enumerate(job.target.images.keys):
        fine, (rows, columns) = job.target.grid(number).subdivide(subdivision), job.target.shape(number)
        cells = torch.full((fine.num_tokens,), IGNORE, dtype=torch.uint8)
        if number not in held:
            x, y, labels = declared.of(key)
            where, labels = point_tokens(x, y, fine), labels.to(torch.uint8)
            cells[where] = labels
            cells[where[cells[where] != labels]] = IGNORE
        yield cells_of_tokens(cells, fine.height, fine.width, rows, columns, subdivision)


def _cell_labels(job: Job, mask, domain: Domain, number: int, subdivision: int) -> Tensor:
    fine, (rows, columns) = domain.grid(number).subdivide(subdivision), domain.shape(number)
    cells = patch_labels(mask, fine, num_classes=job.num_classes, ignore=job.recipe.transfer.ignored_patches)
    return cells_of_tokens(cells, fine.height, fine.width, rows, columns, subdivision)


def _cell_pool(job: Job, domain: Domain, maps: Iterable[Tensor], cells: Rows) -> TokenPool:
    pictures, tokens, classes = [], [], []
    for number, part in enumerate(maps):
        for label in part.unique().tolist():
            if label == IGNORE:
                continue
            where = (part == label).any(-1).nonzero().squeeze(-1).int()
            pictures.append(torch.full_like(where, number))
            tokens.append(where)
            classes.append(torch.full_like(where, label, dtype=torch.uint8))
    empty = torch.zeros(0, dtype=torch.int32)  # points may all be held out or in conflict
    made = torch.cat([empty, *pictures]), torch.cat([empty, *tokens]), torch.cat([empty.to(torch.uint8), *classes])
    rows = cross_rows(domain.rows, domain.shape)
    return dataclasses.replace(point_pool(*made, job.num_classes, rows, 5 * domain.dim, domain.shape), soft=cells)


def taught_pool(job: Job, teachers: Sequence[Decoder], vote: float, label: str, recipe: DecoderRecipe) -> TokenPool:
    """Target tokens with the joined labels of network and plan, made where they are drawn.

    Only the correction that the plan makes, K numbers a token, is kept on disk.
    """
    folder, fine = f"taught-{label}", isinstance(teachers[0], FineDecoder)
    with job.space.stage(f"labels {label}"):
        maps = _corrections(job, teachers, vote, folder)
    rows = cross_rows(job.target.rows, job.target.shape) if fine else job.target.rows
    device = job.target.device

    def said(teacher: Decoder, picture: int, tokens: Tensor) -> Tensor:
        if isinstance(teacher, GridDecoder):  # it looks further than a cross
            return job.target.logits(teacher, picture)[tokens.to(device)]
        return teacher(rows(picture, tokens).float().to(device))

    @torch.no_grad()
    def soft(picture: int, tokens: Tensor) -> Tensor:
        kept = load_tensors(job.space.work(folder, f"{picture:06d}.safetensors"))
        assert kept is not None, "corrections vanished while they were used"
        logits = joint_logits([said(teacher, picture, tokens) for teacher in teachers]).cpu()
        correction = kept["correction"][tokens].float()
        return torch.softmax(logits + (correction.unsqueeze(1) if fine else correction), dim=-1)

    dim, cells = (5 * job.target.dim, recipe.subdivision**2) if fine else (job.target.dim, 1)
    pool = token_pool(maps, job.num_classes, rows, dim, soft, job.target.shape)
    return dataclasses.replace(pool, target_bytes=4 * job.num_classes * cells)


@torch.no_grad()
def _corrections(job: Job, teachers: Sequence[Decoder], vote: float, folder: str) -> list[Tensor]:
    """Of every target picture: the plan's correction to disk; the class of each token, to draw by, in memory."""
    recipe, maps, uncovered = job.recipe.bank, [], 0.0
    bank = label_bank(job) if vote > 0 else None
    shares = [token_posteriors(teachers, job.target, number).mean(0) for number in range(len(job.target))]
    frequencies = torch.stack(shares).mean(0)
    for number in range(len(job.target)):
        path = job.space.work(folder, f"{number:06d}.safetensors")
        kept = load_tensors(path)
        if kept is None:
            prior = token_posteriors(teachers, job.target, number)
            correction, share = torch.zeros_like(prior), torch.zeros(())
            if bank is not None:
                transfer = bank_transfer(
                    *bank,
                    job.target.tokens(number),
                    prior.log(),
                    frequencies,
                    job.recipe.transport,
                    recipe.prior_weight,
                )
                correction = joined_correction(prior, transfer, vote)
                share = (~transfer.covered).float().mean().cpu()
            winner = (prior.clamp_min(1e-4).log() + correction).argmax(-1)
            kept = {
                "correction": correction.half().cpu(),
                "classes": winner.to(torch.uint8).cpu(),
                "uncovered": share,
            }
            save_tensors(path, kept)
        uncovered += float(kept["uncovered"])
        maps.append(kept["classes"])
        job.space.tell(folder)(number + 1, len(job.target))
    merge_facts(job.space, "bank", {f"{folder}_uncovered_share": uncovered / len(job.target)})
    return maps


@torch.no_grad()
def token_posteriors(teachers: Sequence[Decoder], domain: Domain, number: int) -> Tensor:
    """(n, K) posterior of each token: the mean over networks, and over its cells where they have cells."""
    tokens, parts = domain.tokens(number), []
    for teacher in teachers:
        if isinstance(teacher, FineDecoder):
            parts.append(torch.softmax(teacher.of_tokens(tokens, *domain.shape(number)), dim=-1).mean(1))
        else:
            parts.append(torch.softmax(domain.logits(teacher, number), dim=-1))
    return torch.stack(parts).mean(0)


def joint_logits(logits: Sequence[Tensor]) -> Tensor:
    """Log of the mean posterior of several networks, up to a constant."""
    return torch.stack([part.log_softmax(-1) for part in logits]).logsumexp(0)


def label_bank(job: Job) -> tuple[Tensor, Tensor]:
    """At most `bank.per_class` source tokens of each class and as many declared points, tokens (n, d) and classes."""
    count, tokens, classes = job.recipe.bank.per_class, [], []
    pools = {"source": source_pool(job, job.source_labels)}
    if has_points(job):
        pools["points"] = points_pool(job, job.points.training())
    for name, pool in pools.items():
        for label in range(job.num_classes):
            first, last = int(pool.starts[label]), int(pool.starts[label + 1])
            generator = generator_for(job.settings.seed, "bank", name, label)
            chosen = first + torch.randperm(last - first, generator=generator)[:count]
            if len(chosen):
                tokens.append(pool.read(chosen)[0].float())
                classes.append(torch.full((len(chosen),), label))
    device = job.target.device
    return torch.cat(tokens).to(device), torch.cat(classes).to(device)
