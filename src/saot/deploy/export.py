"""`saot export`: a finished run as one file that labels pictures without this package.

Backbone, decoder, upsampling, argmax and confidence become one graph for one size of picture. The resize to that size
stays outside, since Pillow's antialiased filters have no counterpart there; the metadata say which filter it is.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saot.data import as_written, how_to_install, open_atomic, read_image, read_record
from saot.decoder import CELLS, picture_logits
from saot.deploy.licences import licence_of
from saot.evaluate import interpolation_matrix, on_cells, predict_confidence, predict_mask, upsample_scores
from saot.features import Backbone, Traceable, extract, first_line, patch_grid, resize_image
from saot.label import NO_WINGS, FinishedRun, Wings, open_run, parse_size
from saot.runs import versions

Form = Literal["onnx", "torch"]
FORMS: tuple[Form, ...] = ("onnx", "torch")
Precision = Literal["float32", "int8", "bf16"]
LEAST_EQUAL: dict[Precision, float] = {"float32": 0.999, "int8": 0.9, "bf16": 0.9}  # of the checked pictures' pixels
OF_FORM: dict[str, tuple[Precision, ...]] = {"onnx": ("float32", "int8"), "torch": ("float32", "bf16")}
CHECKED = 4  # pictures of the target, where none are named
LARGEST = 2**31 - 2**24  # bytes of weights: a file of ONNX is one message of at most 2 GiB
OUTPUTS = ("mask", "confidence", "scores")
METADATA = "saot.json"  # inside a file of torch.export
REMADE = "give the `saot run` command that made it again"
Answer = tuple[
    UInt8[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"], Float[np.ndarray, "k rows columns"]
]


@dataclass(frozen=True)
class Comparison:
    """How a file's answers for some pictures differ from those of the run.

    Attributes:
        pictures: How many were labelled by both.
        largest_difference: Of the scores of a pixel.
        equal_pixels: Share of the pixels with the same class, 0 to 1.
        confidence_difference: The largest of a pixel's confidence.
    """

    pictures: int
    largest_difference: float
    equal_pixels: float
    confidence_difference: float


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        metadata: As they are in the file.
        comparison: With the run.
        nbytes: Of the file.
    """

    metadata: dict[str, Any]
    comparison: Comparison
    nbytes: int


