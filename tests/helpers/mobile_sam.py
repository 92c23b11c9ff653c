"""Weights of MobileSAM's names and shapes, random and published."""

from pathlib import Path
from typing import Any

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "weights"


def shared_weights(name: str) -> Path:
    """A file of the published weights; whoever asks is skipped where it is absent."""
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} of MobileSAM absent")
    return SHARED / name


def published_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of MobileSAM's names and shapes with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(name: str, *shape: int, spread: float = 1.0, middle: float = 0.0) -> None:
        state[f"image_encoder.{name}"] = middle + spread * torch.randn(*shape, generator=generator)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, spread=0.1, middle=1)
        put(f"{name}.bias", width, spread=0.1)

    def conv(name: str, out: int, fan: int, kernel: int) -> None:
        put(f"{name}.c.weight", out, fan, kernel, kernel, spread=(fan * kernel**2) ** -0.5)
        norm(f"{name}.bn", out)
        put(f"{name}.bn.running_mean", out, spread=0.1)
        state[f"image_encoder.{name}.bn.running_var"] = 0.5 + torch.rand(out, generator=generator)
        state[f"image_encoder.{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def linear(name: str, out: int, fan: int) -> None:
        put(f"{name}.weight", out, fan, spread=fan**-0.5)
        put(f"{name}.bias", out, spread=0.1)

    widths, depths, heads, windows = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
    conv("patch_embed.seq.0", 32, 3, 3)
    conv("patch_embed.seq.2", 64, 32, 3)
    for stage, width in enumerate(widths):
        for block in range(depths[stage]):
            name = f"layers.{stage}.blocks.{block}"
            if stage == 0:
                conv(f"{name}.conv1", 4 * width, width, 1)
                conv(f"{name}.conv2", 4 * width, 1, 3)
                conv(f"{name}.conv3", width, 4 * width, 1)
                continue
            norm(f"{name}.attn.norm", width)
            linear(f"{name}.attn.qkv", 3 * width, width)
            linear(f"{name}.attn.proj", width, width)
            put(f"{name}.attn.attention_biases", heads[stage], windows[stage] ** 2)
            conv(f"{name}.local_conv", width, 1, 3)
            norm(f"{name}.mlp.norm", width)
            linear(f"{name}.mlp.fc1", 4 * width, width)
            linear(f"{name}.mlp.fc2", width, 4 * width)
        if stage < 3:
            out = widths[stage + 1]
            conv(f"layers.{stage}.downsample.conv1", out, width, 1)
            conv(f"layers.{stage}.downsample.conv2", out, 1, 3)
            conv(f"layers.{stage}.downsample.conv3", out, out, 1)
    put("neck.0.weight", 256, 320, 1, 1, spread=320**-0.5)
    norm("neck.1", 256)
    put("neck.2.weight", 256, 256, 3, 3, spread=(256 * 9) ** -0.5)
    norm("neck.3", 256)
    put("head.weight", 1000, 320)  # the classifier, which is ignored
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    return state


def decoder_of_transformers() -> tuple[Any, Any]:
    """SAM's prompt encoder, mask decoder and picture positions of transformers with random weights."""
    pytest.importorskip("transformers")
    from transformers.models.sam import configuration_sam, modeling_sam

    torch.manual_seed(1)
    config = configuration_sam.SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5})  # torch's, as published
    prompts = modeling_sam.SamPromptEncoder(config)
    decoder = modeling_sam.SamMaskDecoder(config.mask_decoder_config)
    with torch.no_grad():
        for name, parameter in [*prompts.named_parameters(), *decoder.named_parameters()]:
            parameter.normal_(0, parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
        decoder.iou_prediction_head.proj_out.weight.mul_(0.3)
        decoder.iou_prediction_head.proj_out.bias.copy_(torch.tensor([0.2, 0.4, 0.6, 0.8]))  # as predicted IoUs are
    return prompts.eval(), decoder.eval()


def decoder_state(prompts: Any, decoder: Any) -> dict[str, torch.Tensor]:
    """Their weights under the published names."""
    found = {}
    for name, value in prompts.state_dict().items():
        name = name.replace("shared_embedding.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix")
        if name.startswith("point_embed."):
            name = name.replace("point_embed.", "point_embeddings.")
        if not name.startswith("mask_embed."):
            found[f"prompt_encoder.{name}"] = value
    found["prompt_encoder.mask_downscaling.0.bias"] = torch.zeros(4)  # of masks as prompts, not read
    for name, value in decoder.state_dict().items():
        for number, part in ((0, "conv1"), (1, "layer_norm"), (3, "conv2")):
            name = name.replace(f"upscale_{part}", f"output_upscaling.{number}")
        name = name.replace("layer_norm", "norm")
        if "mlps" in name or "iou_prediction" in name:
            for old, new in ((".layers.0.", ".layers.1."), (".proj_in.", ".layers.0."), (".proj_out.", ".layers.2.")):
                name = name.replace(old, new)
        found[f"mask_decoder.{name}"] = value
    return found
