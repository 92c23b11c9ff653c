"""Frozen networks by name."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from saot.features.base import NO_BACKBONES, PRECISIONS, Backbone, FeatureSettings, OpenBackbone, SizePolicy
from saot.features.tinyvit import TinyVitTail

_FAMILIES = (
    "filterbank, mobile-sam, dinov2-{small,base,large,giant}, dinov2-{small,base,large,giant}-reg, "
    "dinov3-{small,base,large,huge,7b}, vit-{base,large}, stable-diffusion, adapted, several joined by +"
)


def load_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    size: SizePolicy = None,
    layers: Sequence[str | int] | None = None,
    final_norm: bool | None = None,
    l2_norm: bool = True,
    pad: bool = True,
    device: str = "cpu",
    precision: str = "float32",
    others: Mapping[str, OpenBackbone] = NO_BACKBONES,
) -> Backbone:
    """A frozen network by name.

    Weights of transformers models are read at the first picture, so that a complete store costs no loading.

    Args:
        name: `filterbank` (no weights), `mobile-sam`, `dinov2-small` .. `dinov2-giant`, each also with
            `-reg`, `dinov3-small` .. `dinov3-large`, `vit-base`, `vit-large`, or a hub name `OWNER/NAME` of
            such a model; `stable-diffusion` (features/diffusion.py); or several of these joined by `+`, whose tokens
            lie on the first one's grid (features/joined.py).
        weights: mobile-sam: the published `.pt` or a `.safetensors`; transformers: a local folder, in which
            case nothing is looked up anywhere else; stable-diffusion: a folder or a hub name of a pipeline.
            Joined: a piece for each part, joined by `+` and empty for none, as in `mobile_sam.pt+`; a string
            without `+` belongs to the only part that needs one.
        size: Network input, pixels: `(height, width)`, or an int for the long side (the aspect ratio is kept,
            to the nearest patch), or `Padded(side)`: the long side in a black square (ViTs, stable-diffusion;
            mobile-sam pads without being asked). None is the backbone's default. Joined: of the first part; the
            others take it if it fits them, else their default.
        layers: Layers to concatenate; None is the last one (mobile-sam: the neck; stable-diffusion: `up1` of
            `up0` .. `up3`, sd-dino's `s2` .. `s5`, each with `@T` for another timestep than 100). Not for
            joined ones.
        final_norm: None is the backbone's default: on for ViTs (`x_norm_patchtokens`).
        l2_norm: Scale each token to length 1.
        pad: mobile-sam only: pad to a square as published. False is faster for wide pictures, and not the
            same.
        device: Where the network runs, such as `cuda`.
        precision: `bf16` computes in bfloat16 (mobile-sam and ViTs): faster, and other features, which the key tells
            apart.
        others: Makers of further backbones by name, such as `saot.adapt.BACKBONES` with `adapted`, an encoder that
            `saot adapt` trained.

    Returns:
        The backbone; its `key` holds every choice made.

    Raises:
        ValueError: If the name is not known, a setting does not fit it, or the weights are missing or of
            another model.

    Example:
        >>> load_backbone("filterbank", size=(504, 1008)).input_size(1052, 1914)
        (504, 1008)
    """
    settings = FeatureSettings(
        name=name,
        weights=None if weights is None else str(weights),
        size=size,
        layers=None if layers is None else tuple(str(layer) for layer in layers),
        final_norm=final_norm,
        l2_norm=l2_norm,
        pad=pad,
        device=device,
        precision=precision,
    )
    if precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}; got {precision!r}: choose one")
    return _open(settings, others)


def _open(settings: FeatureSettings, others: Mapping[str, OpenBackbone]) -> Backbone:
    name = settings.name
    if "+" in name:
        from saot.features.joined import Joined

        return Joined(settings, partial(_open, others=others))
    if settings.precision != "float32" and (name in ("filterbank", "stable-diffusion") or name in others):
        raise ValueError(
            f"{name} computes in float32 alone, not in {settings.precision}; leave the precision out, or take "
            "mobile-sam or a ViT"
        )
    if name == "filterbank":
        from saot.features.filterbank import FilterBank

        return FilterBank(settings)
    if name == "mobile-sam":
        from saot.features.tinyvit import MobileSam

        return MobileSam(settings)
    if name == "stable-diffusion":
        from saot.features.diffusion import StableDiffusion

        return StableDiffusion(settings)
    if name in others:
        return others[name](settings)
    from saot.features.vit import HubViT, hub_name

    if name == "adapted":
        raise ValueError("backbone 'adapted' comes with saot.adapt; pass others=saot.adapt.BACKBONES to open it")
    if hub_name(name) is None:
        raise ValueError(f"backbone {name!r} is not known; use one of {_FAMILIES}, or OWNER/NAME of a hub model")
    return HubViT(settings)


def make_tail(kind: str) -> TinyVitTail:
    """The untrained last layers of a kind of network, to be filled from a kept decoder.

    Raises:
        ValueError: If no such network has any.

    Example:
        >>> make_tail("mobile-sam").dim
        160
    """
    if kind != TinyVitTail.kind:
        raise ValueError(f"expected the last layers of {TinyVitTail.kind}; got {kind!r}: use the version that wrote it")
    return TinyVitTail()