class PictureNetwork(nn.Module):
    """A finished run as one module, from the pixels of a picture of one size to its answer.

    Args:
        run: Of one input size, with a backbone that is `Traceable`.
        size: Height and width of the picture, the backbone's input, pixels.
        mask_size: Height and width of the answer, pixels.
        halved: Whether backbone and decoder compute in bfloat16.
    """

    down: Tensor
    across: Tensor
    bias: Tensor

    def __init__(
        self, run: FinishedRun, size: tuple[int, int], mask_size: tuple[int, int], halved: bool = False
    ) -> None:
        super().__init__()
        self.halved = halved
        assert isinstance(run.backbone, Traceable) and not run.further, "asked before"
        self.backbone, self.decoder = run.backbone, run.decoder
        self.network = getattr(run.backbone, "network", None)  # as a part of this module its weights are known as such
        self.grid = replace(patch_grid(run.backbone, *size), image_height=mask_size[0], image_width=mask_size[1])
        parts = run.decoder.subdivision if isinstance(run.decoder, CELLS) else 1
        self.cells = self.grid.subdivide(parts) if parts > 1 else self.grid
        places = (
            (mask_size[0], self.cells.input_height, self.cells.patch_size, self.cells.height),
            (mask_size[1], self.cells.input_width, self.cells.patch_size, self.cells.width),
        )
        for name, place in zip(("down", "across"), places, strict=True):
            self.register_buffer(name, interpolation_matrix(*place).float())
        bias = torch.zeros(len(run.classes.names)) if run.bias is None else run.bias.float().clone()
        self.register_buffer("bias", bias)
        self.eval().requires_grad_(False)

    def forward(self, picture: UInt8[Tensor, "h w 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Class of every pixel (h, w), uint8; its probability (h, w); logits with the bias (K, h, w)."""
        with torch.autocast("cpu", torch.bfloat16) if self.halved else nullcontext():
            tokens = self.backbone.pixel_tokens(picture.float()[None])[0].float()
            if self.backbone.key.l2_norm:
                tokens = nn.functional.normalize(tokens, dim=-1)
            tokens = tokens.half().float()  # as a store keeps them, and `FinishedRun` sees them
            logits = picture_logits(self.decoder, tokens, self.grid.height, self.grid.width)
        logits = logits.float()
        cells = on_cells(logits, self.grid)[0].view(self.cells.height, self.cells.width, -1).permute(2, 0, 1)
        scores = self.down @ ((cells + self.bias[:, None, None]) @ self.across.T)  # weights of a pixel sum to 1
        best, mask = scores.max(0)
        confidence = (scores - best).exp().sum(0).reciprocal()  # of the softmax, whose largest numerator is 1
        return mask.to(torch.uint8), confidence, scores


def export_run(
    folder: Path,
    form: Form,
    out: Path,
    check: Sequence[Path] = (),
    size: str | None = None,
    mask_size: str | None = None,
    wings: Wings = NO_WINGS,
    progress: Callable[[str, int, int], None] | None = None,
    precision: Precision = "float32",
) -> Exported:
    """Write a finished run as one file, once its answers have been compared with the run's.

    Args:
        folder: A finished run of `saot run`, of one input size.
        form: "onnx", or "torch" for a program of `torch.export`.
        out: The file; it is written beside its name and moved into place if it agrees with the run.
        check: Pictures to compare on; the first ones of the run's own target unless given.
        size: HEIGHTxWIDTH of the file's input; what the run resizes the first checked picture to unless given.
        mask_size: HEIGHTxWIDTH of the answer; as the input unless given.
        wings: What the core does not know, such as backbones.
        progress: Called with (stage, done, total).
        precision: "float32"; "int8", of ONNX alone, whose matrix products take weights and tokens of 8 bits; "bf16", of
            torch alone, whose backbone and decoder compute in bfloat16. The last two are other networks: at least 90 %
            of the pixels have to be of the run's class, where float32 asks for 99.9 %.

    Raises:
        ValueError: If the run cannot be written in this form, precision or size, or if the file's answers are others
            than the run's; nothing is left at `out` then.
    """
    check_libraries(form)
    if precision not in OF_FORM[form]:
        raise ValueError(f"expected --precision {' or '.join(OF_FORM[form])} with --to {form}; got {precision}")
    tell = progress or (lambda stage, done, total: None)
    run = exportable(folder, form, wings)
    pictures = _checked_pictures(folder, check, wings)
    first = pictures[0]()
    sides = _input_size(run.backbone, size, first)
    answer = sides if mask_size is None else _two_sides(mask_size, "--mask-size")
    network = PictureNetwork(run, sides, answer, precision == "bf16")
    metadata = {**metadata_of(folder, run, sides, answer), "precision": precision}
    tell("export", 0, 2)
    with open_atomic(out) as file:
        write = _write_onnx if form == "onnx" else _write_torch
        write(network, metadata, file)
        file.flush()
        if precision == "int8":
            _quantise(Path(file.name))
        tell("export", 1, 2)
        place = Path(file.name)
        found = compare(
            run, opened(place, form), pictures, sides, answer, lambda done: tell("check", done, len(pictures))
        )
        least = LEAST_EQUAL[precision]
        if found.equal_pixels < least:
            raise ValueError(
                f"expected at least {least:.1%} of the pixels to be of the run's class; of the {form} file "
                f"{found.equal_pixels:.2%} are, and its scores differ by up to {found.largest_difference:.3g}: {out} "
                f"was not written; try {_other(form, precision)}"
            )
        length = place.stat().st_size
    tell("export", 2, 2)
    return Exported(metadata, found, length)


def _other(form: Form, precision: Precision) -> str:
    if precision != "float32":
        return "--precision float32"
    return f"--to {'torch' if form == 'onnx' else 'onnx'}"


def _quantise(place: Path) -> None:
    """Matrix products of a file of ONNX in 8 bits: weights with a scale a channel, tokens with one each time.

    Weights take 7 of the bits: the sums of processors without VNNI saturate with 8.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(place))
    said = {one.key: one.value for one in model.metadata_props}
    with quiet():
        quantize_dynamic(
            place,
            place,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_upsampling(model.graph),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load(str(place))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, said)
    place.write_bytes(model.SerializeToString())


def _upsampling(graph: Any) -> list[str]:
    """Names of the last two products before the scores; in 8 bits they would move every pixel's scores."""
    maker = {output: node for node in graph.node for output in node.output}
    found: list[str] = []
    node = maker["scores"]
    while len(found) < 2:
        if node.op_type == "MatMul":
            found.append(node.name)
        node = maker[next(name for name in node.input if name in maker)]
    return found


def check_libraries(form: str) -> None:
    """Refuse a form that does not exist or whose libraries are not installed.

    Raises:
        ValueError: Says which, and what to do.
    """
    if form not in FORMS:
        raise ValueError(f"expected a form among {', '.join(FORMS)}; got {form!r}: choose one")
    if form == "torch":
        return
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(f"a file of ONNX needs {missing[0]}, which is not installed; {how_to_install('onnx')}")


def exportable(folder: Path, form: Form, wings: Wings = NO_WINGS) -> FinishedRun:
    """A finished run that can be written as a graph, on the CPU.

    Raises:
        ValueError: If it cannot, and why.
    """
    run = open_run(folder, wings, "cpu")
    if not isinstance(run, FinishedRun):
        raise ValueError(f"expected a run of `saot run`; {folder} is of another kind, which is not exported")
    if run.further:
        raise ValueError(
            f"expected a run of one input size; {folder} joins {1 + len(run.further)}: make one with a single --size"
        )
    key = run.backbone.key
    if key.form != "half":
        raise ValueError(
            f"expected a run on whole features; {folder} has features in the form {key.form}, which no graph has: make "
            "one with --store-form half"
        )
    if not isinstance(run.backbone, Traceable):
        raise ValueError(
            f"expected a backbone that can be written as a graph: filterbank, mobile-sam or a ViT; {folder} has "
            f"{key.backbone}: make a run with one of these"
        )
    if key.precision != "float32":
        raise ValueError(
            f"expected a run in float32, as runtimes compute; {folder} has {key.precision}: make one with "
            "--precision float32"
        )
    return run


def _two_sides(text: str, option: str) -> tuple[int, int]:
    sides = parse_size(text)
    if not isinstance(sides, tuple):
        raise ValueError(f"expected HEIGHTxWIDTH for {option}; got {text!r}")
    return sides


def _input_size(backbone: Backbone, text: str | None, first: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """Height and width of the file's input.

    Raises:
        ValueError: If it is none to which the run brings pictures.
    """
    if text is None:
        return backbone.input_size(first.shape[0], first.shape[1])
    sides = _two_sides(text, "--size")
    own = backbone.input_size(*sides)
    if own != sides:
        raise ValueError(
            f"expected a --size to which the run brings pictures ({backbone.key.size}); got {text}, and a picture of "
            f"this size is brought to {own[0]}x{own[1]}: give that, or leave --size out"
        )
    return sides


def _checked_pictures(
    folder: Path, paths: Sequence[Path], wings: Wings
) -> list[Callable[[], UInt8[np.ndarray, "h w 3"]]]:
    """How to read each picture that file and run are compared on; the first can be read.

    Raises:
        ValueError: If there is none.
    """
    if paths:
        return [lambda path=path: read_image(path) for path in paths]
    record = Path(folder) / "run.json"
    with as_written(record, REMADE):
        target = str(read_record(record, REMADE)["target"])
    try:
        images = wings.images(target)
        found = [lambda number=number: images.image(number) for number in range(min(CHECKED, len(images)))]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the run's own pictures {target} cannot be read ({first_line(error)}); give --check"
        ) from error
    if not found:
        raise ValueError(f"expected pictures to compare on; {target} has none: give --check")
    return found


def metadata_of(folder: Path, run: FinishedRun, size: tuple[int, int], mask_size: tuple[int, int]) -> dict[str, Any]:
    """What a file says of itself, to be kept as JSON."""
    record = Path(folder) / "run.json"
    with as_written(record, REMADE):
        written = read_record(record, REMADE)
        data, made = written["data"], written["versions"].get("saot")
    key = run.backbone.key
    return {
        "classes": list(run.classes.names),
        "colors": [list(color) for color in run.classes.colors],
        "label_budget": run.label_budget,
        "backbone": key.backbone,
        "backbone_licence": licence_of(key.backbone) or "unknown",
        "backbone_weights_sha256": key.weights_sha256,
        "input": {"name": "picture", "type": "uint8", "layout": "height, width, RGB", "size": list(size)},
        "resize": key.resize,
        "outputs": list(OUTPUTS),
        "mask_size": list(mask_size),
        "saot": versions(["saot"])["saot"],
        "run": {"saot": made, "data": data},
    }


def _traced(network: PictureNetwork) -> Any:
    """The module as a program of `torch.export`."""
    height, width = network.grid.input_height, network.grid.input_width
    example = torch.zeros(height, width, 3, dtype=torch.uint8)
    with torch.enable_grad():  # backbones go through their maps whole then, not in strips and in place
        return torch.export.export(network, (example,), strict=False)


def _write_onnx(network: PictureNetwork, metadata: dict[str, Any], file: Any) -> None:
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if weights > LARGEST:
        raise ValueError(
            f"expected weights of at most 2 GiB, as one file of ONNX holds; these have {weights / 2**30:.1f}: "
            "give --to torch"
        )
    with quiet():
        program: Any = torch.onnx.export(
            _traced(network),
            dynamo=True,
            external_data=False,
            input_names=["picture"],
            output_names=list(OUTPUTS),
            verbose=False,
        )
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    file.write(program.model_proto.SerializeToString())


def _write_torch(network: PictureNetwork, metadata: dict[str, Any], file: Any) -> None:
    with quiet():
        torch.export.save(_traced(network), file, extra_files={METADATA: json.dumps(metadata)})


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of exporters, which are for whoever writes them."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "")  # onnxruntime takes the root
    loggers = [logging.getLogger(name) for name in names]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def opened(
    path: Path, form: Form, threads: int = 0, outputs: Sequence[str] = OUTPUTS
) -> Callable[[UInt8[np.ndarray, "h w 3"]], tuple[np.ndarray, ...]]:
    """A written file, ready to label pictures of its input size.

    Args:
        path: The file.
        form: As it was written.
        threads: Of onnxruntime; 0 leaves it the choice. torch has its own.
        outputs: What the answer holds, in this order; a program of torch computes all of it anyway.
    """
    if form == "torch":
        with io.BytesIO(path.read_bytes()) as data:  # by its name it would have to end in .pt2
            network = torch.export.load(data).module()

        def label(picture: UInt8[np.ndarray, "h w 3"]) -> tuple[np.ndarray, ...]:
            with torch.inference_mode():
                answer: dict[str, Tensor] = dict(
                    zip(OUTPUTS, network(torch.from_numpy(np.array(picture))), strict=True)
                )
            return tuple(answer[name].numpy() for name in outputs)

        return label
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3  # errors alone
    session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda picture: tuple(session.run(list(outputs), {"picture": picture}))


def answer_of(run: FinishedRun, picture: UInt8[np.ndarray, "h w 3"], mask_size: tuple[int, int]) -> Answer:
    """What the run itself says of a picture of its input size, as a file does."""
    features = extract(run.backbone, picture, "")
    grid = replace(features.grid, image_height=mask_size[0], image_width=mask_size[1])
    logits = run.logits_of([features])
    mask, confidence = predict_mask(logits, grid, run.bias), predict_confidence(logits, grid, run.bias)
    scores = upsample_scores(logits, grid)
    scores = scores if run.bias is None else scores + run.bias.to(scores)[:, None, None]
    return mask.numpy(), confidence.numpy(), scores.numpy()


def compare(
    run: FinishedRun,
    label: Callable[[UInt8[np.ndarray, "h w 3"]], tuple[np.ndarray, ...]],
    pictures: Sequence[Callable[[], UInt8[np.ndarray, "h w 3"]]],
    size: tuple[int, int],
    mask_size: tuple[int, int],
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """How a file's answers for pictures, brought to its size, differ from those of the run."""
    equal, pixels, scores, confidence = 0, 0, 0.0, 0.0
    for number, read in enumerate(pictures):
        picture = resize_image(read(), size, run.backbone.key.resize)
        mine, theirs = answer_of(run, picture, mask_size), label(picture)
        equal, pixels = equal + int((mine[0] == theirs[0]).sum()), pixels + mine[0].size
        confidence, scores = (
            max(before, float(np.abs(mine[k] - theirs[k]).max())) for before, k in ((confidence, 1), (scores, 2))
        )
        progress(number + 1)
    return Comparison(len(pictures), scores, equal / pixels, confidence)
