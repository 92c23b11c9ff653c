"""The last stages of MobileSAM trained along with a decoder of cells, judged where `run.py` judges ideas.

    python benchmarks/screening/tail.py --source camvid:DATA:day.txt --target camvid:DATA:dusk-train.txt \
        --weights mobile_sam.pt --store STORE --at T=0 T=total:20 --start none stage2 stage1 --seeds 0 --out OUT.jsonl

The store keeps what the encoder says after the stage of `--start`. Everything up to there stays frozen; the stages
behind it and the neck are copied from the published weights and trained along ("none": the neck's answer, all frozen).
Stage 1 learns source cells and declared points, stage 2 the target too, labelled by the network of stage 1 and the plan
over classes. A line a stage; the same command again does what is missing.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from shift import IGNORE, PARTS, Pictures, Shift, class_shares, load, split

from saot.data import open_labelled
from saot.features import FeatureStore
from saot.features.base import FeatureSettings
from saot.features.tinyvit import MobileSam
from saot.label.settings import store_folder
from saot.runs import cosine_rate, generator_for
from saot.tables import ALL_WINGS
from saot.transfer import class_correction

SIDE, STEP = 28, 7  # of a window of training and of the encoder's windows of attention, tokens
RATE, TAIL_RATE, WARM_UP = 1e-3, 1e-4, 30
STARTS = {"stage1": (2, 3), "stage2": (3,), "none": ()}  # the encoder's stages that are trained along


class Channels(nn.LayerNorm):
    """LayerNorm over the channels of maps (b, w, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Depthwise convolution, norm, and an MLP of each place, plus the input."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm, self.drop = Channels(width), nn.Dropout(0.1)
        self.wide, self.back = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.drop(functional.gelu(self.wide(self.norm(self.near(x))))))


