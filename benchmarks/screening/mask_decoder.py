"""A rival of preset best: a transformer decoder of masks over the frozen tokens, in the manner of EoMT and PMT.

    python benchmarks/screening/mask_decoder.py --source camvid:DATA:day.txt --target camvid:DATA:dusk-train.txt \
        --weights mobile_sam.pt --store STORE --at T=total:20 --set kind=joint --set kind=cross --out OUT.jsonl
    python benchmarks/screening/mask_decoder.py ... --eval camvid:DATA:dusk-eval.txt --points total:20 --seeds 0 \
        --runs RUNS --out OUT.jsonl

A query a class, or a few, meets the tokens in some layers; then the masks are the products of what queries and cells
have become, and a cell's class is told by them alone. It learns from what `best` learns from: the source's cells and
the declared points; `ema` goes on with its own answers for the target, as the run's rivals of that name do. The first
form judges settings where `run.py` judges ideas. The second draws the points of a run and scores as the run does. A
line a network; the same command again does what is missing.
"""

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from shift import IGNORE, PARTS, Pictures, Shift, load, split
from tail import SIDE, Channels, Windows, as_map

from saot.decoder import FineDecoder, picture_logits
from saot.decoder.fine import tokens_of_grid
from saot.decoder.refine import update_teacher
from saot.evaluate import expected_iou_bias, iou_from_counts, mean_over, picture_counts, predict_mask
from saot.features import FeatureGrid, FeatureStore
from saot.label import RunSettings, chosen_adjustment
from saot.label.data import Domain
from saot.label.networks import point_cells, source_cells
from saot.label.scoring import DECIDED_ON, UNADJUSTED, Contest, decided
from saot.recipes import BEST
from saot.runs import Checkpoint, Workspace, cosine_rate, generator_for, train_steps
from saot.tables.label_room import opened
from saot.tables.table import run_name

WARM_UP, DECAY = 30, 0.98  # steps; of the running mean of the weights


@dataclass(frozen=True)
class Settings:
    """Of network and training.

    Attributes:
        kind: What meets in a layer: "joint" queries and tokens in one sequence (EoMT, PMT), "cross" queries look at
            tokens that stay as they are (Mask2Former), "two-way" tokens look back (Segment Anything).
        layers: How many.
        width: Of queries and tokens.
        queries: A class.
        early: Whether the encoder's early tokens are seen beside those of the neck.
        dropout: Share of the tokens' channels, and of hidden numbers.
        dice: Weight of the dice loss beside cross-entropy, on source windows.
        rate: Of AdamW, at its highest.
        steps: Of stage 1.
        ema_steps: Of self-training.
        windows: Of the source a step, and of the target in self-training.
        points_windows: Windows with points a step.
    """

    kind: str = "joint"
    layers: int = 2
    width: int = 128
    queries: int = 1
    early: bool = False
    dropout: float = 0.1
    dice: float = 0.0
    rate: float = 1e-3
    steps: int = 400
    ema_steps: int = 200
    windows: int = 2
    points_windows: int = 2


