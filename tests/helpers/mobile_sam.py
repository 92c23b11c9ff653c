"""Weights of MobileSAM's names and shapes."""

import torch


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