class Tail(nn.Module):
    """From what the store keeps (b, d, rows, columns) to logits of cells (b, K, 4 rows, 4 columns)."""

    def __init__(self, encoder: MobileSam, start: str, classes: int, width: int = 128) -> None:
        super().__init__()
        network, parts = encoder.network, []
        for stage in STARTS[start]:
            parts += [*network.stages[stage], *([network.merges[stage]] if stage < 3 else [])]
        parts += [network.neck] if start != "none" else []
        self.tail = nn.ModuleList(copy.deepcopy(part) for part in parts).requires_grad_(True)
        self.stem = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(256, width, 1), Channels(width))
        self.coarse = nn.Sequential(Block(width, 7), Block(width, 7))
        self.middle = nn.Sequential(Channels(width), Block(width, 3), nn.Conv2d(width, width // 2, 1))
        self.fine = nn.Sequential(Channels(width // 2), Block(width // 2, 3), nn.Conv2d(width // 2, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1).contiguous()
        for part in self.tail:
            x = part(x)
        x = self.coarse(self.stem(x.movedim(-1, 1)))
        x = self.middle(functional.interpolate(x, scale_factor=2, mode="bilinear"))
        return self.fine(functional.interpolate(x, scale_factor=2, mode="bilinear"))


def as_map(cells: Tensor, rows: int, columns: int) -> Tensor:
    """(n, 16, ...) values of the cells of each token as a map (4 rows, 4 columns, ...)."""
    inner = cells.unflatten(1, (PARTS, PARTS)).unflatten(0, (rows, columns))
    return inner.transpose(1, 2).flatten(2, 3).flatten(0, 1)


class Windows:
    """Windows of pictures with labels of cells, drawn class first; of those shown each class weighs as in `best`."""

    def __init__(self, pictures: Pictures, labels: list[Tensor], soft: list[Tensor] | None = None) -> None:
        grid = pictures.grid
        self.maps = pictures.tokens.unflatten(1, (grid.height, grid.width))
        self.labels, self.soft = labels, soft
        counts = [torch.bincount(part.flatten().long(), minlength=256)[:IGNORE] for part in labels]
        self.counts = torch.stack(counts).double()
        total = self.counts.sum(0)
        self.shares = torch.where(total > 0, total.clamp_min(1) ** 0.5, 0.0)

    def loss(self, network: nn.Module, count: int, generator: torch.Generator) -> Tensor:
        tokens, truth, taught = self.draw(count, generator)
        return self.cross_entropy(network(tokens), truth, taught)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens (b, d, SIDE, SIDE), classes of their cells, and soft labels where there are some."""
        tokens, classes, soft = [], [], []
        for label in torch.multinomial(self.shares, count, True, generator=generator).tolist():
            number = int(torch.multinomial(self.counts[:, label], 1, generator=generator))
            places = (self.labels[number] == label).nonzero()
            place = places[int(torch.randint(len(places), (1,), generator=generator))] // PARTS
            top, left = (self._first(int(at), axis, generator) for axis, at in enumerate(place))
            tokens.append(self.maps[number, top : top + SIDE, left : left + SIDE].float())
            inner = slice(PARTS * top, PARTS * (top + SIDE)), slice(PARTS * left, PARTS * (left + SIDE))
            classes.append(self.labels[number][inner].long())
            if self.soft is not None:
                soft.append(self.soft[number][(slice(None), *inner)].float())
        return torch.stack(tokens).movedim(-1, 1), torch.stack(classes), torch.stack(soft) if soft else None

    def cross_entropy(self, logits: Tensor, truth: Tensor, taught: Tensor | None, smoothing: float = 0.0) -> Tensor:
        """With classes, or with soft labels where there are some; each class weighs as its windows are drawn."""
        shown = torch.bincount(truth.flatten(), minlength=256)[:IGNORE].clamp_min(1)
        weights = torch.where(truth != IGNORE, (self.shares / shown).float()[truth.clamp_max(IGNORE - 1)], 0.0)
        if taught is None:
            values = functional.cross_entropy(
                logits, truth, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing
            )
        else:
            weights, values = weights * taught.amax(1), -(taught * logits.log_softmax(1)).sum(1)
        return (weights * values).sum() / weights.sum()

    def _first(self, place: int, axis: int, generator: torch.Generator) -> int:
        """Where a window that holds this place begins, as windows of attention do, or at the far border."""
        last = max(0, self.maps.shape[1 + axis] - SIDE)
        found = [at for at in {*range(0, last + 1, STEP), last} if at <= place < at + SIDE]
        return sorted(found)[int(torch.randint(len(found), (1,), generator=generator))]


def train(network: Tail, terms: list[tuple[Windows, int]], steps: int, share: float, name: tuple) -> Tail:
    """AdamW, cosine to a hundredth; `share` of the rates."""
    own = {id(one) for one in network.tail.parameters()}
    head = [one for one in network.parameters() if id(one) not in own]
    groups = [{"params": head, "top": share * RATE}, {"params": [*network.tail.parameters()], "top": share * TAIL_RATE}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=RATE, weight_decay=1e-2)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            rate = cosine_rate(step, steps, group["top"], group["top"] / 100)
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        torch.manual_seed(generator_for(*name, step).initial_seed())
        drawn = [term.loss(network, count, generator_for(*name, i, step)) for i, (term, count) in enumerate(terms)]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(drawn).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()


@torch.no_grad()
def said(network: Tail, pictures: Pictures, number: int) -> Tensor:
    """(K, 4 rows, 4 columns) logits of a whole picture."""
    grid = pictures.grid
    return network(pictures.tokens[number].float().unflatten(0, (grid.height, grid.width)).movedim(-1, 0)[None])[0]


def taught(network: Tail, shift: Shift, seed: int) -> Windows:
    """The target with the labels of the network, corrected by the plan over classes."""
    target, grid = shift.target, shift.target.grid
    fine, labels, soft = grid.subdivide(PARTS), [], []
    posterior = [said(network, target, number).softmax(0) for number in range(len(target))]
    cells = torch.cat([part[:, : fine.height, : fine.width].flatten(1).T for part in posterior])
    chosen = torch.randperm(len(cells), generator=generator_for(seed, "plan"))[:100_000]
    correction = class_correction(cells[chosen].double(), class_shares(shift.source, shift.classes), 1.0).float()
    for part in posterior:
        soft.append((part.log() + correction[:, None, None]).softmax(0).half())
        labels.append(soft[-1].argmax(0).to(torch.uint8))
        labels[-1][fine.height :], labels[-1][:, fine.width :] = IGNORE, IGNORE
    return Windows(target, labels, soft)


def trial(shift: Shift, encoder: MobileSam, start: str, seed: int, steps: tuple[int, int]) -> list[float]:
    """mIoU in percent after stage 1 and after stage 2."""
    torch.manual_seed(generator_for(seed, "weights").initial_seed())
    network, grid = Tail(encoder, start, shift.classes), shift.source.grid
    terms = []
    for pictures, cells, count in ((shift.source, shift.source.cells, 3), (shift.target, shift.points, 1)):
        if bool((cells != IGNORE).any()):
            terms.append((Windows(pictures, [as_map(part, grid.height, grid.width) for part in cells]), count))

    def judged() -> float:
        return shift.miou(lambda number: said(network, shift.judged, number).flatten(1).T)

    found = []
    for stage, (count, share) in enumerate(zip(steps, (1.0, 0.5), strict=True)):
        if stage == 1:
            terms = [(terms[0][0], 2), *terms[1:], (taught(network, shift, seed), 2)]
        train(network, terms, count, share, (seed, stage))
        found.append(judged())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="SPEC of the labelled pictures")
    parser.add_argument("--target", required=True, help="SPEC of the pictures to adapt to")
    parser.add_argument("--weights", required=True, help="the published mobile_sam.pt")
    parser.add_argument("--store", type=Path, required=True, help="where what stays frozen is kept; made if missing")
    parser.add_argument("--at", nargs="+", default=["T=0"], help="SHIFT=BUDGET, as of run.py")
    parser.add_argument("--start", nargs="+", default=["none", "stage2", "stage1"], choices=STARTS)
    parser.add_argument("--seeds", default="0", help="whole numbers with commas")
    parser.add_argument("--steps", default="400,200", help="of stage 1 and of stage 2")
    parser.add_argument("--out", type=Path, required=True, help="a JSON line a trial")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    steps = tuple(map(int, options.steps.split(",")))
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for start in options.start:
        layer = "neck" if start == "none" else start
        settings = FeatureSettings("mobile-sam", weights=options.weights, layers=(layer,), l2_norm=False)
        encoder, sets = MobileSam(settings), []
        for spec in (options.source, options.target):
            images = open_labelled(spec, readers=ALL_WINGS.readers).images
            FeatureStore(store_folder(options.store / layer, spec), encoder.key).ensure(images, encoder)
            sets.append(load(spec, options.store / layer))
        for at in options.at:
            name, _, budget = at.partition("=")
            for seed in map(int, options.seeds.split(",")):
                key = {"at": at, "start": start, "seed": seed, "steps": options.steps}
                if any({one: line[one] for one in key} == key for line in lines):
                    continue
                began, shift = time.perf_counter(), split(name, sets[0][0], sets[1][0], sets[0][1], budget, seed)
                lines.append({**key, "miou": trial(shift, encoder, start, seed, steps)})
                lines[-1]["seconds"] = round(time.perf_counter() - began)
                with options.out.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(lines[-1], flush=True)
    print("\n| start | at | stage 1 | stage 2 |\n| --- | --- | ---: | ---: |")
    for start, at in sorted({(line["start"], line["at"]) for line in lines}):
        both = zip(*(line["miou"] for line in lines if (line["start"], line["at"]) == (start, at)), strict=True)
        print(f"| {start} | {at} | " + " | ".join(f"{statistics.mean(values):.1f}" for values in both) + " |")


if __name__ == "__main__":
    main()
