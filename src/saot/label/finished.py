"""A finished run at work: masks for new pictures, scores on labelled ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import CLASS_SET_NAMES, ClassSet, LabelledSet, PatchGrid, as_written, class_set, mask_map_of, read_record
from saot.decoder import Decoder, picture_logits
from saot.evaluate import (
    ConfusionMatrix,
    method_entry,
    picture_counts,
    predict_confidence,
    predict_mask,
    upsample_scores,
)
from saot.features import (
    Backbone,
    Divided,
    Extracted,
    Failed,
    FeatureGrid,
    Picture,
    extract,
    extract_each,
    in_form,
    make_each,
)
from saot.label.fusion import unpacked_decoder
from saot.label.prediction import Prediction, picture_of
from saot.label.settings import parse_size
from saot.label.sizes import SizesDecoder
from saot.label.wings import NO_WINGS, Labelled, Labeller, Wings
from saot.runs import RUN_FORMAT, read_kept

AGAIN = "give the same `saot run` command again"
T = TypeVar("T")
REMADE = "give the command that made it again"  # of a run of any kind


@dataclass(frozen=True)
class FinishedRun:
    """The parts of a run that label new pictures.

    Attributes:
        classes: What the indices mean.
        decoder: The small network, or that of several input sizes.
        backbone: The frozen one; with several input sizes the one of the first.
        bias: Logit adjustment, or None.
        label_budget: Target labels behind the network.
        threshold: Least confidence of a pixel that is labelled; 0 labels all.
        method: Its name in metrics.json.
        device: Where the decoder and what follows it run, such as "cuda"; the backbone knows its own.
        further: The frozen network at further input sizes, in the order of a `SizesDecoder`.
    """

    classes: ClassSet
    decoder: Decoder | SizesDecoder
    backbone: Backbone
    bias: Float[Tensor, " K"] | None
    label_budget: int
    threshold: float = 0.0
    method: str = "saot_decoder"
    device: str = "cpu"
    further: tuple[Backbone, ...] = ()

    def mask(self, image: UInt8[Any, "h w 3"], fingerprint: str) -> UInt8[Tensor, "h w"]:
        """Class index of every pixel, at the picture's own size; 255 where the confidence is below the threshold."""
        return self.mask_of(self.features(image, fingerprint))

    def features(self, image: UInt8[Any, "h w 3"], fingerprint: str) -> list[FeatureGrid]:
        """Frozen features of a picture at each input size."""
        return [extract(backbone, image, fingerprint) for backbone in (self.backbone, *self.further)]

    def mask_of(self, features: Sequence[FeatureGrid]) -> UInt8[Tensor, "h w"]:
        """Class index of every pixel from a picture's features at each input size."""
        return self._mask(self.logits_of(features), features[0].grid).cpu()

    def _labelled(self, sizes: Sequence[Extracted], confident: bool) -> Labelled:
        """A picture from its features at each input size."""
        logits, grid = self.logits_of([one.features for one in sizes]), sizes[0].features.grid
        confidence = predict_confidence(logits, grid, self.bias).cpu() if confident else None
        return Labelled(sizes[0].picture, sizes[0].image, self._mask(logits, grid).cpu(), confidence)

    def masks(
        self, pictures: Iterable[Picture], failed: Failed | None = None, confident: bool = False
    ) -> Iterator[Labelled]:
        """Each picture with its mask as `mask` makes it, in their order; see `saot.features.extract_each`.

        With several input sizes each picture is read once a size.

        Args:
            pictures: Any number of them.
            failed: Hears of a picture that cannot be read, and why; the others go on. Unless given it ends there.
            confident: Whether confidences are wanted too.

        Raises:
            ValueError: If a picture cannot be read or is empty, and nobody hears of it; names it.
        """
        return self.each(pictures, _as_it_is, failed, confident)

    def each(
        self,
        pictures: Iterable[Picture],
        make: Callable[[Labelled], T],
        failed: Failed | None = None,
        confident: bool = False,
    ) -> Iterator[T]:
        """What `make` gives for each picture with its mask; see `Labeller.each`.

        With one input size decoder, mask and `make` keep no other picture waiting; see `saot.features.make_each`.
        """
        if not self.further:
            yield from make_each(
                self.backbone, pictures, lambda one: make(self._labelled([one], confident)), failed=failed
            )
            return
        for sizes in self._extracted(pictures, failed):
            yield make(self._labelled(sizes, confident))

    def probabilities(self, pictures: Iterable[Picture]) -> Iterator[Float[Tensor, "K h w"]]:
        """Probability of each class at each pixel of each picture; see `Labeller.probabilities`."""
        for sizes in self._extracted(pictures, None):
            logits = self.logits_of([one.features for one in sizes])
            yield self._probabilities(logits, sizes[0].features.grid)

    def _extracted(self, pictures: Iterable[Picture], failed: Failed | None) -> Iterator[list[Extracted]]:
        """Each picture's features at each input size."""
        if not self.further:
            for one in extract_each(self.backbone, pictures, failed=failed):
                yield [one]
            return
        order, *asked = tee(pictures, 2 + len(self.further))
        unread: set[str] = set()

        def hear(picture: Picture, reason: str) -> None:
            if failed is not None and picture.name not in unread:  # once, not once a size
                unread.add(picture.name)
                failed(picture, reason)

        streams = [
            extract_each(backbone, own, failed=None if failed is None else hear)
            for backbone, own in zip((self.backbone, *self.further), asked, strict=True)
        ]
        yield from _in_step(streams, order)

    def predict(self, picture: Any) -> Prediction:
        """What the run says of one picture; see `Labeller.predict`."""
        image = picture_of(picture)
        features = self.features(image, str(picture) if isinstance(picture, str | Path) else "")
        grid = features[0].grid
        logits = self.logits_of(features)
        confidence = predict_confidence(logits, grid, self.bias)
        mask = self._mask(logits, grid)

        def probabilities() -> Any:
            return self._probabilities(logits, grid).numpy()

        return Prediction(image, mask.cpu().numpy(), confidence.cpu().numpy(), self.classes, probabilities)

    @torch.inference_mode()
    def _probabilities(self, logits: Tensor, grid: PatchGrid) -> Float[Tensor, "K h w"]:
        scores = upsample_scores(logits, grid)
        scores = scores if self.bias is None else scores.add_(self.bias.to(scores)[:, None, None])
        return scores.softmax(0).cpu()

    @torch.inference_mode()
    def logits_of(self, features: Sequence[FeatureGrid]) -> Float[Tensor, "cells K"]:
        """Logits of a picture's tokens or of the cells in them, on the run's device.

        Args:
            features: Of the picture at each input size; the logits lie on the first one's tokens or cells.
        """
        # half precision, as a store keeps them, so that scores agree to the bit
        tokens, grids = [one.tokens.half().float().to(self.device) for one in features], [one.grid for one in features]
        if isinstance(self.decoder, SizesDecoder):
            return self.decoder(tokens, grids)
        return picture_logits(self.decoder, tokens[0], grids[0].height, grids[0].width)

    def _mask(self, logits: Tensor, grid: PatchGrid) -> UInt8[Tensor, "h w"]:
        return predict_mask(logits, grid, self.bias, threshold=self.threshold)