class Attention(nn.Module):
    """Multi-head attention of (b, n, w) to (b, m, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.asked, self.told, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.asked(x), *self.told(other).chunk(2, -1))
        )
        return self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Feed(nn.Sequential):
    """Norm and MLP of each place."""

    def __init__(self, width: int, dropout: float) -> None:
        parts = nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        super().__init__(nn.LayerNorm(width), *parts)


class Layer(nn.Module):
    """Queries (b, q, w) and tokens (b, n, w) after one meeting."""

    def __init__(self, kind: str, width: int, dropout: float) -> None:
        super().__init__()
        self.kind, self.feed = kind, Feed(width, dropout)
        self.norm, self.beside = nn.LayerNorm(width), nn.LayerNorm(width)
        self.alone = Attention(width)
        if kind != "joint":
            self.cross = Attention(width)
        if kind != "cross":
            self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)  # says where tokens are, at any size
        if kind == "two-way":
            self.back, self.feed_tokens = Attention(width), Feed(width, dropout)

    def forward(self, queries: Tensor, tokens: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if self.kind != "cross":
            picture = tokens.transpose(1, 2).unflatten(2, shape)
            tokens = tokens + self.near(picture).flatten(2).transpose(1, 2)
        if self.kind == "joint":
            x = torch.cat([queries, tokens], 1)
            normed = self.norm(x)
            x = x + self.alone(normed, normed)
            x = x + self.feed(x)
            return x[:, : queries.shape[1]], x[:, queries.shape[1] :]
        queries = queries + self.cross(self.norm(queries), self.beside(tokens))
        queries = queries + self.alone(*[self.norm(queries)] * 2)
        queries = queries + self.feed(queries)
        if self.kind == "two-way":
            tokens = tokens + self.back(self.beside(tokens), self.norm(queries))
            tokens = tokens + self.feed_tokens(tokens)
        return queries, tokens


class MaskDecoder(FineDecoder):
    """Class logits of the 4 x 4 cells of each token, from masks; to a run it is a decoder of cells like others.

    Args:
        settings: Of the network.
        widths: Numbers of a token by each of the encoder's layers that are seen.
        num_classes: K.
        window: Whole pictures are answered in overlapping windows of this many tokens a side; 0 at once.
    """

    def __init__(self, settings: Settings, widths: tuple[int, ...], num_classes: int, window: int = SIDE) -> None:
        nn.Module.__init__(self)
        width, half = settings.width, settings.width // 2
        self.dim, self.num_classes, self.subdivision, self.smooth = sum(widths), num_classes, PARTS, 0
        self.window, self.widths = window, widths
        self.drop = nn.Dropout2d(settings.dropout)
        self.stems = nn.ModuleList(nn.Sequential(nn.LayerNorm(one), nn.Linear(one, width)) for one in widths)
        self.queries = nn.Parameter(torch.randn(num_classes * settings.queries, width))
        kinds = [settings.kind] * settings.layers
        self.layers = nn.ModuleList(Layer(kind, width, settings.dropout) for kind in kinds)
        self.upsample = nn.Sequential(*_twice(width, half), *_twice(half, half))
        mask = nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, half)
        self.mask = nn.Sequential(nn.LayerNorm(width), *mask)
        self.present = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, rows, columns) tokens to (b, K, 4 rows, 4 columns) logits."""
        shape = x.shape[2:]
        seen = (self.drop(part).flatten(2).transpose(1, 2) for part in x.split(self.widths, 1))
        tokens = torch.stack([stem(part) for stem, part in zip(self.stems, seen, strict=True)]).sum(0)
        queries = self.queries.expand(len(x), -1, -1)
        for layer in self.layers:
            queries, tokens = layer(queries, tokens, shape)
        cells = self.upsample(tokens.transpose(1, 2).unflatten(2, shape))
        masks = torch.einsum("bqw,bwyx->bqyx", self.mask(queries), cells) * cells.shape[1] ** -0.5
        masks = masks + self.present(queries).unsqueeze(-1)
        return masks.unflatten(1, (self.num_classes, -1)).logsumexp(2)

    def of_tokens(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """(n, 16, K) logits, or log mean probabilities over windows, of the cells of each token of a picture."""
        x = tokens.float().unflatten(0, (rows, columns)).movedim(-1, 0)[None]
        side = self.window
        if side == 0 or max(rows, columns) <= side:
            found = self(x)[0]
        else:
            total = x.new_zeros(self.num_classes, PARTS * rows, PARTS * columns)
            for top in _starts(rows, side):
                for left in _starts(columns, side):
                    part = self(x[:, :, top : top + side, left : left + side])[0].softmax(0)
                    high, wide = PARTS * top, PARTS * left
                    total[:, high : high + part.shape[1], wide : wide + part.shape[2]] += part
            found = (total / total.sum(0)).clamp_min(1e-12).log()
        return tokens_of_grid(found.flatten(1).T, rows, columns, PARTS)


def _twice(width: int, out: int) -> list[nn.Module]:
    """A map twice as fine, as EoMT upsamples."""
    near = nn.Conv2d(out, out, 3, padding=1, groups=out, bias=False)
    return [nn.ConvTranspose2d(width, out, 2, 2), nn.GELU(), near, Channels(out)]


def _starts(size: int, side: int) -> list[int]:
    """Where overlapping windows begin, evenly spread.

    Example:
        >>> _starts(64, 28), _starts(48, 28), _starts(20, 28)
        ([0, 18, 36], [0, 20], [0])
    """
    count = -(-(size - side) // (side * 3 // 4)) + 1 if size > side else 1
    return [round(at * (size - side) / (count - 1)) for at in range(count)] if count > 1 else [0]


def loss_of(network: MaskDecoder, term: Windows, count: int, dice: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy on windows of a term; dice on top where they have labels everywhere."""
    tokens, truth, taught = term.draw(count, generator)
    logits = network(tokens)
    loss = term.cross_entropy(logits, truth, taught)
    if dice == 0 or taught is not None:
        return loss
    known = (truth != IGNORE).unsqueeze(1)
    probs = logits.softmax(1) * known
    ones = functional.one_hot(truth.clamp_max(logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1) * known
    both, either = (probs * ones).sum((0, 2, 3)), (probs + ones).sum((0, 2, 3))
    shown = ones.sum((0, 2, 3)) > 0
    return loss + dice * (1 - (2 * both + 1) / (either + 1))[shown].mean()


@dataclass(frozen=True)
class Labels:
    """What is learned from: source and target with the labels of their cells as maps, 255 for none."""

    source: Pictures
    source_cells: list[Tensor]
    target: Pictures
    points: list[Tensor]
    classes: int
    widths: tuple[int, ...]

    def terms(self, settings: Settings) -> list[tuple[Windows, int, float]]:
        """Windows, how many a step, and the weight of dice."""
        found = [(Windows(self.source, self.source_cells), settings.windows, settings.dice)]
        if any(bool((part != IGNORE).any()) for part in self.points):
            found.append((Windows(self.target, self.points), settings.points_windows, 0.0))
        return found


def stage_one(labels: Labels, settings: Settings, seed: int, checkpoint: Checkpoint | None = None) -> MaskDecoder:
    """The network trained on source cells and points: AdamW, cosine to a hundredth, running means of the weights."""
    torch.manual_seed(generator_for(seed, "weights").initial_seed())
    network = MaskDecoder(settings, labels.widths, labels.classes).train()
    mean, terms = copy.deepcopy(network).eval(), labels.terms(settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=1e-2)

    def step(number: int) -> dict[str, float]:
        _set_rate(optimizer, settings.rate, number, settings.steps)
        torch.manual_seed(generator_for(seed, "one", number).initial_seed())
        drawn = [
            loss_of(network, term, count, dice, generator_for(seed, "one", place, number))
            for place, (term, count, dice) in enumerate(terms)
        ]
        _descend(drawn, network, optimizer)
        update_teacher(mean, network, min(DECAY, 1 - 1 / (number + 1)))
        return {str(place): float(loss.detach()) for place, loss in enumerate(drawn)}

    train_steps(step, settings.steps, {"network": network, "mean": mean, "optimizer": optimizer}, checkpoint)
    return mean


def self_trained(
    first: MaskDecoder, labels: Labels, settings: Settings, seed: int, checkpoint: Checkpoint | None = None
) -> MaskDecoder:
    """The EMA teacher after self-training on the target, source and points kept, as a run's rivals are refined."""
    student, teacher, recipe = copy.deepcopy(first).train(), copy.deepcopy(first).eval(), BEST.refine
    terms, every = labels.terms(settings), max(1, settings.ema_steps // 4)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.rate / 2, weight_decay=1e-2)
    pseudo = Pseudo(teacher, labels)

    def step(number: int) -> dict[str, float]:
        _set_rate(optimizer, settings.rate / 2, number, settings.ema_steps)
        torch.manual_seed(generator_for(seed, "two", number).initial_seed())
        own = pseudo.windows(number // every)
        tokens, truth, _ = own.draw(settings.windows, generator_for(seed, "two", "pseudo", number))
        drawn = [own.cross_entropy(student(tokens), truth, None, recipe.label_smoothing)]
        for place, (term, count, dice) in enumerate(terms):
            drawn.append(loss_of(student, term, count, dice, generator_for(seed, "two", place, number)))
        _descend(drawn, student, optimizer)
        update_teacher(teacher, student, DECAY)
        return {str(place): float(loss.detach()) for place, loss in enumerate(drawn)}

    state = {"student": student, "teacher": teacher, "optimizer": optimizer, "pseudo": pseudo}
    train_steps(step, settings.ema_steps, state, checkpoint)
    return teacher


class Pseudo:
    """The teacher's confident answers for the target's cells, of a version; a part of the checkpoint."""

    def __init__(self, teacher: MaskDecoder, labels: Labels) -> None:
        self.teacher, self.labels, self.version = teacher, labels, -1
        self.cells: list[Tensor] = []

    def windows(self, version: int) -> Windows:
        if version != self.version:
            self.cells, self.version = confident(self.teacher, self.labels), version
            self._windows = Windows(self.labels.target, self.cells)
        return self._windows

    def state_dict(self) -> dict[str, object]:
        return {"cells": self.cells, "version": self.version}

    def load_state_dict(self, state: dict) -> None:
        self.cells, self.version = list(state["cells"]), int(state["version"])
        if self.cells:
            self._windows = Windows(self.labels.target, self.cells)


@torch.no_grad()
def confident(teacher: MaskDecoder, labels: Labels) -> list[Tensor]:
    """Hard labels of the target's cells, 255 below the threshold of `saot.decoder.refine.teacher_labels`."""
    recipe, grid, found, sure = BEST.refine, labels.target.grid, [], []
    fine = grid.subdivide(PARTS)
    for tokens in labels.target.tokens:
        logits = picture_logits(teacher, tokens, grid.height, grid.width)
        confidence, label = (logits / recipe.sharpen).softmax(-1).max(-1)
        found.append(label.to(torch.uint8).view(PARTS * grid.height, -1))
        sure.append(confidence.half().view(PARTS * grid.height, -1))
        found[-1][fine.height :], found[-1][:, fine.width :] = IGNORE, IGNORE
    some = torch.cat([one.flatten()[::7] for one in sure]).float()
    threshold = min(recipe.threshold_scale * float(some.median()), recipe.threshold_cap)
    return [torch.where(one.float() >= threshold, part, IGNORE) for part, one in zip(found, sure, strict=True)]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, number: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = cosine_rate(number, steps, rate, rate / 100) * min(1.0, (number + 1) / WARM_UP)


def _descend(drawn: list[Tensor], network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.stack(drawn).sum().backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def map_of(cells: Tensor, pictures: Pictures) -> Tensor:
    """Labels of the cells of each token as a map."""
    return as_map(cells, pictures.grid.height, pictures.grid.width)


def _beside(pictures: Pictures, further: Tensor) -> Pictures:
    """Pictures whose tokens are followed by further numbers."""
    return replace(pictures, tokens=torch.cat([pictures.tokens, further], -1))


def labels_of(shift: Shift, widths: tuple[int, ...]) -> Labels:
    """What a shift of `shift.py` declares."""
    source, target = shift.source, shift.target
    cells, points = ([map_of(part, source) for part in one] for one in (source.cells, shift.points))
    return Labels(source, cells, target, points, shift.classes, widths)


@torch.no_grad()
def judged(shift: Shift, network: MaskDecoder) -> dict[str, dict]:
    """IoU where `run.py` judges: of the likeliest class, and of the answer of highest expected IoU."""
    grid, sampled = shift.target.grid, []
    few = list(range(0, len(shift.target), 2))  # half of them will do here
    quota = max(1, DECIDED_ON // shift.classes // len(few))

    def said(tokens: Tensor) -> Tensor:
        return picture_logits(network, tokens, grid.height, grid.width)

    for number in few:
        logits = said(shift.target.tokens[number])
        sampled.append(logits[torch.randperm(len(logits), generator=generator_for(number, "decision"))[:quota]])
    bias = expected_iou_bias(torch.cat(sampled))
    answers = [said(tokens) for tokens in shift.judged.tokens]
    found = {}
    for name, moved in (("likeliest", 0 * bias), ("expected_iou", bias)):
        iou = shift.iou(lambda number, moved=moved: answers[number] + moved)
        found[name] = {"miou": round(float(mean_over(iou)), 2), "classes": [round(float(one), 1) for one in iou]}
    return found


class Joined:
    """A store whose tokens are those of two."""

    def __init__(self, first: FeatureStore, second: FeatureStore) -> None:
        self.first, self.second = first, second

    def read(self, key: str) -> FeatureGrid:
        found, more = self.first.read(key), self.second.read(key)
        dim = found.provenance.dim + more.provenance.dim
        tokens = torch.cat([found.tokens, more.tokens], -1)
        return FeatureGrid(tokens, found.grid, replace(found.provenance, dim=dim))

    def grid(self, key: str):
        return self.first.grid(key)


def seen_domain(domain: Domain, early: bool) -> Domain:
    """A run's pictures with the tokens that the network sees."""
    if not early:
        return domain
    assert domain.early is not None, "preset best keeps early tokens"
    return replace(domain, store=Joined(domain.store, domain.early.store), dim=domain.dim + domain.early.dim)


def declared_by(contest: Contest, early: bool) -> tuple[Contest, Labels]:
    """The run as the network sees it, and what it declares: source cells, and points that are not held out."""
    data = contest.data
    source, target = seen_domain(data.source.domain, early), seen_domain(data.target, early)
    pictures = []
    for domain in (source, target):
        tokens = torch.stack([domain.tokens(number).half() for number in range(len(domain))])
        pictures.append(Pictures(tokens, torch.zeros(0), [], domain.grid(0)))
    cells = [source_cells(contest.bench, data, number, PARTS) for number in range(len(data.source))]
    points = point_cells(contest.bench, data, PARTS)
    widths = (data.target.dim, data.target.early.dim) if early and data.target.early else (data.target.dim,)
    maps = ([map_of(part, pictures[0]) for part in one] for one in (cells, points))
    labels = Labels(pictures[0], next(maps), pictures[1], next(maps), data.num_classes, widths)
    evaluation = replace(contest.evaluation, domain=seen_domain(contest.evaluation.domain, early))
    seen = replace(data, target=target, source=replace(data.source, domain=source))
    return replace(contest, data=seen, evaluation=evaluation), labels


def scored(contest: Contest, network: MaskDecoder) -> dict[str, dict]:
    """IoU on the evaluation pictures, at all pixels and near edges, answered as the run answers for its rivals."""
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    chosen = chosen_adjustment(bench, data, network) if data.points.any else UNADJUSTED
    answers = {"likeliest": chosen.bias, "expected_iou": decided(bench, data, network, chosen).bias}
    counts = {name: [0, 0] for name in answers}
    for number in range(len(domain)):
        logits, truth = domain.logits(network, number), contest.evaluation.truth.mask(number)
        for name, bias in answers.items():
            mask = predict_mask(logits, domain.grid(number), bias)
            for place, part in enumerate(picture_counts(mask, truth, data.num_classes)):
                counts[name][place] = counts[name][place] + part
    found = {}
    for name, parts in counts.items():
        whole, edges = (100 * iou_from_counts(part) for part in parts)
        found[name] = {"miou": round(float(mean_over(whole)), 2), "edges": round(float(mean_over(edges)), 2)}
        found[name]["classes"] = [round(float(one), 1) for one in whole]
        found[name]["bias"] = None if answers[name] is None else [round(float(one), 2) for one in answers[name]]
    return found


def both_stages(
    labels: Labels, settings: Settings, seed: int, score: Callable[[MaskDecoder], dict], folder: Path
) -> dict[str, dict]:
    """Scores of `mask_decoder` and of `mask_decoder_ema`; the folder keeps how far their trainings are."""
    folder.mkdir(parents=True, exist_ok=True)
    network = stage_one(labels, settings, seed, Checkpoint(folder / "one.pt", 50))
    found = {"mask_decoder": score(network)}
    if settings.ema_steps:
        network = self_trained(network, labels, settings, seed, Checkpoint(folder / "two.pt", 50))
        found["mask_decoder_ema"] = score(network)
    return found


def settings_of(words: str) -> Settings:
    """`kind=cross,layers=3` as settings.

    Raises:
        ValueError: If there is no such setting.
    """
    known, found = {field.name: field for field in fields(Settings)}, {}
    for word in filter(None, words.split(",")):
        name, _, value = word.partition("=")
        if name not in known:
            raise ValueError(f"expected settings among {', '.join(known)}; got {name!r}")
        kind = type(known[name].default)
        found[name] = value == "true" if kind is bool else kind(value)
    return Settings(**found)


class Lines:
    """A JSON line a network; those that are there are not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def make(self, key: dict, found: Callable[[Path], dict[str, dict]]) -> None:
        if any({name: line.get(name) for name in key} == key for line in self.known):
            return
        began = time.perf_counter()
        folder = self.path.parent / "checkpoints" / _digest(key)
        line = {**key, "found": found(folder), "seconds": round(time.perf_counter() - began)}
        self.known.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def _digest(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def screen(options: argparse.Namespace, lines: Lines) -> None:
    """Settings where `run.py` judges ideas."""
    opened_once = cache(load)
    for words in options.set:
        settings, sets, widths = settings_of(words), [], ()
        for spec in (options.source, options.target):
            pictures, classes = opened_once(spec, options.store)
            widths = (pictures.tokens.shape[-1],)
            if settings.early:
                early = opened_once(spec, options.store / "early")[0].tokens
                widths, pictures = (*widths, early.shape[-1]), _beside(pictures, early)
            sets.append(pictures)
        for at in options.at:
            name, _, budget = at.partition("=")
            for seed in options.seeds:
                shift = split(name, *sets, classes, budget, seed)
                made = partial(both_stages, labels_of(shift, widths), settings, seed, partial(judged, shift))
                lines.make({"at": at, "seed": seed, "settings": asdict(settings)}, made)


def evaluate(options: argparse.Namespace, lines: Lines) -> None:
    """Settings on the evaluation pictures, with the points of a run of preset best."""
    sets = options.source, options.target, options.eval
    for words in options.set:
        settings = settings_of(words)
        for points in options.points:
            for seed in options.seeds:
                about = {"backbone": options.backbone, "weights": options.weights, "size": options.size}
                about |= {"seed": seed, "recipe": BEST}
                run = partial(of_run, RunSettings(*sets, points, **about), options.runs, options.store, settings)
                lines.make({"points": points, "seed": seed, "settings": asdict(settings)}, run)


def of_run(asked: RunSettings, runs: Path, store: Path, settings: Settings, folder: Path) -> dict[str, dict]:
    """Scores on the evaluation pictures of a run, whose folder is made where there is none."""
    out = runs / run_name(asked)
    Workspace(out, asked.to_dict()).close()
    with opened(asked, out, store, "cpu") as contest:
        seen, labels = declared_by(contest, settings.early)
        return both_stages(labels, settings, asked.seed, partial(scored, seen), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="SPEC of the labelled pictures")
    parser.add_argument("--target", required=True, help="SPEC of the pictures to adapt to")
    parser.add_argument("--backbone", default="mobile-sam", help="of the run, with --eval")
    parser.add_argument("--weights", help="the published mobile_sam.pt, with --eval")
    parser.add_argument("--store", type=Path, required=True, help="features of both, made by saot extract")
    parser.add_argument("--at", nargs="+", default=["T=total:20"], help="SHIFT=BUDGET, as of run.py")
    parser.add_argument("--set", action="append", help="settings with commas; again for a further network")
    parser.add_argument("--eval", help="SPEC of the pictures to score on, in place of --at")
    parser.add_argument("--size", help="input size, with --eval; the backbone's own unless given")
    parser.add_argument("--points", nargs="+", default=["total:20"], help="of the run, with --eval")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for runs, with --eval")
    parser.add_argument("--seeds", default="0", help="whole numbers with commas")
    parser.add_argument("--out", type=Path, required=True, help="a JSON line a network")
    options = parser.parse_args()
    options.seeds, options.set = [int(one) for one in options.seeds.split(",")], options.set or [""]
    torch.set_num_threads(1)
    (evaluate if options.eval else screen)(options, Lines(options.out))


if __name__ == "__main__":
    main()
