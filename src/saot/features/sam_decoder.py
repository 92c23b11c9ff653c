"""Segment Anything's prompt encoder and mask decoder, as MobileSAM publishes them, for inference.

Written from the architecture (Kirillov et al., "Segment Anything", 2023, appendix A). Points and boxes become
tokens: random Fourier features of the place, and a learned vector for what the place is. Together with one
token that will say how good the masks are and four that will draw one each, they pass a transformer of two
layers in which tokens look at the picture and the picture at the tokens. Then the picture is upscaled four
times, and each mask token, through a small network of its own, says which direction in feature space is its
mask. Of the four masks the first answers unambiguous prompts and the other three ambiguous ones (whole, part,
subpart).

The picture is 64 x 64 tokens of 256 numbers, of a square of 1024 x 1024 pixels (the frame).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from saot.features.published import WeightReader

FRAME = 1024  # pixels a side of what the networks see
TOKENS = 64  # tokens a side
LOGITS = 256  # pixels a side of a mask as the network draws it
NUM_MASKS = 4  # the first for unambiguous prompts, then three for ambiguous ones

_WIDTH = 256
_HEADS = 8
_HIDDEN = 2048  # of the transformer's MLPs
_FINE = (64, 32)  # channels after each of the two upscalings
_BACKGROUND, _FOREGROUND, _CORNER, _OPPOSITE, _NOTHING = range(5)  # what a prompt token may be


class SamDecoder(nn.Module):
    """From a picture's embedding and prompts to mask logits; the weights come from `load_published`."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = _PromptEncoder()
        self.quality_token = nn.Parameter(torch.zeros(1, _WIDTH))
        self.mask_tokens = nn.Parameter(torch.zeros(NUM_MASKS, _WIDTH))
        self.layers = nn.ModuleList([_TwoWay(first=True), _TwoWay(first=False)])
        self.last_look = _Attention(_WIDTH // 2)
        self.last_norm = nn.LayerNorm(_WIDTH)
        self.upscale = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) for a, b in ((_WIDTH, _FINE[0]), _FINE)])
        self.upscale_norm = nn.LayerNorm(_FINE[0], eps=1e-6)
        self.directions = nn.ModuleList(_mlp(_FINE[1]) for _ in range(NUM_MASKS))
        self.quality = _mlp(NUM_MASKS)

    def forward(
        self,
        embedding: Float[Tensor, "64 64 256"],
        points: Float[Tensor, "p k 2"],
        labels: Int[Tensor, "p k"],
        boxes: Float[Tensor, "p b 4"],
    ) -> tuple[Float[Tensor, "p 4 256 256"], Float[Tensor, "p 4"]]:
        """Logits and predicted IoU of four masks for each of p prompts on one picture.

        Args:
            embedding: Of the picture: the neck's output, as it is.
            points: Places (x, y), pixels of the frame.
            labels: 1 for a place on the object, 0 for one beside it.
            boxes: None or one for each prompt (b is 0 or 1): left, top, right, bottom, pixels of the frame.

        Returns:
            Logits at a quarter of the frame's resolution, positive on the object; predicted IoU, about 0 to 1.
        """
        tokens, image = self.attend(embedding, self.prompts(points, labels, boxes))
        return self.draw(tokens, image), self.predicted_iou(tokens)

    def attend(
        self, embedding: Float[Tensor, "64 64 256"], prompts: Float[Tensor, "p t 256"]
    ) -> tuple[Float[Tensor, "p s 256"], Float[Tensor, "p 4096 256"]]:
        """Tokens (quality, masks, prompts) and picture after they have looked at each other."""
        outputs = torch.cat([self.quality_token, self.mask_tokens]).expand(len(prompts), -1, -1)
        names = torch.cat([outputs, prompts], dim=1)  # is added again wherever tokens are compared
        image = (embedding + self.prompts.no_mask).view(1, TOKENS**2, _WIDTH)
        place = self.prompts.picture_places()
        tokens = names
        for layer in self.layers:
            tokens, image = layer(tokens, image, names, place)
        return self.last_norm(tokens + self.last_look(tokens + names, image + place, image)), image

    def predicted_iou(self, tokens: Float[Tensor, "p s 256"]) -> Float[Tensor, "p 4"]:
        """How well the network thinks each of its masks fits the object."""
        return self.quality(tokens[:, 0])

    def draw(
        self, tokens: Float[Tensor, "p s 256"], image: Float[Tensor, "p 4096 256"]
    ) -> Float[Tensor, "p 4 256 256"]:
        """Logits of the four masks."""
        fine = self.upscale[0](image.transpose(1, 2).unflatten(2, (TOKENS, TOKENS)))
        fine = F.gelu(self.upscale_norm(fine.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        fine = F.gelu(self.upscale[1](fine))
        directions = torch.stack([net(tokens[:, 1 + i]) for i, net in enumerate(self.directions)], dim=1)
        return (directions @ fine.flatten(2)).unflatten(2, (LOGITS, LOGITS))

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Fill the network from the published state dict of the whole of MobileSAM.

        Of its tensors `prompt_encoder.mask_downscaling.`, which reads a mask given as prompt, is left out, and
        `image_encoder.`, which `TinyViT` reads.

        Raises:
            ValueError: If a tensor is missing, has another shape, or does not belong to MobileSAM.
        """
        reader = WeightReader(state, "MobileSAM", "the published mobile_sam.pt, all of it")
        self.prompts.read(reader)
        reader.fill(self.quality_token, "mask_decoder.iou_token.weight")
        reader.fill(self.mask_tokens, "mask_decoder.mask_tokens.weight")
        for number, layer in enumerate(self.layers):
            layer.read(reader, f"mask_decoder.transformer.layers.{number}")  # type: ignore[operator]
        self.last_look.read(reader, "mask_decoder.transformer.final_attn_token_to_image")
        _read(reader, self.last_norm, "mask_decoder.transformer.norm_final_attn")
        for module, number in ((self.upscale[0], 0), (self.upscale_norm, 1), (self.upscale[1], 3)):
            _read(reader, module, f"mask_decoder.output_upscaling.{number}")
        for number, net in enumerate(self.directions):
            _read_mlp(reader, net, f"mask_decoder.output_hypernetworks_mlps.{number}")
        _read_mlp(reader, self.quality, "mask_decoder.iou_prediction_head")
        reader.finish(ignore=("image_encoder.", "prompt_encoder.mask_downscaling."))


class _PromptEncoder(nn.Module):
    """Places and what they are, as tokens; places of the picture's own tokens; "no mask was given"."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(2, _WIDTH // 2))
        self.kinds = nn.Parameter(torch.zeros(5, _WIDTH))
        self.no_mask = nn.Parameter(torch.zeros(1, _WIDTH))

    def forward(
        self, points: Float[Tensor, "p k 2"], labels: Int[Tensor, "p k"], boxes: Float[Tensor, "p b 4"]
    ) -> Float[Tensor, "p t 256"]:
        """A token a point and two a box; without a box also one that says "nothing here", as in training."""
        corners = boxes.flatten(1).unflatten(1, (-1, 2))
        corner_kinds = torch.tensor([_CORNER, _OPPOSITE], device=labels.device).repeat(boxes.shape[1])
        tokens = torch.cat([self._places(points + 0.5), self._places(corners + 0.5)], dim=1)  # pixel centres
        tokens = tokens + self.kinds[torch.cat([labels.long(), corner_kinds.expand(len(boxes), -1)], dim=1)]
        if boxes.shape[1]:
            return tokens
        nothing = self.kinds[_NOTHING].expand(len(points), 1, -1)  # without a place
        return torch.cat([tokens, nothing], dim=1)

    def picture_places(self) -> Float[Tensor, "4096 256"]:
        """Fourier features of the centre of each of the picture's tokens, row by row."""
        centres = (torch.arange(TOKENS, device=self.frequencies.device) + 0.5) * (FRAME / TOKENS)
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        return self._places(torch.stack([columns, rows], dim=-1).flatten(0, 1))

    def _places(self, x_y: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 256"]:
        """Sines and cosines of 2 pi B u, with u from -1 to 1 over the frame and B random, drawn once in training."""
        angles = 2 * math.pi * ((2 / FRAME * x_y - 1) @ self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def read(self, reader: WeightReader) -> None:
        with torch.no_grad():
            name = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
            self.frequencies.copy_(reader.take(name, tuple(self.frequencies.shape)))
            names = [f"point_embeddings.{kind}" for kind in range(_NOTHING)] + ["not_a_point_embed"]
            kinds = [reader.take(f"prompt_encoder.{name}.weight", (1, _WIDTH)) for name in names]
            self.kinds.copy_(torch.cat(kinds))
        reader.fill(self.no_mask, "prompt_encoder.no_mask_embed.weight")


class _TwoWay(nn.Module):
    """Tokens look at each other, then at the picture, think, and the picture looks at them."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.among_tokens = _Attention(_WIDTH)
        self.to_picture = _Attention(_WIDTH // 2)
        self.widen, self.narrow = nn.Linear(_WIDTH, _HIDDEN), nn.Linear(_HIDDEN, _WIDTH)
        self.to_tokens = _Attention(_WIDTH // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, names: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments and results as in `SamDecoder.attend`; a picture of batch 1 serves all prompts."""
        if self.first:  # tokens are still equal to their names, and are replaced, not added to
            tokens = self.among_tokens(tokens, tokens, tokens)
        else:
            tokens = tokens + self.among_tokens(tokens + names, tokens + names, tokens)
        tokens = self.norms[0](tokens)
        tokens = self.norms[1](tokens + self.to_picture(tokens + names, image + place, image))
        tokens = self.norms[2](tokens + self.narrow(F.relu(self.widen(tokens))))
        image = self.norms[3](image + self.to_tokens(image + place, tokens + names, tokens))
        return tokens, image

    def read(self, reader: WeightReader, name: str) -> None:
        self.among_tokens.read(reader, f"{name}.self_attn")
        self.to_picture.read(reader, f"{name}.cross_attn_token_to_image")
        self.to_tokens.read(reader, f"{name}.cross_attn_image_to_token")
        _read(reader, self.widen, f"{name}.mlp.lin1")
        _read(reader, self.narrow, f"{name}.mlp.lin2")
        for number, norm in enumerate(self.norms, 1):
            _read(reader, norm, f"{name}.norm{number}")


class _Attention(nn.Module):
    """Multi-head attention of inner width `width`; a batch of 1 on one side serves all of the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, width) for _ in range(3))
        self.out = nn.Linear(width, _WIDTH)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch = max(len(query), len(key))
        parts = ((self.query, query), (self.key, key), (self.value, value))
        heads = [layer(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2).expand(batch, -1, -1, -1) for layer, x in parts]
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def read(self, reader: WeightReader, name: str) -> None:
        for layer, part in ((self.query, "q"), (self.key, "k"), (self.value, "v"), (self.out, "out")):
            _read(reader, layer, f"{name}.{part}_proj")


def _mlp(out: int) -> nn.Sequential:
    """Three linear layers with activations between."""
    return nn.Sequential(
        nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, out)
    )


def _read_mlp(reader: WeightReader, net: nn.Module, name: str) -> None:
    assert isinstance(net, nn.Sequential)
    for number in range(3):
        _read(reader, net[2 * number], f"{name}.layers.{number}")


def _read(reader: WeightReader, module: nn.Module, name: str) -> None:
    """Weight and bias of a layer."""
    assert isinstance(module.weight, Tensor) and isinstance(module.bias, Tensor)
    reader.fill(module.weight, f"{name}.weight")
    reader.fill(module.bias, f"{name}.bias")