def _as_it_is(one: Labelled) -> Labelled:
    return one


def _in_step(streams: Sequence[Iterator[Extracted]], order: Iterable[Picture]) -> Iterator[list[Extracted]]:
    """Each picture that all streams hold, from each of them; one that a stream has left out is left out."""
    heads = [next(stream, None) for stream in streams]
    for picture in order:
        here = [head for head in heads if head is not None and head.picture is picture]
        if len(here) == len(heads):
            yield here
        heads = [next(s, None) if head in here else head for s, head in zip(streams, heads, strict=True)]


def open_run(folder: Path, wings: Wings = NO_WINGS, device: str = "cpu") -> Labeller:
    """A finished run, of `saot run` or of a kind that a wing opens, ready to label pictures.

    Args:
        folder: Of the run.
        wings: What the core does not know: backbones, runs of another kind.
        device: Where its networks run, such as "cuda"; masks come back on the CPU.

    Raises:
        ValueError: If the folder is missing, unfinished, or of another format.
    """
    folder = Path(folder)
    record = folder / "run.json"
    if not folder.is_dir():
        raise ValueError(f"expected the folder of a run; {folder} does not exist: give the --out of `saot run`")
    if not record.exists():
        raise ValueError(
            f"expected a finished run in {folder}; it has no run.json: give the same `saot run` command again"
        )
    run = read_record(record, AGAIN)
    if run.get("format") != RUN_FORMAT:
        raise ValueError(
            f"expected a run of format {RUN_FORMAT}; {folder} has format {run.get('format')}: "
            "use the version that made it"
        )
    kind = run.get("kind")
    if kind is not None:
        if not isinstance(kind, str) or kind not in wings.finished:
            raise ValueError(f"expected a run of `saot run`; {folder} holds one of kind {kind!r}: use the command line")
        return wings.finished[kind](folder, device)
    kept = read_kept(folder / "decoder.safetensors")
    if kept is None:
        raise ValueError(
            f"expected {folder / 'decoder.safetensors'}; it is missing or damaged: "
            "give the same `saot run` command again"
        )
    with as_written(record, AGAIN):
        first, *further = _backbones(run, folder, wings, device)
        bias = None if run["decoder_bias"] is None else torch.tensor(run["decoder_bias"])
        budget = int(run["label_budget"])
    with as_written(folder / "decoder.safetensors", AGAIN):
        classes, decoder = classes_of(dict(kept.about)), unpacked_decoder(kept).to(device)
        if bias is not None and bias.shape != (len(classes.names),):
            raise TypeError(f"{len(classes.names)} classes but decoder_bias of shape {tuple(bias.shape)} in run.json")
    return FinishedRun(classes, decoder, first, bias, budget, device=device, further=tuple(further))


