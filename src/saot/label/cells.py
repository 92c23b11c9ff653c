"""Tokens as a decoder finer than its tokens wants them: with what is around them, and with labels of their cells."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from saot.data import patch_labels, point_tokens, read_points_csv
from saot.decoder import (
    IGNORE,
    Rows,
    Term,
    TokenPool,
    cells_of_tokens,
    point_pool,
    pyramid,
    seen_rows,
    seen_width,
)
from saot.label.domains import Domain
from saot.label.job import Job, class_frequencies
from saot.label.networks import has_points, points_pool, source_pool
from saot.recipes import DecoderRecipe
from saot.runs import load_tensors, save_tensors

Side = Literal["source", "target", "translated"]


def labelled_terms(job: Job, recipe: DecoderRecipe) -> list[Term]:
    """Cross-entropy on source labels and on declared points, at cells where the decoder has them."""
    fine = recipe.architecture == "fine"
    source = _source_cells(job, recipe) if fine else source_pool(job, job.source_labels)
    terms = [Term("source-cells" if fine else "source", source)]
    if has_points(job) and recipe.points_weight > 0:
        points = _points_cells(job, recipe) if fine else points_pool(job, job.points.training())
        if len(points):  # all of them may lie in cells of two classes
            terms.append(Term("points-cells" if fine else "points", points, recipe.points_weight))
    return terms


def source_shares(job: Job, recipe: DecoderRecipe) -> Tensor:
    """(K,) share of each class among what a decoder of this recipe answers for: the source's cells, or its patches."""
    if recipe.architecture != "fine":
        return class_frequencies(job.source_labels, job.num_classes)
    return class_frequencies(
        (_source_picture(job, number, recipe.subdivision) for number in range(len(job.source))), job.num_classes
    )


def seen(job: Job, side: Side, recipe: DecoderRecipe) -> tuple[Rows, int]:
    """Reader and width of what a decoder of this recipe sees of single tokens.

    The pyramid of each picture is made where it is first wanted, and kept.
    """
    domain, levels = _domain(job, side), recipe.context
    if recipe.architecture != "fine":
        return domain.rows, domain.dim

    def blocks(number: int) -> Tensor:
        def made() -> Tensor:
            return pyramid(domain.tokens(number), *domain.shape(number), levels).half().cpu()

        return _kept(job, f"context-{levels}-{side}", number, made)

    return seen_rows(domain.rows, domain.shape, blocks, levels), seen_width(domain.dim, levels)


def _domain(job: Job, side: Side) -> Domain:
    domain = {"source": job.source, "target": job.target, "translated": job.translated}[side]
    assert domain is not None, "pictures are translated where the pull loss is on"
    return domain


def _kept(job: Job, folder: str, number: int, make: Callable[[], Tensor]) -> Tensor:
    """One tensor of one picture, made once for the run."""
    path = job.space.work(folder, f"{number:06d}.safetensors")
    kept = load_tensors(path)
    if kept is None:
        kept = {"values": make()}
        save_tensors(path, kept)
    return kept["values"]


def _source_picture(job: Job, number: int, parts: int) -> Tensor:
    """(n, r^2) labels of the cells of a source picture."""

    def made() -> Tensor:
        mask, fine = job.inputs.source.mask(number), job.source.grid(number).subdivide(parts)
        labels = patch_labels(mask, fine, num_classes=job.num_classes, ignore=job.recipe.transfer.ignored_patches)
        return cells_of_tokens(labels, fine.height, fine.width, *job.source.shape(number), parts)

    return _kept(job, f"cells-{parts}", number, made)


def _source_cells(job: Job, recipe: DecoderRecipe) -> TokenPool:
    """Source tokens with the labels of their cells; a token stands under every class that one of its cells has."""
    parts = recipe.subdivision

    def all_pictures() -> Iterator[Tensor]:
        for number in range(len(job.source)):
            yield _source_picture(job, number, parts)
            job.space.tell("source cells")(number + 1, len(job.source))

    def cells(picture: int, tokens: Tensor) -> Tensor:
        return _source_picture(job, picture, parts)[tokens]

    with job.space.stage("source cells"):
        return _cell_pool(job, "source", recipe, all_pictures(), cells)


def _points_cells(job: Job, recipe: DecoderRecipe) -> TokenPool:
    """Target tokens under declared points; only the cells that hold a point have a label.

    Points that are drawn anew each step are declared as patch labels, and then all cells of a patch have its label.
    """
    if job.points.resample:
        dense, count = job.points.dense, recipe.subdivision**2

        def of_patches(picture: int, tokens: Tensor) -> Tensor:
            return dense[picture][tokens].unsqueeze(1).expand(-1, count)

        return _cell_pool(job, "target", recipe, (part.unsqueeze(1) for part in dense), of_patches)
    tokens, cells = [], []  # of those that hold a point; all others are forgotten picture by picture

    def maps() -> Iterator[Tensor]:
        for part in point_cells(job, recipe.subdivision):
            tokens.append((part != IGNORE).any(-1).nonzero().squeeze(-1))
            cells.append(part[tokens[-1]])
            yield part

    def of_points(picture: int, wanted: Tensor) -> Tensor:
        return cells[picture][torch.searchsorted(tokens[picture], wanted.long())]

    return _cell_pool(job, "target", recipe, maps(), of_points)


def inside_cells(domain: Domain, number: int, subdivision: int) -> Tensor:
    """(n, r^2) which cells of a picture's tokens show some of it; the others lie in padding."""
    fine = domain.grid(number).subdivide(subdivision)
    shown = torch.zeros(fine.num_tokens, dtype=torch.uint8)
    return cells_of_tokens(shown, fine.height, fine.width, *domain.shape(number), subdivision) != IGNORE


def point_cells(job: Job, subdivision: int) -> Iterator[Tensor]:
    """(n, r^2) labels of the cells of each target picture: the class of the training points in it, else 255.

    A cell with points of two classes has none.
    """
    declared = read_points_csv(job.space.path("points.csv"), job.target.images, job.classes)
    held = set(job.points.held().picture.tolist())
    for number, key in enumerate(job.target.images.keys):
        fine, (rows, columns) = job.target.grid(number).subdivide(subdivision), job.target.shape(number)
        cells = torch.full((fine.num_tokens,), IGNORE, dtype=torch.uint8)
        if number not in held:
            x, y, labels = declared.of(key)
            where, labels = point_tokens(x, y, fine), labels.to(torch.uint8)
            cells[where] = labels
            cells[where[cells[where] != labels]] = IGNORE
        yield cells_of_tokens(cells, fine.height, fine.width, rows, columns, subdivision)


def _cell_pool(job: Job, side: Side, recipe: DecoderRecipe, maps: Iterable[Tensor], cells: Rows) -> TokenPool:
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
    rows, width = seen(job, side, recipe)
    pool = point_pool(*made, job.num_classes, rows, width, _domain(job, side).shape)
    return dataclasses.replace(pool, soft=cells)
