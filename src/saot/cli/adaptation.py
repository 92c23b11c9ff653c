"""`saot adapt`: a network trained end to end."""

from pathlib import Path

from saot.cli.shell import Bars, Flag, Json, MaybeWhole, Whole, Words, app, print_json, say


@app.command
def adapt(
    *,
    source: str,
    target: str | None = None,
    out: Path,
    eval: str | None = None,
    source_eval: str | None = None,
    method: str = "t2s-da",
    preset: str = "paper",
    encoder: str | None = None,
    weights: str | None = None,
    steps: MaybeWhole = None,
    crop: str | None = None,
    set: Words = None,
    mask_map: str | None = None,
    seed: Whole = 0,
    workers: MaybeWhole = None,
    checkpoint_every: Whole = 100,
    device: str = "auto",
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Train a whole network on labelled source and unlabelled target pictures (T2S-DA and what it stands on).

    The same command again goes on where it stopped. `saot run` keeps the network frozen and needs minutes where this
    needs a GPU and a day. On several devices: `accelerate launch -m saot.cli adapt ...`.

    Example: `saot adapt --source gta5:/data/gta5 --target cityscapes:/data/cityscapes:train --eval
    cityscapes:/data/cityscapes:val --device cuda --set optimizer.precision=bf16 --out runs/t2s-da`

    Args:
        source: Labelled pictures: NAME:PATH[:SPLIT], as in `saot run`.
        target: Pictures to adapt to; masks among them are never opened. Not needed for source-only and t2s-da-dg.
        out: The run folder.
        eval: Labelled pictures to score on.
        source_eval: Labelled source pictures that are not trained on, to see whether the source is kept.
        method: source-only, dacs (the baseline: mean teacher and class mixing), t2s-da, or t2s-da-dg (no target).
        preset: paper (MiT-B5), paper-cnn (ResNet-101), paper-hrda (two scales) or small (MobileSAM, two cores).
        encoder: mit-b0 .. mit-b5, resnet-101, mobile-sam, or OWNER/NAME of a SegFormer or ResNet; the preset's unless
            given.
        weights: Its weights: a folder, MobileSAM's file, or "random"; the published place unless given.
        steps: Training steps; the preset's unless given. Warm-up keeps its share.
        crop: HEIGHTxWIDTH of training crops; the preset's unless given.
        set: Any setting by its path, such as --set pull.weight=0.2 --set translator.beta=0.05 (docs/adapt.md).
        mask_map: As in `saot run`.
        seed: Fixes every draw.
        workers: Threads of each process that read and crop pictures ahead; of this machine's cores unless given. What
            is learned does not depend on it.
        checkpoint_every: Steps between two checkpoints.
        device: auto (cuda, else mps, else cpu), cpu or cuda.
        strict: As in `saot run`.
    """
    from dataclasses import replace

    from saot.adapt import AdaptSettings, Pace, recipe_from_words, run_adaptation
    from saot.evaluate import format_table
    from saot.runs import resolve_device

    recipe = recipe_from_words(preset, method, encoder, steps, crop, set or [], source)
    settings = AdaptSettings(source, target, eval, source_eval, weights, seed, recipe, mask_map)
    pace = replace(Pace.of_this_machine(), checkpoint_every=checkpoint_every)
    pace = pace if workers is None else replace(pace, workers=workers)
    with Bars() as bars:
        outcome = run_adaptation(settings, out, device=resolve_device(device), strict=strict, pace=pace, progress=bars)
    if not outcome.run:
        return  # a process beside the first
    if json:
        print_json({"out": str(out), "report": str(out / "report.html"), **outcome.metrics})
        return
    for note in outcome.run["notes"]:
        say(note)
    print(format_table(outcome.metrics))
    if "source_domain" in outcome.metrics:
        print(f"\non the source, {outcome.metrics['source_domain']['split']}")
        print(format_table(outcome.metrics["source_domain"]))
    print(f"\nreport: {out / 'report.html'}")
