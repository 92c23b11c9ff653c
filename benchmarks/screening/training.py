"""Preset best on tokens in memory, with a hook for each idea. The library's own networks, losses and plan."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from shift import IGNORE, PARTS, Pictures, Shift, class_shares
from torch import Tensor
from torch.nn.functional import one_hot

from saot.decoder import FineDecoder, cells_of_tokens, make_decoder, seen_tokens
from saot.decoder.distill import confidence_weighted_kl
from saot.decoder.fine import cell_loss, grid_of_cells, smoothed
from saot.recipes import BEST, DecoderRecipe
from saot.runs import cosine_rate, generator_for
from saot.transfer import class_correction
from saot.transport import solve_transport, squared_euclidean_cost

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor | None]]  # seen tokens, targets, offset of the logits


@dataclass(frozen=True)
class Idea:
    """What is changed against preset best.

    Attributes:
        decoder: Changed fields of the decoder's recipe.
        tau: Of the plan over classes; 0 is no plan.
        rounds: Of stage 2; 0 is stage 1 alone.
        teachers: Networks of stage 1.
        sharpen: Taught labels to the power 1 / sharpen.
        mix: A further term of tokens between a labelled source token and a target token: "plan" couples them by a plan
            between their features, "random" at random, "class" within a class.
        points: Draws of the points: "counts" by how many each class has, "shares" by the source's class shares, and
            "offset" corrects the logits for the draw.
    """

    decoder: tuple[tuple[str, object], ...] = ()
    tau: float = BEST.taught.tau
    rounds: int = BEST.taught.rounds
    teachers: int = BEST.taught.teachers
    sharpen: float = 1.0
    mix: str = ""
    points: str = "counts"

    @property
    def recipe(self) -> DecoderRecipe:
        return replace(BEST.decoder, **dict(self.decoder))  # type: ignore[arg-type]


class Pool:
    """Tokens by the classes of their cells."""

    def __init__(self, seen: Tensor, cells: Tensor, classes: int) -> None:
        self.seen, self.cells = seen.flatten(0, 1), cells.flatten(0, 1)
        self.by_class = [(self.cells == c).any(-1).nonzero().squeeze(-1) for c in range(classes)]
        self.counts = torch.tensor([len(part) for part in self.by_class], dtype=torch.float64)

    def draw(self, count: int, weights: Tensor, generator: torch.Generator) -> Tensor:
        classes = torch.multinomial(torch.where(self.counts > 0, weights, 0.0), count, True, generator=generator)
        place = (torch.rand(count, generator=generator, dtype=torch.float64) * self.counts[classes]).long()
        chosen = torch.empty(count, dtype=torch.int64)
        for c in classes.unique().tolist():
            chosen[classes == c] = self.by_class[c][place[classes == c]]
        return chosen


class Trial:
    """One idea on one shift with one seed."""

    def __init__(self, shift: Shift, idea: Idea, seed: int) -> None:
        self.shift, self.idea, self.seed, self.recipe = shift, idea, seed, idea.recipe
        self.seen = {name: self._seen(getattr(shift, name)) for name in ("source", "target", "judged")}
        self.source = Pool(self.seen["source"], shift.source.cells, shift.classes)
        self.source_weights = self.source.counts**self.recipe.class_power

    def _seen(self, pictures: Pictures) -> Tensor:
        grid, levels = pictures.grid, self.recipe.context
        return torch.stack([seen_tokens(t.float(), grid.height, grid.width, levels).half() for t in pictures.tokens])

    def run(self) -> float:
        """mIoU in percent of the last network."""
        nets = [self._new(member) for member in range(self.idea.teachers if self.idea.rounds else 1)]
        nets = [self._fit(net, self._labelled(), self.recipe, "one", member) for member, net in enumerate(nets)]
        stage_2 = replace(self.recipe, steps=BEST.taught.steps, learning_rate=BEST.taught.learning_rate)
        stage_2 = replace(stage_2, final_learning_rate=BEST.taught.final_learning_rate)
        for number in range(self.idea.rounds):
            taught = self._taught(nets)
            nets = [self._fit(copy.deepcopy(nets[0]), self._labelled() + taught, stage_2, f"two-{number}", 0)]
        grid = self.shift.judged.grid
        side, smooth = self.recipe.subdivision, self.recipe.smooth

        def logits_of(number: int) -> Tensor:
            cells = grid_of_cells(self._said(nets, "judged", number), grid.height, grid.width)
            return smoothed(cells, grid.height * side, grid.width * side, smooth)

        return self.shift.miou(logits_of)

    def _new(self, member: int) -> FineDecoder:
        torch.manual_seed(generator_for(self.seed, "weights", member).initial_seed())
        net = make_decoder(self.shift.source.tokens.shape[-1], self.shift.classes, self.recipe)
        assert isinstance(net, FineDecoder)
        return net

    def _fit(self, net: FineDecoder, terms: list[Draw], recipe: DecoderRecipe, stage: str, member: int) -> FineDecoder:
        optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        net.train()
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = cosine_rate(step, recipe.steps, recipe.learning_rate, recipe.final_learning_rate)
            torch.manual_seed(generator_for(self.seed, stage, member, step).initial_seed())
            loss = torch.zeros(())
            for number, term in enumerate(terms):
                seen, targets, offset = term(generator_for(self.seed, stage, member, number, step))
                logits = net(seen.float())
                logits, weights = logits if offset is None else logits + offset, torch.full((len(seen),), 1 / len(seen))
                loss = loss + cell_loss(logits, targets, weights, confidence_weighted_kl)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return net.eval()

    def _labelled(self) -> list[Draw]:
        """Source cells, and the declared points."""
        batch, shift = self.recipe.batch, self.shift

        def source(generator: torch.Generator) -> tuple[Tensor, Tensor, None]:
            at = self.source.draw(batch, self.source_weights, generator)
            return self.source.seen[at], self.source.cells[at], None

        if not bool((shift.points != IGNORE).any()):
            return [source]
        pool = Pool(self.seen["target"], shift.points, shift.classes)
        by = class_shares(shift.source, shift.classes) if self.idea.points == "shares" else pool.counts
        weights, offset = by**self.recipe.class_power, None
        if self.idea.points == "offset":
            drawn, wanted = (part / part.sum() for part in (weights, self.source_weights))
            both = (pool.counts > 0) & (wanted > 0)
            offset = torch.where(both, (drawn / wanted.clamp_min(1e-12)).clamp_min(1e-12).log(), 0.0).float()

        def points(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
            at = pool.draw(batch, weights, generator)
            return pool.seen[at], pool.cells[at], offset

        return [source, points]

    @torch.no_grad()
    def _said(self, nets: list[FineDecoder], where: str, number: int) -> Tensor:
        seen = self.seen[where][number].float()
        return torch.stack([net(seen).log_softmax(-1) for net in nets]).logsumexp(0)

    def _taught(self, nets: list[FineDecoder]) -> list[Draw]:
        """Target tokens with the labels of the networks and the plan over classes."""
        shift, batch = self.shift, self.recipe.batch
        probs = torch.stack([self._said(nets, "target", i).softmax(-1).half() for i in range(len(shift.target))])
        if self.idea.tau > 0:
            generator = generator_for(self.seed, "plan")
            grid = shift.target.grid
            fine = grid.subdivide(PARTS)
            shown = torch.zeros(fine.num_tokens, dtype=torch.uint8)
            inside = cells_of_tokens(shown, fine.height, fine.width, grid.height, grid.width, PARTS) != IGNORE
            sample = probs[:, inside].flatten(0, 1)
            sample = sample[torch.randperm(len(sample), generator=generator)[:100_000]].double()
            shares = class_shares(shift.source, shift.classes)
            probs = (probs.float().log() + class_correction(sample, shares, self.idea.tau).float()).softmax(-1)
        probs = (probs.float().clamp_min(1e-6).log() / self.idea.sharpen).softmax(-1).half()
        classes = probs.float().mean(2).argmax(-1).to(torch.uint8)
        pool, labels = Pool(self.seen["target"], classes.unsqueeze(-1), shift.classes), probs.flatten(0, 1)
        weights = pool.counts**self.recipe.class_power

        def taught(generator: torch.Generator) -> tuple[Tensor, Tensor, None]:
            at = pool.draw(batch, weights, generator)
            return pool.seen[at], labels[at].float(), None

        if not self.idea.mix:
            return [taught]
        bank, bank_classes, bank_labels = self._bank(nets)
        partner = self._partners(probs, bank, bank_classes)

        def mixed(generator: torch.Generator) -> tuple[Tensor, Tensor, None]:
            at = pool.draw(batch, weights, generator)
            other, share = partner(at, classes.flatten()[at], generator), torch.rand(batch, 1, generator=generator)
            seen = share * self.source.seen[bank[other]].float() + (1 - share) * pool.seen[at].float()
            share = share.unsqueeze(-1)
            return seen, share * bank_labels[other] + (1 - share) * labels[at].float(), None

        return [taught, mixed]

    def _bank(self, nets: list[FineDecoder]) -> tuple[Tensor, Tensor, Tensor]:
        """300 source tokens a class: places, classes, soft labels of their cells, the networks' where there is none."""
        places, found = [], []
        for label, part in enumerate(self.source.by_class):
            chosen = part[torch.randperm(len(part), generator=generator_for(self.seed, "bank", label))[:300]]
            places.append(chosen)
            found.append(torch.full((len(chosen),), label))
        bank = torch.cat(places)
        cells, classes = self.source.cells[bank].long(), self.shift.classes
        with torch.no_grad():
            seen = self.source.seen[bank].float()
            said = torch.stack([net(seen).log_softmax(-1) for net in nets]).logsumexp(0).softmax(-1)
        known = (cells != IGNORE).unsqueeze(-1)
        return bank, torch.cat(found), torch.where(known, one_hot(cells.clamp_max(classes - 1), classes).float(), said)

    def _partners(self, probs: Tensor, bank: Tensor, bank_classes: Tensor) -> Callable[..., Tensor]:
        """The source token that each target token is mixed with."""
        if self.idea.mix == "random":
            return lambda at, _, generator: torch.randint(len(bank), (len(at),), generator=generator)
        if self.idea.mix == "class":
            starts = torch.searchsorted(bank_classes, torch.arange(self.shift.classes))
            sizes = torch.bincount(bank_classes, minlength=self.shift.classes)

            def alike(at: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
                place = (torch.rand(len(at), generator=generator) * sizes[classes.long()]).long()
                return (starts[classes.long()] + place).clamp_max(len(bank) - 1)

            return alike
        dim = self.shift.source.tokens.shape[-1]
        source = self.source.seen[bank, :dim].float()
        tokens = probs.float().mean(2)
        shares = tokens.mean((0, 1))[bank_classes]
        weights, drawn = shares / torch.bincount(bank_classes, minlength=self.shift.classes)[bank_classes], []
        for number, target in enumerate(self.shift.target.tokens):
            prior = tokens[number].clamp_min(1e-4).log().T[bank_classes]
            cost = squared_euclidean_cost(source, target.float()) - 0.2 * prior
            a = weights / weights.sum()
            plan = solve_transport(cost, a=a, epsilon=0.1, tau=0.3, max_iter=30, tol=0, gradient="none").plan
            generator = generator_for(self.seed, "partners", number)
            drawn.append(torch.multinomial(plan.T + 1e-12, 4, True, generator=generator))
        four = torch.cat(drawn)
        return lambda at, _, generator: four[at, torch.randint(4, (len(at),), generator=generator)]
