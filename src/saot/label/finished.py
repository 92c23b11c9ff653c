"""A finished run at work: masks for new pictures, scores on labelled ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.data import CLASS_SET_NAMES, IGNORE_INDEX, ClassSet, PatchGrid, class_set, read_image
from saot.decoder import Decoder, picture_logits
from saot.evaluate import ConfusionMatrix, method_entry, predict_confidence, predict_mask, upsample_scores
from saot.features import Backbone, FeatureGrid, Picture, extract, extract_each
from saot.label.calibration import abstention_threshold
from saot.label.fusion import unpacked_decoder
from saot.label.prediction import Prediction, picture_of
from saot.label.settings import parse_size
from saot.label.sizes import SizesDecoder
from saot.label.wings import NO_WINGS, Labeller, Wings
from saot.report import CocoItem, write_coco, write_color_overlay, write_index_png
from saot.runs import RUN_FORMAT, read_kept

FORMATS = ("png", "color", "coco")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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

    def masks(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, UInt8[Any, "h w 3"], UInt8[Tensor, "h w"]]]:
        """Each picture, its pixels and its mask as `mask` makes it, in their order; see `saot.features.extract_each`.

        With several input sizes each picture is read once a size.

        Raises:
            ValueError: If a picture cannot be read or is empty; names it.
        """
        asked = list(pictures) if self.further else pictures
        streams = [extract_each(backbone, asked) for backbone in (self.backbone, *self.further)]
        for sizes in zip(*streams, strict=True):
            yield sizes[0].picture, sizes[0].image, self.mask_of([one.features for one in sizes])

    def predict(self, picture: Any) -> Prediction:
        """What the run says of one picture; see `Labeller.predict`."""
        image = picture_of(picture)
        features = self.features(image, str(picture) if isinstance(picture, str | Path) else "")
        grid = features[0].grid
        logits = self.logits_of(features)
        confidence = predict_confidence(logits, grid, self.bias)
        mask = self._mask(logits, grid)

        def probabilities() -> Any:
            scores = upsample_scores(logits, grid)
            scores = scores if self.bias is None else scores + self.bias.to(scores)[:, None, None]
            return scores.softmax(0).cpu().numpy()

        return Prediction(image, mask.cpu().numpy(), confidence.cpu().numpy(), self.classes, probabilities)

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
        mask = predict_mask(logits, grid, self.bias)
        if self.threshold > 0:
            mask[predict_confidence(logits, grid, self.bias) < self.threshold] = IGNORE_INDEX
        return mask


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
    run = json.loads(record.read_text())
    if run.get("format") != RUN_FORMAT:
        raise ValueError(
            f"expected a run of format {RUN_FORMAT}; {folder} has format {run.get('format')}: "
            "use the version that made it"
        )
    kind = run.get("kind")
    if kind is not None:
        if kind not in wings.finished:
            raise ValueError(f"expected a run of `saot run`; {folder} holds one of kind {kind!r}: use the command line")
        return wings.finished[kind](folder, device)
    kept = read_kept(folder / "decoder.safetensors")
    if kept is None:
        raise ValueError(
            f"expected {folder / 'decoder.safetensors'}; it is missing or damaged: "
            "give the same `saot run` command again"
        )
    first, *further = _backbones(run, wings, device)
    published = dict(kept.about)
    bias = None if run["decoder_bias"] is None else torch.tensor(run["decoder_bias"])
    decoder = unpacked_decoder(kept).to(device)
    budget = int(run["label_budget"])
    return FinishedRun(classes_of(published), decoder, first, bias, budget, device=device, further=tuple(further))


def _backbones(run: dict[str, Any], wings: Wings, device: str) -> list[Backbone]:
    """The backbone of a run at each of its input sizes, in the order of its decoder.

    Raises:
        ValueError: If one is not what the run was made with.
    """
    settings, found = run["settings"], []
    sizes = run.get("sizes") or [{"size": settings["size"], "features": run["features"]}]
    for one in sizes:
        made_with, size = one["features"], parse_size(one["size"])
        precision = made_with.get("precision", "float32")
        backbone = wings.backbone(
            settings["backbone"], settings["weights"], size=size, device=device, precision=precision
        )
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


def find_pictures(paths: Sequence[Path], out: Path) -> list[Path]:
    """The pictures named, and those of the folders named, in order; what lies below `out` is an earlier answer.

    Raises:
        ValueError: If a path does not exist or nothing is found.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
            found += inside if out.resolve() == path.resolve() else [p for p in inside if not _below(p, out)]
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f"expected a picture or a folder of pictures; {path} does not exist")
    if not found:
        raise ValueError(f"expected at least one picture; found none in {', '.join(map(str, paths))}")
    return found


