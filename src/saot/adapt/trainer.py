"""One training step of T2S-DA and of the methods it is compared with; the loop itself is `transfer.training`'s.

L = L_source + lambda_FD L_FD + L_target + lambda L_pull. Each term goes backward on its own, so that only one graph is
in memory at a time, as in DAFormer's code. Randomness depends on the step and the process alone.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int64
from torch import Tensor

from saot.adapt.contrast import loss_weights, pixel_weights, pull
from saot.adapt.feature_distance import THINGS, feature_distance
from saot.adapt.mixing import augment, class_masks, class_mix
from saot.adapt.networks import Prediction, Segmenter
from saot.adapt.pictures import Batch, TrainingPictures
from saot.adapt.predict import upsampled
from saot.adapt.pull import pull_batch
from saot.adapt.recipe import AdaptRecipe
from saot.adapt.schedule import set_rates, silence_dropout
from saot.adapt.teacher import PseudoLabels, copy_buffers, pseudo_labels, update_ema, weighted_cross_entropy
from saot.data import IGNORE_INDEX, Ahead
from saot.runs import check_finite, generator_for

Record = dict[str, float]


class Trainer:
    """The student, its teacher, and the step that changes them.

    Args:
        network: The student, newly built.
        pictures: What it is trained on.
        recipe: Everything else.
        accelerator: Device, precision and processes.
        things: Classes that the feature distance counts.
        workers: Threads that draw batches ahead; how many there are changes nothing but the time.

    Raises:
        ValueError: If the crop does not fit the encoder, or fixed weights are not one a class.
    """

    def __init__(
        self,
        network: Segmenter,
        pictures: TrainingPictures,
        recipe: AdaptRecipe,
        accelerator: Accelerator,
        things: tuple[int, ...] = THINGS,
        workers: int = 1,
    ) -> None:
        check_crop(network, recipe)
        recipe.check_classes(network.num_classes)
        self.recipe, self.pictures, self.accelerator, self.things = recipe, pictures, accelerator, things
        self.student = network.to(accelerator.device).train()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.reference = copy.deepcopy(self.student.encoder).requires_grad_(False).eval()
        if not recipe.feature_distance:
            self.reference = None
        settings = recipe.optimizer
        groups = self.student.parameter_groups(settings.rate, settings.head_factor, settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=settings.betas)
        for group in optimizer.param_groups:
            group["base_rate"] = group["lr"]
        self.optimizer = accelerator.prepare(optimizer)
        batches = settings.steps * settings.accumulate
        self._batches = Ahead(lambda number: pictures.draw(number, accelerator.process_index), batches - 1, workers)

    @property
    def state(self) -> dict[str, Any]:
        """Everything a step changes, by name, for a checkpoint."""
        parts = {"student": self.student, "teacher": self.teacher, "optimizer": self.optimizer}
        scaler = getattr(self.accelerator, "scaler", None)
        return parts if scaler is None else {**parts, "scaler": scaler}

    def close(self) -> None:
        """Draw no further batches."""
        self._batches.close()

    def step(self, number: int) -> Record:
        """One update; what is to be logged.

        Raises:
            FloatingPointError: If a loss is not finite.
        """
        recipe, record = self.recipe, {}
        rate = set_rates(self.optimizer, number, recipe.optimizer)
        update_ema(self.teacher, self.student, number, recipe.teacher.decay)
        if recipe.teacher_mode == "eval":
            copy_buffers(self.teacher, self.student)
        self.teacher.train(recipe.teacher_mode == "train")
        silence_dropout(self.teacher)
        self.student.train()
        self.optimizer.zero_grad()
        for part in range(recipe.optimizer.accumulate):
            batch = self._batches(number * recipe.optimizer.accumulate + part).to(self.accelerator.device)
            with own_randomness(self.pictures.seed, number, part, self.accelerator.process_index):
                for name, value in self._losses(batch, number, part).items():
                    record[name] = record.get(name, 0.0) + value / recipe.optimizer.accumulate
        self._share_gradients()
        if recipe.optimizer.clip > 0:
            self.accelerator.clip_grad_norm_(self.student.parameters(), recipe.optimizer.clip)
        self.optimizer.step()
        return {**record, "rate": rate}

    def _losses(self, batch: Batch, number: int, part: int) -> Record:
        """Every term, each with its backward pass."""
        generator = generator_for(self.pictures.seed, "losses", number, part, self.accelerator.process_index)
        record = self._source(batch, number, generator)
        if batch.target is None and not self.recipe.pulls:
            return record
        probs, told, projected = self._ask_teacher(batch)
        if self.recipe.self_training:
            assert told is not None
            record |= self._target(batch, told, number, generator)
        if self.recipe.pulls:
            record |= self._pull(batch, probs, told, projected, number, generator)
        return record

    def _source(self, batch: Batch, number: int, generator: torch.Generator) -> Record:
        """L_source, Eq. (1), and the feature distance."""
        recipe = self.recipe
        translated = recipe.supervise == "pseudo_target"
        pixels = batch.translated if translated else batch.source
        assert pixels is not None  # drawn where the recipe supervises it
        with self.accelerator.autocast():
            prediction = self.student(pixels, generator=generator)
            loss = self._cross_entropy(prediction, batch.labels, torch.ones_like(batch.labels, dtype=torch.float32))
            record = {"source": float(loss.detach()), "labelled": labelled_share(batch.labels)}
            if self.reference is not None:
                with torch.no_grad():
                    kept = self.reference(seen_by_encoder(pixels, self.student))[-1]
                away = feature_distance(
                    prediction.stages[-1], kept, batch.labels, self.student.num_classes, self.things
                )
                loss = loss + recipe.feature_distance * away
                record["feature_distance"] = float(away.detach())
        self._backward(loss, number, "L_source")
        return record

    @torch.no_grad()
    def _ask_teacher(self, batch: Batch) -> tuple[Tensor | None, PseudoLabels | None, Tensor | None]:
        """The teacher's probabilities, pseudo-labels and projected features of the target pictures, if any."""
        if batch.target is None:
            return None, None, None
        with self.accelerator.autocast():
            prediction = self.teacher(batch.target, project=self.recipe.pulls)
        logits = upsampled(prediction.logits.float(), (batch.target.shape[-2], batch.target.shape[-1]))
        return torch.softmax(logits, 1), pseudo_labels(logits, self.recipe.teacher), prediction.projected

    def _target(self, batch: Batch, told: PseudoLabels, number: int, generator: torch.Generator) -> Record:
        """L_target, Eq. (S1), on mixed pictures (DACS) or on the target's own."""
        assert batch.target is not None
        recipe, images = self.recipe, batch.target
        labels, weights = told.labels, told.weights
        if recipe.pull.reweight == "target":
            balance = loss_weights(told, self.student.num_classes, recipe.pull, "target")
            weights = weights * pixel_weights(labels, balance)
        if recipe.mix is not None:
            masks = class_masks(batch.labels, generator, recipe.mix.classes_of)
            mixed = class_mix(batch.source / 255, batch.labels, images / 255, labels, weights, masks)
            images = augment(mixed.images, generator, recipe.mix) * 255
            labels, weights = mixed.labels, mixed.weights
        with self.accelerator.autocast():
            loss = self._cross_entropy(self.student(images, generator=generator), labels, weights)
        self._backward(loss, number, "L_target")
        return {"target": float(loss.detach()), "sure": float(told.share.mean())}

    def _pull(
        self,
        batch: Batch,
        probs: Tensor | None,
        told: PseudoLabels | None,
        projected: Tensor | None,
        number: int,
        generator: torch.Generator,
    ) -> Record:
        """lambda L_pull, Eq. (3)."""
        recipe = self.recipe.pull
        pixels = batch.translated if recipe.queries == "pseudo_target" else batch.source
        assert pixels is not None  # drawn where the recipe asks for it
        with torch.no_grad(), self.accelerator.autocast():
            source = self.teacher(batch.source, project=True).projected
            keyed = None
            if recipe.positives == "pseudo_target":
                assert batch.translated is not None
                keyed = self.teacher(batch.translated, project=True).projected
        with self.accelerator.autocast():
            drawn = None if self.student.projects_detail else generator  # of the whole crop, as keys and labels are
            queries = self.student(pixels, project=True, generator=drawn).projected
            assert queries is not None and source is not None  # networks here have a projector
            target = source[:0] if projected is None else projected  # none: only source pixels are pushed away from
            told_of = torch.zeros(0, self.student.num_classes, 1, 1, device=source.device) if probs is None else probs
            made = pull_batch(queries, source, batch.labels, target, told_of)
            weights = loss_weights(told, self.student.num_classes, recipe, "pull")
            flat = None if keyed is None else keyed.permute(0, 2, 3, 1).flatten(0, 2)
            result = pull(made, flat, weights.to(queries.device), recipe, generator)
        self._backward(recipe.weight * result.loss, number, "L_pull")
        return {"pull": float(result.loss.detach()), "queries": float(result.queries.sum())}

    def _cross_entropy(
        self, prediction: Prediction, labels: Int64[Tensor, "b h w"], weights: Float[Tensor, "b h w"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy at label size; of two scales, the fused one and a share of the detail crop's own (HRDA)."""
        size = (labels.shape[-2], labels.shape[-1])
        loss = weighted_cross_entropy(upsampled(prediction.logits, size), labels, weights)
        if prediction.detail is None:
            return loss
        box, share = prediction.detail.box, self.recipe.detail_weight
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        own = weighted_cross_entropy(
            upsampled(prediction.detail.logits, (box.height, box.width)),
            labels[:, rows, columns],
            weights[:, rows, columns],
        )
        return (1 - share) * loss + share * own

    def _backward(self, loss: Tensor, number: int, what: str) -> None:
        check_finite(loss.detach(), number, what)
        self.accelerator.backward(loss / self.recipe.optimizer.accumulate)

    def _share_gradients(self) -> None:
        """The mean gradient of all processes, so that students stay equal; nothing to do in a single one."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self.student.parameters():
            if parameter.grad is not None:  # what takes no part takes none in any process
                shared = self.accelerator.reduce(parameter.grad, "mean")
                assert isinstance(shared, Tensor)  # what goes in as one comes out as one
                parameter.grad = shared


def check_crop(network: Segmenter, recipe: AdaptRecipe) -> None:
    """Refuse a crop whose sides the encoder cannot take.

    Raises:
        ValueError: If a side is not a multiple of what it needs.
    """
    multiple = network.multiple
    if any(side % multiple for side in recipe.pictures.crop):
        height, width = recipe.pictures.crop
        fit = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in recipe.pictures.crop)
        raise ValueError(
            f"expected a crop whose sides are multiples of {multiple} for {network.encoder.name}; got "
            f"{height}x{width}: choose {fit}"
        )


def labelled_share(labels: Int64[Tensor, "b h w"]) -> float:
    """Share of pixels with a label; a batch without any trains nothing, and the log says so."""
    return float((labels != IGNORE_INDEX).float().mean())


def seen_by_encoder(pixels: Float[Tensor, "b 3 h w"], network: Segmenter) -> Float[Tensor, "b 3 _ _"]:
    """What the frozen encoder gets: the picture itself, or its context scale where the network has two (FACTS T-4)."""
    if network.two_scale is None:
        return pixels
    return torch.nn.functional.interpolate(
        pixels, size=(pixels.shape[-2] // 2, pixels.shape[-1] // 2), mode="bilinear", align_corners=False
    )


@contextmanager
def own_randomness(seed: int, *numbers: int) -> Iterator[None]:
    """Dropout and stochastic depth drawn from the step alone; the caller's random state is left as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(generator_for(seed, "dropout", *numbers).initial_seed() % 2**63)
        yield
