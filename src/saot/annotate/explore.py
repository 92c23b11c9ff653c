"""One page to look into a run: what the network says of a pixel, and which source patches transport matches it with.

The patches come from plans made for this page, at the fixed cost |x - y|^2, between a target picture and the source
pictures most like it. They are evidence beside the network's answer, not its cause: preset best's own plan is between
tokens and classes. The page opens from disk and needs no server.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from saot.annotate.suggest import plan_from
from saot.data import IGNORE_INDEX, LabelledSet, PatchGrid, read_record, write_atomic
from saot.evaluate import predict_confidence, predict_mask, scores_at
from saot.label import Contest, Domain, FinishedRun
from saot.report import grey_png, jpeg_uri, png_uri, shrink, shrink_mask

WIDTH = 640  # pixels of a picture as it is shown
SOURCE_WIDTH = 320
SOURCES = 3  # pictures most like a target picture
PATCHES = 4  # that are shown for a token
LIKELIEST = 3  # classes that are told for a place
PARTS = 2  # places along each side of a token
ONE_FILE = 50  # pictures of a page that is one file
LEVELS = 8  # of 255 that a confidence is rounded to: noise would make the file large


@dataclass(frozen=True)
class Evidence:
    """What plans from several source pictures say of the m tokens of a target picture.

    Attributes:
        source: (m, PATCHES) number of the source picture of the heaviest pairs; -1 where there are fewer.
        token: (m, PATCHES) token of that picture.
        share: (m, PATCHES) the pair's part of all that the token received.
        cost: (m, PATCHES) |x - y|^2 of the pair.
        votes: (m, K) class shares received; all 0 where nothing is.
        unmatched: (m,) part of the token's mass that the most similar source leaves unmatched.
    """

    source: Int64[np.ndarray, "m patches"]
    token: Int64[np.ndarray, "m patches"]
    share: Float[np.ndarray, "m patches"]
    cost: Float[np.ndarray, "m patches"]
    votes: Float[np.ndarray, "m K"]
    unmatched: Float[np.ndarray, " m"]


def evidence(contest: Contest, domain: Domain, number: int, sources: Sequence[int]) -> Evidence:
    """The heaviest pairs of each token of a picture in plans from these source pictures.

    Args:
        contest: Source and settings of transport.
        domain: The picture's set.
        number: Of the picture.
        sources: Numbers of source pictures, the most similar first.
    """
    data, target = contest.data, domain.tokens(number)
    count, votes = len(target), torch.zeros(len(target), data.num_classes, dtype=torch.float64)
    columns, masses, places, tokens, unmatched = [], [], [], [], None
    for source in sources:
        plan, labels = plan_from(contest, domain, number, source)
        support = plan.support
        assert support is not None, "plans of a run are sparse"
        column, row = support.col.long().cpu(), support.row.long().cpu()
        mass = plan.plan_values.double().cpu()
        votes.index_put_((column, labels.long().cpu()[row]), mass, accumulate=True)
        kept = (data.source.labels[source] != IGNORE_INDEX).nonzero().squeeze(-1).cpu()
        columns.append(column)
        masses.append(mass)
        tokens.append(kept[row])
        places.append(torch.full_like(column, source))
        if unmatched is None:
            unmatched = (1 - plan.marginals[1] * count).clamp(0, 1).double().cpu()
    assert unmatched is not None, "there is a source picture"
    column, mass, token, place = (torch.cat(part).numpy() for part in (columns, masses, tokens, places))
    received = np.bincount(column, weights=mass, minlength=count)
    order = np.lexsort((-mass, column))
    rank = np.arange(len(order)) - np.searchsorted(column[order], column[order])
    chosen = order[(rank < PATCHES) & (mass[order] > 0)]
    where = column[chosen], rank[(rank < PATCHES) & (mass[order] > 0)]

    def table(values: np.ndarray, empty: float) -> np.ndarray:
        found = np.full((count, PATCHES), empty, values.dtype)
        found[where] = values
        return found

    share = mass[chosen] / np.maximum(received[column[chosen]], 1e-300)
    cost = _costs(contest, target, column[chosen], place[chosen], token[chosen])
    return Evidence(
        table(place[chosen], -1),
        table(token[chosen], 0),
        table(share, 0.0),
        table(cost, 0.0),
        (votes / votes.sum(1, keepdim=True).clamp_min(1e-300)).numpy(),
        unmatched.numpy(),
    )


def _costs(
    contest: Contest, target: Tensor, column: np.ndarray, place: np.ndarray, token: np.ndarray
) -> Float[np.ndarray, " pairs"]:
    found = np.zeros(len(column))
    for source in np.unique(place).tolist():
        mine = np.flatnonzero(place == source)
        theirs = contest.data.source.domain.tokens(source)[torch.from_numpy(token[mine]).to(target.device)]
        ours = target[torch.from_numpy(column[mine]).to(target.device)]
        found[mine] = (ours - theirs).square().sum(-1).double().cpu().numpy()
    return found


def write_explorer(
    run: FinishedRun,
    contest: Contest,
    place: Path,
    on: str = "target",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The page of a run's pictures: one file, or above `ONE_FILE` pictures a folder of data beside it.

    Args:
        run: Whose network is asked.
        contest: What it was made of; see `saot.label.reopened`.
        place: The file; a folder of its name without the ending holds the data of many pictures.
        on: "target", or "eval": the pictures that were scored, with a map of errors.
        progress: Told how many pictures are done, of how many.

    Returns:
        The page.

    Raises:
        ValueError: If the run was not scored on any pictures and they are asked for.
    """
    if on not in ("target", "eval"):
        raise ValueError(f"expected pictures of target or eval; got {on}")
    truth = contest.evaluation.truth if on == "eval" else None
    if on == "eval" and truth is None:
        raise ValueError("expected a run with --eval to look at the pictures it was scored on; this one has none")
    domain = contest.data.target if on == "target" else contest.evaluation.domain
    similar, total = contest.similar("target" if on == "target" else "test"), len(domain)
    apart = place.with_suffix("") if total > ONE_FILE else None
    sources = _Sources(contest)
    scripts, agree, known = [], 0.0, 0
    for number in range(total):
        closest = similar[number].topk(min(SOURCES, similar.shape[1])).indices.tolist()
        about, same, of = _picture(run, contest, domain, number, closest, sources, truth)
        agree, known = agree + same, known + of
        text = f"picture({number},{_script(about)});"
        if apart is None:
            scripts.append(f"<script>{text}</script>")
        else:
            apart.mkdir(parents=True, exist_ok=True)
            write_atomic(apart / f"{number:06d}.js", text.encode())
        if progress:
            progress(number + 1, total)
    head = {
        "classes": [[name, f"#{bytes(color).hex()}"] for name, color in _colored(run)],
        "names": list(domain.images.keys),
        "sources": sources.shown(),
        "agree": round(agree / max(known, 1), 4),
        "taught": _taught(contest),
        "parts": PARTS,
        "apart": None if apart is None else apart.name,
        "truth": truth is not None,
    }
    template = files("saot.annotate").joinpath("explore.html").read_text(encoding="utf-8")
    page = template.replace("/*HEAD*/null", _script(head)).replace("<!--PICTURES-->", "\n".join(scripts))
    write_atomic(place, page.encode())
    return place


