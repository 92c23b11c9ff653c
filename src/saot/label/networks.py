"""The networks of a run and what they are trained on: tokens, or their cells. Equal trainings are done once."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from saot.data import Remembered, patch_labels, point_tokens
from saot.decoder import (
    IGNORE,
    Decoder,
    DecoderFit,
    ExtraLoss,
    Rows,
    TailDecoder,
    Term,
    TokenPool,
    cells_of_tokens,
    decoder_of_shape,
    fit_decoder,
    make_decoder,
    point_pool,
    pyramid,
    refine_decoder,
    seen_rows,
    seen_width,
    token_pool,
)
from saot.label.data import Bench, Domain, Source, TokenPoints, TrainingData, class_frequencies
from saot.recipes import DecoderRecipe, TailRecipe
from saot.runs import Kept, Making, code_version, first_weights, generator_for, identity_of, room_of

Which = Literal["source", "target", "translated"]


def source_pool(source: Source, num_classes: int, maps: Sequence[Tensor] | None = None) -> TokenPool:
    """The source tokens that these label maps name; all labelled ones unless given."""
    labels, domain = source.labels if maps is None else maps, source.domain
    pool = token_pool(labels, num_classes, domain.rows, domain.dim, grid=domain.shape)
    return replace(pool, identity=identity_of(domain, labels))


def source_term(data: TrainingData, weight: float = 1.0) -> Term:
    """Cross-entropy on the source's labels."""
    return Term("source", source_pool(data.source, data.num_classes), weight)


def points_pool(points: TokenPoints, target: Domain, num_classes: int) -> TokenPool:
    """The tokens under declared points."""
    if points.resample:
        pool = token_pool(points.dense, num_classes, target.rows, target.dim, grid=target.shape)
    else:
        places = points.picture, points.token, points.classes
        pool = point_pool(*places, num_classes, target.rows, target.dim, target.shape)
    return replace(pool, identity=identity_of(target, points))


def points_term(data: TrainingData, weight: float) -> Term:
    """Cross-entropy on the declared points."""
    return Term("points", points_pool(data.points.tokens.training(), data.target, data.num_classes), weight)


def labelled_terms(bench: Bench, data: TrainingData, recipe: DecoderRecipe) -> list[Term]:
    """Cross-entropy on source labels and on declared points, at cells where the decoder has them."""
    fine = recipe.architecture == "fine"
    terms = [Term("source-cells", source_cell_pool(bench, data, recipe)) if fine else source_term(data)]
    if data.points.any and recipe.points_weight > 0:
        points = points_term(data, recipe.points_weight)
        if fine:
            points = Term("points-cells", points_cell_pool(bench, data, recipe), recipe.points_weight)
        if len(points.pool):  # all of them may lie in cells of two classes
            terms.append(points)
    return terms


def source_shares(bench: Bench, data: TrainingData, recipe: DecoderRecipe | TailRecipe) -> Tensor:
    """(K,) share of each class among what a decoder of this recipe answers for: the source's cells, or its patches."""
    if recipe.architecture not in ("fine", "tail"):
        return data.source.frequencies(data.num_classes)
    cells = (source_cells(bench, data, number, recipe.subdivision) for number in range(len(data.source)))
    return class_frequencies(cells, data.num_classes)


def seen(bench: Bench, data: TrainingData, which: Which, recipe: DecoderRecipe | TailRecipe) -> tuple[Rows, int]:
    """Reader and width of what a decoder of this recipe sees of single tokens.

    The pyramid of each picture is made where it is first wanted, and kept.
    """
    domain, levels = _domain(data, which), recipe.context
    if isinstance(recipe, TailRecipe):
        assert domain.early is not None, "opened where the network's last layers are trained"
        return domain.early.rows, domain.early.dim
    if recipe.architecture != "fine":
        return domain.rows, domain.dim

    def blocks(number: int) -> Tensor:
        def make(making: Making) -> Kept:
            return Kept({"values": pyramid(domain.tokens(number), *domain.shape(number), levels).half().cpu()})

        name = f"work/context-{levels}-{which}/{number:06d}"
        return bench.space.once(name, identity_of(domain, levels), make).tensors["values"]

    return seen_rows(domain.rows, domain.shape, Remembered(blocks), levels), seen_width(domain.dim, levels)


