"""Tiny random ViTs of each family, as `save_pretrained` writes them."""

from pathlib import Path

import torch

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.3,  # so that tokens differ by more than rounding
}
FAMILIES = {
    "dinov2-small": ("Dinov2", {"patch_size": 14, "image_size": 70, "mlp_ratio": 2}),
    "dinov2-small-reg": (
        "Dinov2WithRegisters",
        {"patch_size": 14, "image_size": 70, "mlp_ratio": 2, "num_register_tokens": 4},
    ),
    "dinov3-small": ("DINOv3ViT", {"patch_size": 16, "intermediate_size": 64, "num_register_tokens": 4}),
    "vit-base": ("ViT", {"patch_size": 16, "image_size": 64, "intermediate_size": 64}),
}


def save_families(root: Path) -> dict[str, Path]:
    """A folder of each family below `root`, by the name of its backbone."""
    import transformers

    torch.manual_seed(0)
    for name, (family, settings) in FAMILIES.items():
        config = getattr(transformers, f"{family}Config")(**SMALL, **settings)
        model = getattr(transformers, f"{family}Model")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 3:  # class token, registers and positions start at zero
                    parameter.normal_()
            for module in model.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.bias.normal_()
        model.save_pretrained(root / name)
    return {name: root / name for name in FAMILIES}