def _script(values: Any) -> str:
    """Values as a script may hold them: no `</script>` within."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")


def _colored(run: FinishedRun) -> list[tuple[str, tuple[int, int, int]]]:
    return [*zip(run.classes.names, run.classes.colors, strict=True)]


def _taught(contest: Contest) -> list[list[float]] | None:
    """Share of each class before and after the plan over classes that taught the network; None where none did."""
    found = read_record(contest.bench.space.path("run.json"), "give the `saot run` command again").get("taught", {})
    for about in found.values():
        if isinstance(about, dict) and {"before", "after"} <= about.keys():
            return [[round(float(value), 5) for value in about[name]] for name in ("before", "after")]
    return None


class _Sources:
    """The source pictures that the page shows, each once."""

    def __init__(self, contest: Contest) -> None:
        self.domain, self.labels = contest.data.source.domain, contest.data.source.labels
        self.places: dict[int, int] = {}

    def place(self, number: int) -> int:
        return self.places.setdefault(number, len(self.places))

    def shown(self) -> list[dict[str, Any]]:
        found = []
        for number in self.places:
            image, grid = self.domain.images.image(number), self.domain.grid(number)
            about = {"name": self.domain.images.keys[number], "rows": grid.height, "columns": grid.width}
            small = shrink(image, SOURCE_WIDTH)
            scale = small.shape[1] / image.shape[1]
            found.append({**about, "side": [scale * side for side in _side(grid)], "image": jpeg_uri(small, 70)})
        return found


def _picture(
    run: FinishedRun,
    contest: Contest,
    domain: Domain,
    number: int,
    closest: Sequence[int],
    sources: _Sources,
    truth: LabelledSet | None,
) -> tuple[dict[str, Any], float, int]:
    """What the page knows of a picture; on how many tokens the votes agree with the mask, and of how many."""
    image, grid = domain.images.image(number), domain.grid(number)
    logits = domain.logits(run.decoder, number).cpu()
    bias = None if run.bias is None else run.bias.cpu()
    mask = predict_mask(logits, grid, bias).numpy()
    sure = predict_confidence(logits, grid, bias).numpy()
    found = evidence(contest, domain, number, closest)
    across, down = _side(grid)
    rows, columns = _middles(grid.height, down, image.shape[0]), _middles(grid.width, across, image.shape[1])
    answers = mask[rows.numpy()[:, None], columns.numpy()].ravel()
    finer = _middles(PARTS * grid.height, down / PARTS, image.shape[0])
    at = torch.cartesian_prod(finer, _middles(PARTS * grid.width, across / PARTS, image.shape[1])).unbind(1)
    scores = scores_at(logits, grid, *at)
    posterior = (scores if bias is None else scores + bias.to(scores)).softmax(-1)
    likeliest = posterior.topk(min(LIKELIEST, posterior.shape[-1]), dim=-1)
    voted = found.votes.sum(1) > 0
    same = float((found.votes.argmax(1) == answers)[voted].sum())
    place = np.vectorize(lambda one: sources.place(int(one)) if one >= 0 else 65535, otypes=[np.uint16])(found.source)
    about: dict[str, Any] = {
        "size": list(mask.shape),
        "rows": grid.height,
        "columns": grid.width,
        "side": [across, down],
        "image": jpeg_uri(shrink(image, WIDTH)),
        "mask": _grey(shrink_mask(mask.astype(np.uint8), WIDTH)),
        "sure": _grey(_rounded(shrink_mask(_bytes(sure), WIDTH))),
        "unmatched": _grey(_bytes(found.unmatched).reshape(grid.height, grid.width)),
        "uncovered": _grey((~voted).astype(np.uint8).reshape(grid.height, grid.width) * 255),
        "likeliest": _packed(likeliest.indices.numpy().astype(np.uint8)),
        "probability": _packed(_bytes(likeliest.values.numpy())),
        "source": _packed(place),
        "token": _packed(found.token.astype(np.uint16)),
        "share": _packed(_bytes(found.share)),
        "cost": _packed(np.clip(found.cost * 1000, 0, 65535).astype(np.uint16)),
        "votes": _packed(_bytes(found.votes)),
    }
    if truth is not None:
        about["truth"] = _grey(shrink_mask(np.asarray(truth.mask(number), np.uint8), WIDTH))
    return about, same, int(voted.sum())


def _side(grid: PatchGrid) -> tuple[float, float]:
    """Width and height of a token in pixels of the picture."""
    return (
        grid.patch_size * grid.image_width / grid.input_width,
        grid.patch_size * grid.image_height / grid.input_height,
    )


def _middles(count: int, side: float, length: int) -> Int64[Tensor, " n"]:
    """The pixel in the middle of each token along one side of a picture."""
    return ((torch.arange(count) + 0.5) * side).long().clamp_max(length - 1)


def _bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _rounded(values: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return (values // LEVELS * LEVELS + LEVELS // 2).astype(np.uint8)


def _grey(values: UInt8[np.ndarray, "h w"]) -> str:
    return png_uri(grey_png(values))


def _packed(values: np.ndarray) -> str:
    """Numbers, least byte first, in base64."""
    return base64.b64encode(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()).decode()