def _domain(data: TrainingData, which: Which) -> Domain:
    domain = {"source": data.source.domain, "target": data.target, "translated": data.translated}[which]
    assert domain is not None, "pictures are translated where the pull loss is on"
    return domain


def source_cells(bench: Bench, data: TrainingData, number: int, parts: int) -> Tensor:
    """(n, r^2) labels of the cells of a source picture."""
    source, ignored = data.source, bench.recipe.transfer.ignored_patches

    def make(making: Making) -> Kept:
        fine, shape = source.domain.grid(number).subdivide(parts), source.domain.shape(number)
        labels = patch_labels(source.masks.mask(number), fine, num_classes=data.num_classes, ignore=ignored)
        return Kept({"values": cells_of_tokens(labels, fine.height, fine.width, *shape, parts)})

    identity = identity_of(source.domain, parts, data.num_classes, ignored)
    return bench.space.once(f"work/cells-{parts}/{number:06d}", identity, make).tensors["values"]


def source_cell_pool(bench: Bench, data: TrainingData, recipe: DecoderRecipe | TailRecipe) -> TokenPool:
    """Source tokens with the labels of their cells; a token stands under every class that one of its cells has."""
    parts = recipe.subdivision

    def all_pictures() -> Iterator[Tensor]:
        for number in range(len(data.source)):
            yield source_cells(bench, data, number, parts)
            bench.space.tell("source cells")(number + 1, len(data.source))

    read = Remembered(lambda picture: source_cells(bench, data, picture, parts))

    def cells(picture: int, tokens: Tensor) -> Tensor:
        return read(picture)[tokens]

    with bench.space.stage("source cells"):
        pool = _cell_pool(bench, data, "source", recipe, all_pictures(), cells)
    ignored = bench.recipe.transfer.ignored_patches
    named = [data.source, parts, recipe.context, ignored]
    return replace(pool, identity=identity_of(*named, *_early(data.source.domain, recipe)))


def _early(domain: Domain, recipe: DecoderRecipe | TailRecipe) -> list[Domain | None]:
    """The early tokens, where they are what is seen."""
    return [domain.early] if isinstance(recipe, TailRecipe) else []


def points_cell_pool(bench: Bench, data: TrainingData, recipe: DecoderRecipe | TailRecipe) -> TokenPool:
    """Target tokens under declared points; only the cells that hold a point have a label.

    Points that are drawn anew each step are declared as patch labels, and then all cells of a patch have its label.
    """
    named = [data.target, data.points, recipe.subdivision, recipe.context]
    grown = [] if data.grower is None else [data.grower.identity]
    identity = identity_of(*named, *_early(data.target, recipe), *grown)
    if data.points.tokens.resample:
        dense, count = data.points.tokens.dense, recipe.subdivision**2

        def of_patches(picture: int, tokens: Tensor) -> Tensor:
            return dense[picture][tokens].unsqueeze(1).expand(-1, count)

        pool = _cell_pool(bench, data, "target", recipe, (part.unsqueeze(1) for part in dense), of_patches)
        return replace(pool, identity=identity)
    tokens, cells = [], []  # of those that hold a point; all others are forgotten picture by picture

    def maps() -> Iterator[Tensor]:
        for number, part in enumerate(point_cells(bench, data, recipe.subdivision)):
            if data.grower is not None:
                bench.space.tell("grown points")(number + 1, len(data.target))
            tokens.append((part != IGNORE).any(-1).nonzero().squeeze(-1))
            cells.append(part[tokens[-1]])
            yield part

    def of_points(picture: int, wanted: Tensor) -> Tensor:
        mine, found = tokens[picture], torch.full((len(wanted), recipe.subdivision**2), IGNORE, dtype=torch.uint8)
        if len(mine):
            place = torch.searchsorted(mine, wanted.long()).clamp_max(len(mine) - 1)
            holds = mine[place] == wanted
            found[holds] = cells[picture][place[holds]]
        return found

    if data.grower is None:
        return replace(_cell_pool(bench, data, "target", recipe, maps(), of_points), identity=identity)
    with bench.space.stage("grown points"):
        return replace(_cell_pool(bench, data, "target", recipe, maps(), of_points), identity=identity)