def _below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _output(path: Path, out: Path, kind: str) -> Path:
    return out / (f"{path.stem}.png" if kind == "png" else f"{path.stem}_color.png")


def _check_outputs(files: Sequence[Path], out: Path, formats: Sequence[str]) -> None:
    stems = [path.stem for path in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise ValueError(f"expected pictures of different names; two are called {twice!r}: predict them one by one")
    inputs = {path.resolve() for path in files}
    for path in files:
        for kind in ("png", "color"):
            if kind in formats and _output(path, out, kind).resolve() in inputs:
                raise ValueError(
                    f"expected an --out that leaves your pictures alone; {_output(path, out, kind)} is one of them: "
                    "choose another --out"
                )


def predict_pictures(
    folder: Path,
    pictures: Sequence[Path],
    out: Path,
    formats: Sequence[str] = ("png",),
    progress: Callable[[int, int], None] | None = None,
    abstain: float | None = None,
    wings: Wings = NO_WINGS,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Masks of new pictures at their own sizes; one record a picture.

    Args:
        folder: A finished run.
        pictures: Files, or folders of files.
        out: Where to write `STEM.png` (class indices), `STEM_color.png` (overlay) and `annotations.json` (COCO RLE).
        formats: Among "png", "color" and "coco".
        progress: Called with (done, total).
        abstain: Error allowed among the labelled pixels; the others get 255, by the threshold the run found on its
            held-out points. `docs/calibration.md` says what that guarantees.
        wings: What the core does not know.
        device: Where networks run, such as "cuda".

    Raises:
        ValueError: If a format is unknown, a file would be written twice or over a picture, an input is not as it
            should be, or the run has no threshold for `abstain`.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"expected formats among {', '.join(FORMATS)}; got {', '.join(unknown) or 'none'}")
    run, files = open_run(folder, wings, device), find_pictures(pictures, out)
    if abstain is not None:
        if not isinstance(run, FinishedRun):
            raise ValueError(
                "expected a run of `saot run` for --abstain; networks of `saot adapt` have no held-out points"
            )
        run = replace(run, threshold=abstention_threshold(folder, abstain))
    _check_outputs(files, out, formats)
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []

    def label() -> Iterator[CocoItem]:
        asked = (Picture(str(path), partial(read_image, path), str(path)) for path in files)
        for done, (path, (_, image, found)) in enumerate(zip(files, run.masks(asked), strict=True), start=1):
            mask = found.numpy()
            record: dict[str, Any] = {"image": str(path), "height": mask.shape[0], "width": mask.shape[1]}
            if abstain is not None:
                record["labelled"] = float((mask != IGNORE_INDEX).mean())
            if "png" in formats:
                write_index_png(_output(path, out, "png"), mask, run.classes)
                record["mask"] = str(_output(path, out, "png"))
            if "color" in formats:
                write_color_overlay(_output(path, out, "color"), image, mask, run.classes)
                record["color"] = str(_output(path, out, "color"))
            records.append(record)
            yield CocoItem(path.name, mask)
            if progress is not None:
                progress(done, len(files))

    if "coco" in formats:
        write_coco(out / "annotations.json", label(), run.classes)
    else:
        for _ in label():
            pass
    return records


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
        wings: What the core does not know.
        device: Where networks run, such as "cuda".

    Raises:
        ValueError: If the run is unfinished or the pictures have no masks.
    """
    run = open_run(folder, wings, device)
    data = wings.labelled(spec, run.classes)
    matrix = ConfusionMatrix(len(run.classes.names))
    images = data.images
    asked = (Picture(key, partial(images.image, n), images.fingerprint(n)) for n, key in enumerate(data.keys))
    for number, (_, _, mask) in enumerate(run.masks(asked)):
        matrix.update(mask, torch.from_numpy(data.mask(number)))
        if progress is not None:
            progress(number + 1, len(data))
    classes = run.classes
    return {
        "classes": list(classes.names),
        "split": spec,
        "images": len(data),
        "methods": {run.method: method_entry(matrix, classes, run.label_budget)},
    }
