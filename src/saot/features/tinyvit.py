"""MobileSAM's image encoder: a TinyViT of five million parameters and SAM's neck, frozen or trained further.

Written from the architecture: a convolutional stem (stride 4), one stage of inverted bottlenecks, three
stages of windowed attention (each block: attention, a 3x3 depthwise convolution, an MLP), merging layers of
stride 2, 2 and 1 between them, and a neck of two convolutions with channel normalisation. 1024x1024 pixels
in, 64x64 tokens of 256 numbers out. Every batch normalisation, and the affine part of every layer
normalisation before a linear layer, is folded into the weights when they are read, so the network below has
none of them. Trained further (features/encoders.py), it is thus a network whose batch normalisation is frozen.

Without gradients, maps are worked through in strips and in place; with them, whole and out of place.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import Tensor, nn

from saot.data import sha256_file, write_atomic
from saot.features.base import FeatureSettings, InputSize, Keyed, Padded, check_size, fit_size, pixels_on
from saot.features.grid import FeatureKey
from saot.features.published import WeightReader, read_weights

_WIDTHS = (64, 128, 160, 320)  # channels of each stage
_DEPTHS = (2, 2, 6, 2)
_HEADS = (2, 4, 5, 10)  # of the first stage unused: it has no attention
_WINDOWS = (7, 7, 14, 7)  # tokens a side
_MERGE_STRIDES = (2, 2, 1)  # SAM wants 64x64 tokens, so the last merge keeps the size
_HEAD_DIM = 32
_PATCH = 16
_LONG_SIDE = 1024
_NECK_WIDTH = 256
_STRIP_NUMBERS = 2**19  # 2 MB of float32
_STAGES = ("stage0", "stage1", "stage2", "stage3")
_EARLY = "stage1"  # the layer before the tail
TAIL_WINDOW = 7  # tokens a side: windows of attention of the tail are of one or two of them
_WIDTH_OF = {"stage0": 128, "stage1": 160, "stage2": 320, "stage3": 320, "neck": _NECK_WIDTH}
_PREFIX = "image_encoder."  # of the encoder in the file of the whole of MobileSAM
PIXEL_MEAN = (123.675, 116.28, 103.53)  # of 0-255 RGB, as published
PIXEL_DEVIATION = (58.395, 57.12, 57.375)


class MobileSam(Keyed):
    """MobileSAM's image encoder as a `Backbone`.

    The published pre-processing is the default: long side to 1024 (bilinear), mean and deviation, zeros right
    and below up to a square. Tokens wholly in that padding are dropped. With `pad=False` the sides are
    rounded to multiples of 16 and nothing is padded, which saves time on wide pictures and gives slightly
    other tokens, since windows and convolutions no longer see the zeros. An explicit `(height, width)` is fed
    as it is, never padded.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.device, self.concurrent = settings.device, settings.device == "cpu"
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        size = _LONG_SIDE if settings.size is None else settings.size
        padded = isinstance(size, Padded)
        self._size: InputSize = size.side if isinstance(size, Padded) else size  # its own long side is padded, too
        layers = settings.layers or ("neck",)
        unknown = [layer for layer in layers if layer not in (*_STAGES, "neck")]
        if unknown:
            raise ValueError(f"mobile-sam has no layer {unknown[0]!r}; choose among {', '.join(_STAGES)}, neck")
        if settings.final_norm is not None and settings.final_norm != ("neck" in layers):
            raise ValueError(
                f"final_norm={settings.final_norm} does not fit the layers {', '.join(layers)} of "
                "mobile-sam: its neck ends in a norm and its stages have none; leave the setting out"
            )
        if settings.weights is None:
            raise ValueError("mobile-sam needs its weights; pass --weights PATH of the published mobile_sam.pt")
        self._path = path = Path(settings.weights)
        self.network = TinyViT()
        self.network.load_published(read_weights(path))
        self.network.eval().requires_grad_(False).to(settings.device, dtype)
        size_text = check_size(self._size, _PATCH)
        self._key = FeatureKey(
            backbone="mobile-sam",
            weights_sha256=sha256_file(path),
            size=size_text,
            layers=layers,
            final_norm="neck" in layers,
            l2_norm=settings.l2_norm,
            pad=padded or (settings.pad and isinstance(self._size, int)),
            patch_size=_PATCH,
            dim=sum(_WIDTH_OF[layer] for layer in layers),
            resize="pillow-bilinear",
            pixel_mean=PIXEL_MEAN,
            pixel_deviation=PIXEL_DEVIATION,
            precision=settings.precision,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(_WIDTH_OF[layer] for layer in self._key.layers)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        size = Padded(self._size) if self._key.pad and isinstance(self._size, int) else self._size
        return fit_size(height, width, size, _PATCH)

    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        return self.batch_tokens(image[None])[0]

    @torch.no_grad()
    def batch_tokens(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """`tokens` of several pictures at once."""
        return self.network_tokens(images).float().to("cpu")

    def network_tokens(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """`tokens` of several pictures, on the network's device, in its precision and with its gradient."""
        return self.pixel_tokens(pixels_on(images, self.device))

    def pixel_tokens(self, pixels: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """See `saot.features.Traceable`."""
        height, width = pixels.shape[1:3]
        rows, columns = -(-height // _PATCH), -(-width // _PATCH)
        pixels = self.normalised(pixels)
        side = max(rows, columns) * _PATCH
        if self._key.pad and (height, width) != (side, side):
            pixels = F.pad(pixels, (0, 0, 0, side - width, 0, side - height))
        last = max(self._key.layers, key=(*_STAGES, "neck").index)
        outputs = self.network(pixels.to(self.network.neck.convs[0].weight.dtype), last)  # type: ignore[union-attr,index]
        grid = pixels.shape[1] // _PATCH, pixels.shape[2] // _PATCH
        chosen = [_to_grid(outputs[layer], grid)[:, :rows, :columns] for layer in self._key.layers]
        return torch.cat(chosen, -1).flatten(1, 2)

    def early(self) -> "MobileSam":
        """The same network up to its tail: tokens as they are, of whatever length. See `saot.features.Divided`."""
        found = copy.copy(self)
        found._key = replace(self._key, layers=(_EARLY,), final_norm=False, l2_norm=False, dim=_WIDTH_OF[_EARLY])
        return found

    def tail(self) -> "TinyVitTail":
        """A copy of what stands behind the layers of `early`, to be trained further."""
        found = TinyVitTail()
        found.load_state_dict({name: part.float() for name, part in self._tail_state().items()})
        return found.requires_grad_(True).to(self.device)

    def _tail_state(self) -> dict[str, Tensor]:
        parts = tail_parts(self.network)
        return {name: part.detach().cpu() for name, part in nn.ModuleList(parts).state_dict(prefix="parts.").items()}

    @property
    def attention_blocks(self) -> list[nn.Module]:
        """Its blocks that have attention, first to last."""
        return [block for stage in self.network.stages[1:] for block in stage]  # type: ignore[union-attr]

    def save(self, place: Path) -> Path:
        """Write the network as it is now, with all else its file had: `place` with the suffix `.safetensors`."""
        place = place.with_suffix(".safetensors")
        state = self.network.published(read_weights(self._path))
        write_atomic(place, save({name: value.contiguous() for name, value in state.items()}))
        return place


class TinyViT(nn.Module):
    """The network. Maps are `(batch, height, width, channels)` throughout, channels-last for convolutions.

    Args:
        neck: Whether it has the neck; without, the weights of a published one are passed over.
    """

    def __init__(self, neck: bool = True) -> None:
        super().__init__()
        self.stem = nn.ModuleList([_conv(3, 32, 3, 2), _conv(32, _WIDTHS[0], 3, 2)])
        self.stages = nn.ModuleList(
            nn.ModuleList(
                _Inverted(_WIDTHS[0], 4 * _WIDTHS[0], _WIDTHS[0], 1, True)
                if stage == 0
                else _Block(_WIDTHS[stage], _HEADS[stage], _WINDOWS[stage])
                for _ in range(_DEPTHS[stage])
            )
            for stage in range(4)
        )
        self.merges = nn.ModuleList(
            _Inverted(_WIDTHS[stage], _WIDTHS[stage + 1], _WIDTHS[stage + 1], _MERGE_STRIDES[stage], False)
            for stage in range(3)
        )
        self.neck = _Neck(_WIDTHS[3], _NECK_WIDTH) if neck else None

    def forward(self, x: Float[Tensor, "b h w 3"], last: str = "neck") -> dict[str, Tensor]:
        """Outputs of the stem, of each stage after its merging layer, and of the neck if any, by name.

        Args:
            x: Normalised pixels; both sides multiples of 16.
            last: The stage that is the last to be computed.
        """
        x = _apply(self.stem[1], F.gelu(_apply(self.stem[0], x)))
        outputs = {"stem": x}
        for stage, blocks in enumerate(self.stages):
            for block in blocks:  # type: ignore[union-attr]
                x = block(x)
            if stage < 3:
                x = self.merges[stage](x)
            outputs[_STAGES[stage]] = x
            if _STAGES[stage] == last:
                return outputs
        if self.neck is not None:
            outputs["neck"] = self.neck(x)
        return outputs

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Fill the network from the published state dict.

        Args:
            state: Of the whole of MobileSAM (`image_encoder.` before each name) or of its encoder alone.

        Raises:
            ValueError: If a tensor is missing, has another shape, or does not belong to this encoder.
        """
        if any(name.startswith(_PREFIX) for name in state):
            state = {name[len(_PREFIX) :]: value for name, value in state.items() if name.startswith(_PREFIX)}
        reader = WeightReader(state, "MobileSAM", "the published mobile_sam.pt")
        reader.fill_conv(self.stem[0], "patch_embed.seq.0")
        reader.fill_conv(self.stem[1], "patch_embed.seq.2")
        for stage, blocks in enumerate(self.stages):
            for number, block in enumerate(blocks):  # type: ignore[arg-type]
                block.read(reader, f"layers.{stage}.blocks.{number}")
            if stage < 3:
                self.merges[stage].read(reader, f"layers.{stage}.downsample")  # type: ignore[operator]
        if self.neck is not None:
            self.neck.read(reader, "neck")
        passed_over = ("norm_head.", "head.")  # the classifier TinyViT was distilled with
        reader.finish(ignore=passed_over if self.neck is not None else (*passed_over, "neck."))

    @torch.no_grad()
    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published state dict with the weights of this network's attention blocks.

        A linear layer whose weight is not what `state` gives is written as it is here: with the affine part of the
        layer normalisation before it folded in, which then is 1 and 0. So `load_published` of the answer has the
        numbers of this network, if nothing but such weights was changed. All else stays as it is in `state`.

        Args:
            state: What the network was filled from.
        """
        found, before = dict(state), TinyViT(self.neck is not None)
        before.load_published(state)
        prefix = _PREFIX if any(name.startswith(_PREFIX) for name in state) else ""
        for stage in (1, 2, 3):
            for number, (block, old) in enumerate(zip(self.stages[stage], before.stages[stage], strict=True)):  # type: ignore[arg-type]
                block.write(found, f"{prefix}layers.{stage}.blocks.{number}", old)
        return found


def tail_parts(network: TinyViT) -> list[nn.Module]:
    """What stands behind the early layers, in order: stages 2 and 3 with the merging layer between, and the neck."""
    assert network.neck is not None
    first, second = (list(stage) for stage in (network.stages[2], network.stages[3]))  # type: ignore[arg-type]
    return [*first, network.merges[2], *second, network.neck]


class TinyVitTail(nn.Module):
    """Stages 2 and 3 of the network and its neck, as a module of their own.

    Attributes:
        dim: Numbers of a token that it is given.
        out: Numbers of a token that it answers with.
        window: Tokens along each side of the smaller windows of its attention.
    """

    kind = "mobile-sam"
    dim, out, window = _WIDTH_OF[_EARLY], _NECK_WIDTH, TAIL_WINDOW

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(tail_parts(TinyViT()))

    def forward(self, x: Float[Tensor, "b rows columns d"]) -> Float[Tensor, "b rows columns out"]:
        """The neck's maps of early ones, with their gradient."""
        for part in self.parts:
            x = part(x)
        return x


class _Inverted(nn.Module):
    """Widen by a 1x1 convolution, depthwise 3x3 with stride, mix by a 1x1 convolution; activations between.

    A bottleneck also adds its input and activates the sum; a merging layer does not.
    """

    def __init__(self, width: int, hidden: int, out: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.widen = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=(0, 1), groups=hidden)
        self.mix = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        stride = self.depthwise.stride[0]
        rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
        if torch.is_grad_enabled():
            return self._rows(x, 0, rows)
        out = x.new_empty(batch, rows, columns, self.mix.out_features)
        for first, last in _strips(rows, stride * width * self.widen.out_features, x):
            out[:, first:last] = self._rows(x, first, last)
        return out

    def _rows(self, x: Tensor, first: int, last: int) -> Tensor:
        """Rows `first` to `last`, exclusive, of the answer."""
        height, stride = x.shape[1], self.depthwise.stride[0]
        top, bottom = first * stride - 1, (last - 1) * stride + 2  # of the rows the 3x3 kernel needs
        hidden = F.gelu(self.widen(x[:, max(top, 0) : bottom]))
        if top < 0 or bottom > height:
            hidden = F.pad(hidden, (0, 0, 0, 0, max(-top, 0), max(bottom - height, 0)))
        hidden = self.mix(F.gelu(_apply(self.depthwise, hidden)))
        return F.gelu(x[:, first:last] + hidden) if self.shortcut else hidden

    def read(self, reader: WeightReader, name: str) -> None:
        for layer, part in ((self.widen, "conv1"), (self.depthwise, "conv2"), (self.mix, "conv3")):
            reader.fill_conv(layer, f"{name}.{part}")


class _Block(nn.Module):
    """x + attention(x), then a depthwise convolution without shortcut, then x + mlp(x)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attention = _WindowAttention(width, heads, window)
        self.local = _conv(width, width, 3, groups=width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = _apply(self.local, self.attention(x))
        if torch.is_grad_enabled():
            return x + self._mlp(x)
        for first, last in _strips(x.shape[1], x.shape[2] * self.widen.out_features, x):
            strip = x[:, first:last]
            strip += self._mlp(strip)
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(F.layer_norm(x, x.shape[-1:]))))

    def read(self, reader: WeightReader, name: str) -> None:
        self.attention.read(reader, f"{name}.attn")
        reader.fill_conv(self.local, f"{name}.local_conv")
        reader.fill_normed_linear(self.widen, f"{name}.mlp.norm", f"{name}.mlp.fc1")
        reader.fill(self.narrow.weight, f"{name}.mlp.fc2.weight")
        reader.fill(self.narrow.bias, f"{name}.mlp.fc2.bias")

    def write(self, state: dict[str, Tensor], name: str, old: "_Block") -> None:
        """Put the weights of linear layers that are not as in `old` into a published state dict."""
        layers = {
            ("attn.qkv", "attn.norm"): (self.attention.project_in, old.attention.project_in),
            ("attn.proj", None): (self.attention.project_out, old.attention.project_out),
            ("mlp.fc1", "mlp.norm"): (self.widen, old.widen),
            ("mlp.fc2", None): (self.narrow, old.narrow),
        }
        for (part, norm), (now, then) in layers.items():
            weight = now.weight.detach().float().cpu()
            if torch.equal(weight, then.weight):
                continue
            if norm is not None:  # in double precision, so that the same file comes out each time
                shift = state[f"{name}.{part}.weight"].double() @ state[f"{name}.{norm}.bias"].double()
                state[f"{name}.{part}.bias"] = (state[f"{name}.{part}.bias"].double() + shift).float()
                state[f"{name}.{norm}.weight"] = torch.ones(now.in_features)
                state[f"{name}.{norm}.bias"] = torch.zeros(now.in_features)
            state[f"{name}.{part}.weight"] = _heads_first(weight) if part == "attn.qkv" else weight


class _WindowAttention(nn.Module):
    """x + attention inside windows, with a learned bias for each head and each |dy|, |dx|.

    Windows that reach over the edge are filled with tokens that are zero before the layer normalisation, and
    those take part as keys: that is how the network was trained, so they are not masked. After the fold such a
    token is the bias of the projection, whence queries, keys and values are computed for real tokens alone and
    filled with it.

    Attributes:
        positions: `(heads, window**2)`, the learned biases, |dy| * window + |dx| along the second axis.
    """

    index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.project_in = nn.Linear(width, 3 * heads * _HEAD_DIM)
        self.project_out = nn.Linear(heads * _HEAD_DIM, width)
        self.positions = nn.Parameter(torch.zeros(heads, window**2))
        place = torch.arange(window)
        offset = (place[:, None] - place[None, :]).abs()
        index = offset[:, None, :, None] * window + offset[None, :, None, :]  # (y, x, y', x')
        self.register_buffer("index", index.flatten(), persistent=False)

    @property
    def bias(self) -> Tensor:
        """`(heads, window**2, window**2)`: of each pair of tokens of a window."""
        return self.positions.index_select(1, self.index).unflatten(1, (self.window**2, -1))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if torch.is_grad_enabled():
            return x + self._attend(x, bias)
        out = torch.empty_like(x)
        windows = -(-x.shape[1] // self.window)
        for first, last in _strips(windows, self.window * x.shape[2] * self.project_in.out_features, x):
            rows = slice(first * self.window, last * self.window)
            out[:, rows] = x[:, rows] + self._attend(x[:, rows], bias)
        return out

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attention of one or more whole rows of windows; only the last row may be incomplete."""
        batch, height, width, _ = x.shape
        side = self.window
        down, across = -(-height // side), -(-width // side)
        x = F.layer_norm(x, x.shape[-1:])
        full = (down * side, across * side) == (height, width)
        if not full and torch.compiler.is_exporting():  # what is filled in place is copied whole in ONNX
            x, full = F.pad(x, (0, 0, 0, across * side - width, 0, down * side - height)), True  # of zeros: the bias
        qkv = self.project_in(x)
        if not full:
            filled = self.project_in.bias.to(qkv.dtype).expand(batch, down * side, across * side, -1).contiguous()
            filled[:, :height, :width] = qkv
            qkv = filled
        qkv = qkv.view(batch, down, side, across, side, 3, self.heads, _HEAD_DIM).permute(5, 0, 1, 3, 6, 2, 4, 7)
        query, key, value = qkv.reshape(3, -1, self.heads, side * side, _HEAD_DIM).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        out = out.view(batch, down, across, self.heads, side, side, _HEAD_DIM).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(batch, down * side, across * side, -1)[:, :height, :width]
        return self.project_out(out)

    def read(self, reader: WeightReader, name: str) -> None:
        reader.fill_normed_linear(self.project_in, f"{name}.norm", f"{name}.qkv", _heads_last)
        reader.fill(self.project_out.weight, f"{name}.proj.weight")
        reader.fill(self.project_out.bias, f"{name}.proj.bias")
        reader.fill(self.positions, f"{name}.attention_biases")


class _Neck(nn.Module):
    """1x1 and 3x3 convolution, each followed by a layer normalisation over channels."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_conv(width, out, 1, bias=False), _conv(out, out, 3, bias=False)])
        self.norms = nn.ModuleList([nn.LayerNorm(out, eps=1e-6), nn.LayerNorm(out, eps=1e-6)])

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(_apply(conv, x))
        return x

    def read(self, reader: WeightReader, name: str) -> None:
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            reader.fill(conv.weight, f"{name}.{2 * number}.weight")  # type: ignore[arg-type]
            reader.fill(norm.weight, f"{name}.{2 * number + 1}.weight")  # type: ignore[arg-type]
            reader.fill(norm.bias, f"{name}.{2 * number + 1}.bias")  # type: ignore[arg-type]


def _conv(width: int, out: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    conv = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _apply(conv: nn.Module, x: Tensor) -> Tensor:
    """Convolution of a (batch, height, width, channels) map."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A stage's map on the grid of the neck, by means over whole cells."""
    if tuple(x.shape[1:3]) == grid:
        return x
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)


def _strips(rows: int, numbers: int, x: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose widest intermediate (`numbers` a row) stays in the processor's cache.

    Whole maps of this network are tens of megabytes: on a CPU most of the time would go to fetching fresh
    memory for them. A GPU takes all rows at once.
    """
    step = rows if x.device.type != "cpu" else max(1, _STRIP_NUMBERS // (numbers * x.shape[0]))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _heads_last(rows: Tensor) -> Tensor:
    """Rows ordered by (head, query/key/value, dim), as published, to (query/key/value, head, dim)."""
    return rows.unflatten(0, (-1, 3, _HEAD_DIM)).transpose(0, 1).flatten(0, 2)


def _heads_first(rows: Tensor) -> Tensor:
    """`_heads_last` undone."""
    return rows.unflatten(0, (3, -1, _HEAD_DIM)).transpose(0, 1).flatten(0, 2)