def inside_cells(domain: Domain, number: int, subdivision: int) -> Tensor:
    """(n, r^2) which cells of a picture's tokens show some of it; the others lie in padding."""
    fine = domain.grid(number).subdivide(subdivision)
    shown = torch.zeros(fine.num_tokens, dtype=torch.uint8)
    return cells_of_tokens(shown, fine.height, fine.width, *domain.shape(number), subdivision) != IGNORE


def grown_labels(bench: Bench, data: TrainingData, number: int) -> Tensor | None:
    """(h, w) class of every pixel of a target picture that its declared points are grown to, 255 of all others.

    None where points are not grown; made once a picture.
    """
    grower, images = data.grower, data.target.images
    if grower is None:
        return None
    points = data.points.pixels.of(images.keys[number])

    def make(making: Making) -> Kept:
        return Kept({"labels": grower.labels(images.image(number), *points)})

    identity = identity_of(grower.identity, images.fingerprint(number), list(points))
    return bench.space.once(f"work/grown/{number:06d}", identity, make).tensors["labels"]


def point_cells(bench: Bench, data: TrainingData, subdivision: int) -> Iterator[Tensor]:
    """(n, r^2) labels of the cells of each target picture: the class of the training points in it, else 255.

    A cell with points of two classes has none. Where points are grown, the cells of what they lie on have their class.
    """
    held = set(data.points.tokens.held().picture.tolist())
    for number, key in enumerate(data.target.images.keys):
        fine, (rows, columns) = data.target.grid(number).subdivide(subdivision), data.target.shape(number)
        cells = torch.full((fine.num_tokens,), IGNORE, dtype=torch.uint8)
        if number not in held:
            x, y, labels = data.points.pixels.of(key)
            grown = grown_labels(bench, data, number) if len(labels) else None
            if grown is not None:
                cells = patch_labels(grown.numpy(), fine, num_classes=data.num_classes, ignore="exclude").clone()
            where, labels = point_tokens(x, y, fine), labels.to(torch.uint8)
            cells[where] = labels
            cells[where[cells[where] != labels]] = IGNORE
        yield cells_of_tokens(cells, fine.height, fine.width, rows, columns, subdivision)


def _cell_pool(
    bench: Bench,
    data: TrainingData,
    which: Which,
    recipe: DecoderRecipe | TailRecipe,
    maps: Iterable[Tensor],
    cells: Rows,
) -> TokenPool:
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
    rows, width = seen(bench, data, which, recipe)
    return replace(point_pool(*made, data.num_classes, rows, width, _domain(data, which).shape), soft=cells)


def pull_of(bench: Bench, data: TrainingData, recipe: DecoderRecipe) -> ExtraLoss | None:
    """Source tokens beside their translations, and target tokens, as a decoder of this recipe sees them; None if off.

    Neighbours and pyramid of a translated token are those of its own, translated picture.
    """
    bridge = bench.recipe.bridge
    if bridge.weight == 0:
        return None
    (original, width), (translated, _) = seen(bench, data, "source", recipe), seen(bench, data, "translated", recipe)

    def both(picture: int, tokens: Tensor) -> Tensor:
        return torch.cat([original(picture, tokens), translated(picture, tokens)], dim=-1)

    target = data.target
    everywhere = [torch.zeros(target.grid(n).num_tokens, dtype=torch.uint8) for n in range(len(target))]
    pairs = token_pool(data.source.labels, data.num_classes, both, 2 * width)
    pairs = replace(pairs, identity=identity_of(data.source, data.translated))
    others = replace(token_pool(everywhere, 1, *seen(bench, data, "target", recipe)), identity=identity_of(target))
    assert data.pull is not None, "checked when the features were opened"
    return data.pull.loss(pairs, others, bridge)