def _backbones(run: dict[str, Any], folder: Path, wings: Wings, device: str) -> list[Backbone]:
    """The backbone of a run at each of its input sizes, in the order of its decoder.

    Its weights are those in the run's own folder where it was packed with them.

    Raises:
        ValueError: If one is not what the run was made with.
    """
    settings, found, weights = run["settings"], [], run["settings"]["weights"]
    if weights is not None and (folder / weights).is_file():
        weights = str(folder / weights)
    sizes = run.get("sizes") or [{"size": settings["size"], "features": run["features"]}]
    for one in sizes:
        made_with, size = one["features"], parse_size(one["size"])
        precision = made_with.get("precision", "float32")
        backbone = wings.backbone(settings["backbone"], weights, size=size, device=device, precision=precision)
        backbone = in_form(backbone, made_with.get("form", "half"), [folder])
        if run.get("divided"):  # the decoder has the last layers
            assert isinstance(backbone, Divided), "the run was made with one"
            backbone = backbone.early()
        now = json.loads(backbone.key.to_json())
        for name, value in made_with.items():
            if now.get(name) != value:
                raise ValueError(
                    f"expected the backbone the run was made with; {name} is {now.get(name)!r} now but was {value!r}: "
                    "use the same weights"
                )
        found.append(backbone)
    return found


def classes_of(published: dict[str, Any]) -> ClassSet:
    """The class set of a decoder: a known one where names agree, else the names and colours it brings."""
    names = tuple(published["classes"])
    for name in CLASS_SET_NAMES:
        known = class_set(name)
        if known.names == names:
            return known
    colors = tuple((int(r), int(g), int(b)) for r, g, b in published["colors"])
    return ClassSet(name="run", names=names, colors=colors, id_map=None, subsets={})


def evaluate_run(
    folder: Path,
    spec: str,
    progress: Callable[[int, int], None] | None = None,
    wings: Wings = NO_WINGS,
    device: str = "cpu",
) -> dict[str, Any]:
    """The decoder's scores on labelled pictures, in the form of metrics.json.

    Args:
        folder: A finished run.
        spec: Labelled pictures.
        progress: Called with (done, total).
        wings: What the core does not know; without a map of mask values the run's own is taken.
        device: Where networks run, such as "cuda".

    Raises:
        ValueError: If the run is unfinished or the pictures have no masks.
    """
    evaluation = open_evaluation(folder, spec, wings, device)
    every = range(len(evaluation.data))
    evaluation.check(evaluation.data.misfits())
    return evaluation.metrics(*evaluation.count(every, progress))


def open_evaluation(folder: Path, spec: str, wings: Wings = NO_WINGS, device: str = "cpu") -> "Evaluation":
    """What `evaluate_run` scores, open; arguments and errors are its own."""
    run = open_run(folder, wings, device)
    if wings.mask_map is None:
        record = Path(folder) / "run.json"
        with as_written(record, REMADE):
            asked = read_record(record, REMADE).get("settings", {}).get("mask_map")
            wings = replace(wings, mask_map=mask_map_of(asked))
    return Evaluation(run, wings.labelled(spec, run.classes), spec)


@dataclass(frozen=True)
class Evaluation:
    """A finished run, and labelled pictures on which it is scored.

    Attributes:
        run: The network.
        data: The pictures.
        spec: As they were asked for.
    """

    run: Labeller
    data: LabelledSet
    spec: str

    def check(self, wrong: Mapping[int, str]) -> None:
        """Refuse masks that do not fit, so that a bad one is known before the first picture is labelled.

        Args:
            wrong: What `misfits` of the data says.

        Raises:
            ValueError: If there are any.
        """
        if wrong:
            number = min(wrong)
            raise ValueError(
                f"expected masks of their pictures' sizes; {len(wrong)} of {self.spec} have another, the first being "
                f"that of {self.data.keys[number]}, {wrong[number]}: give both the same size, or leave the picture out"
            )

    def count(
        self, numbers: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> tuple[Int[Tensor, "K K"], Int[Tensor, "K K"]]:
        """Confusion counts of some pictures: of all pixels, and of those near edges.

        Args:
            numbers: Of the pictures.
            progress: Called with (done, total).

        Raises:
            ValueError: If a picture or a mask cannot be read.
        """
        size, images = len(self.run.classes.names), self.data.images
        whole, near = ConfusionMatrix(size).counts, ConfusionMatrix(size).counts
        asked = (Picture(images.keys[n], partial(images.image, n), images.fingerprint(n)) for n in numbers)
        for done, (number, one) in enumerate(zip(numbers, self.run.masks(asked), strict=True), 1):
            more, more_near = picture_counts(one.mask, self.data.mask(number), size)
            whole, near = whole + more, near + more_near
            if progress is not None:
                progress(done, len(numbers))
        return whole, near

    def metrics(self, whole: Int[Tensor, "K K"], near: Int[Tensor, "K K"]) -> dict[str, Any]:
        """The scores of all pictures, in the form of metrics.json; arguments as `count` gives them."""
        classes = self.run.classes
        matrix, edges = ConfusionMatrix(len(classes.names)), ConfusionMatrix(len(classes.names))
        matrix.counts, edges.counts = whole, near
        return {
            "classes": list(classes.names),
            "split": self.spec,
            "images": len(self.data),
            "methods": {self.run.method: method_entry(matrix, classes, self.run.label_budget, edges)},
        }
