"""`saot lora`: a frozen backbone with a light adapter, trained through the transport loss."""

from pathlib import Path
from typing import Literal

from saot.cli.shell import Bars, Flag, Json, MaybeWhole, Whole, Words, app, print_json


@app.command
def lora(
    *,
    source: str,
    target: str,
    out: Path,
    points: str = "0",
    backbone: str = "dinov2-large",
    weights: str | None = None,
    size: str | None = None,
    rank: MaybeWhole = None,
    alpha: float | None = None,
    blocks: MaybeWhole = None,
    layers: Literal["query-value", "all"] | None = None,
    fixed_cost: Flag = False,
    steps: MaybeWhole = None,
    learning_rate: float | None = None,
    set: Words = None,
    seed: Whole = 0,
    mask_map: str | None = None,
    device: str = "auto",
    strict: Flag = False,
    json: Json = False,
) -> None:
    """A light adapter (LoRA) on the last blocks of a frozen backbone, trained through the transport loss and merged.

    Every other command takes the result: `--backbone NAME --weights OUT/backbone` (of mobile-sam
    `OUT/backbone.safetensors`). The same command again goes on where it stopped. For those with a GPU.

    Example: `saot lora --source gta5:/data/gta5 --target cityscapes:/data/cityscapes:train --points 20 --backbone
    dinov2-large --size 504x1008 --device cuda --out runs/lora`

    Args:
        source: Labelled pictures: NAME:PATH[:SPLIT], as in `saot run`.
        target: Pictures to adapt to; their masks are opened for the declared points alone.
        out: The run folder.
        points: The budget of target labels, as in `saot run`; 0 lets source pictures stand in for the target.
        backbone: mobile-sam, dinov2-..., dinov3-..., vit-... or OWNER/NAME of such a model.
        weights: As in `saot run`.
        size: Input size, HEIGHTxWIDTH or the long side in pixels.
        rank: r of W' = W + (alpha / r) B A; 8 unless given.
        alpha: Scale of the change; 16 unless given.
        blocks: So many last blocks are adapted; 4 unless given.
        layers: query-value, or all linear layers of a block; query-value unless given.
        fixed_cost: Train against the cost |x - y|^2; else the cost of Eq. (3) is learned along.
        steps: Training steps, one pair of pictures each; 1000 unless given.
        learning_rate: Of the adapter; 0.0001 unless given.
        set: Any other setting by its path, such as --set transport.k=64 --set cost.lambda_ent=0 --set
            adapter.held_out=0 (docs/adapt.md).
        seed: Fixes every draw.
        mask_map: As in `saot run`.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1 ...
        strict: As in `saot run`.
    """
    from saot.adapt import LoraRecipe, LoraSettings, run_lora
    from saot.recipes import with_value, with_words
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    given = {
        "adapter.rank": rank,
        "adapter.alpha": alpha,
        "adapter.blocks": blocks,
        "adapter.layers": layers,
        "cost.steps": steps,
        "adapter.learning_rate": learning_rate,
        "adapter.learn_cost": False if fixed_cost else None,
    }
    recipe = LoraRecipe()
    for path, value in given.items():
        recipe = recipe if value is None else with_value(recipe, path, value)
    recipe = with_words(recipe, set or [])
    settings = LoraSettings(source, target, points, backbone, weights, size, seed, recipe, mask_map)
    with Bars() as bars:
        outcome = run_lora(
            settings,
            out,
            device=resolve_device(device),
            wings=ALL_WINGS,
            strict=strict,
            progress=bars,
        )
    run = outcome.run
    if json:
        shown = ("losses", "held_out_accuracy", "held_out_points", "label_budget", "parameters", "stages")
        print_json({"out": str(out), "weights": str(outcome.weights), **{name: run[name] for name in shown}})
        return
    first, last = run["losses"]["first"], run["losses"]["last"]
    for term in ("loss", "points", "entropy", "diversity"):
        if term in first:
            print(f"{term}: {first[term]:.3f} in the first fifth of the steps, {last[term]:.3f} in the last")
    accuracy = run["held_out_accuracy"]
    if accuracy["frozen"] is not None:
        print(
            f"nearest source token at {run['held_out_points']} held-out points: {100 * accuracy['frozen']:.1f} % right "
            f"as frozen, {100 * accuracy['adapted']:.1f} % as adapted"
        )
    print(f"--backbone {backbone} --weights {outcome.weights}")