@dataclass(frozen=True)
class Trained:
    """A decoder in evaluation mode.

    Attributes:
        decoder: The network.
        identity: Of everything it was trained with.
        facts: What its making has to say, for run.json.
    """

    decoder: Decoder
    identity: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def network(
    bench: Bench,
    data: TrainingData,
    terms: Sequence[Term],
    refine_terms: Sequence[Term] | None,
    *,
    name: str,
    decoder: DecoderRecipe | None = None,
    start: Trained | None = None,
    member: int = 0,
    pull: ExtraLoss | None = None,
) -> Trained:
    """A decoder trained on `terms`, self-trained where `refine_terms` are given; equal trainings are done once.

    Args:
        bench: Where and how.
        data: Shapes the network; stage 2 takes the unlabelled target from it.
        terms: Of stage 1.
        refine_terms: Kept in stage 2; None leaves stage 2 out, as no steps do.
        name: Of the stage, in the log and in run.json.
        decoder: Settings of stage 1, the recipe's unless given.
        start: The network to go on from.
        member: Number of this network in an ensemble of equal trainings that differ in their draws.
        pull: T2S-DA's pull loss in stage 1.
    """
    seed = bench.seed if member == 0 else generator_for(bench.seed, "member", member).initial_seed()
    if start is not None:  # else it would see again the first batches of the training it goes on from
        seed = generator_for(seed, "continued", *(term.name for term in terms)).initial_seed()
    decoder, refine = decoder or bench.recipe.decoder, bench.recipe.refine
    untrained = new_decoder(data, decoder, seed) if start is None else copy.deepcopy(start.decoder)

    def train(making: Making) -> DecoderFit:
        state = {"seed": seed, "checkpoint": making.checkpoint, "progress": making.progress}
        return fit_decoder(untrained, terms, decoder, **state, extra=pull)

    made_of = [seed, decoder, *map(term_identity, terms), start, pull, data.num_classes]
    first = train_once(bench, (name, "train", 1), made_of, train, start)
    if refine_terms is None or refine.steps == 0:
        return first

    def self_train(making: Making) -> DecoderFit:
        state = {"seed": seed, "checkpoint": making.checkpoint, "progress": making.progress, "crop": decoder.crop}
        return refine_decoder(first.decoder, data.target.all_tokens(), refine, terms=refine_terms, **state)

    made_of = [seed, refine, *map(term_identity, refine_terms), first, data.target, decoder.crop]
    return train_once(bench, (name, "refine", 2), made_of, self_train, first)


def term_identity(term: Term) -> list[Any]:
    """What equal terms have in common; their names seed their draws."""
    return [term.name, term.weight, term.focal, term.pool.identity]


def train_once(
    bench: Bench,
    stage: tuple[str, str, int],
    made_of: Sequence[Any],
    train: Callable[[Making], DecoderFit],
    start: Trained | None = None,
) -> Trained:
    """The network of an equal training of this run, or of one beside it; else trained.

    Args:
        bench: Where and how.
        stage: Name of the training, "train" or "refine", and its number, 0 where it is the only one.
        made_of: Everything it is made of.
        train: Trains it.
        start: What it goes on from; its facts are handed on.
    """
    name, verb, number = stage
    identity = identity_of(*made_of, code_version(room_of(train)))  # whichever room trains
    title, log = f"{verb} {name}", f"{name}-stage{number}" if number else name

    def make(making: Making) -> Kept:
        fit = train(making)
        making.log(fit.history)
        return packed(fit.decoder)

    kept = bench.space.once(f"work/models/decoder-{identity}", identity, make, title=title, log=log, shared=title)
    return Trained(unpacked(kept).to(bench.device), identity, {} if start is None else start.facts)


def new_decoder(data: TrainingData, config: DecoderRecipe, seed: int) -> Decoder:
    """An untrained decoder; its weights depend on the seed alone."""
    with first_weights(generator_for(seed, "decoder weights").initial_seed()):
        decoder = make_decoder(data.source.domain.dim, data.num_classes, config)
    return decoder.to(data.source.domain.device)


def new_tail_decoder(data: TrainingData, config: TailRecipe, seed: int) -> TailDecoder:
    """An untrained decoder behind a copy of the network's last layers; its own weights depend on the seed alone."""
    assert data.tail is not None, "asked for where the network's last layers are trained"
    with first_weights(generator_for(seed, "decoder weights").initial_seed()):
        decoder = TailDecoder(data.tail(), data.num_classes, config.width, config.dropout)
    return decoder.to(data.source.domain.device)


def packed(decoder: Decoder, **extra: object) -> Kept:
    """A decoder with its shape and whatever else a reader needs."""
    tensors = {name: tensor.cpu() for name, tensor in decoder.state_dict().items()}
    return Kept(tensors, about={"shape": decoder.shape, **extra})


def unpacked(kept: Kept) -> Decoder:
    """The decoder that was packed, in evaluation mode."""
    with first_weights(0):  # all of them are loaded
        decoder = decoder_of_shape(kept.about["shape"])
    decoder.load_state_dict(dict(kept.tensors))
    return decoder.eval()
