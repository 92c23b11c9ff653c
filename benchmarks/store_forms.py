"""What the forms of a feature store take and cost, and what the index of a packed store takes.

    python benchmarks/store_forms.py forms --out runs/store-forms
    python benchmarks/store_forms.py forms --out runs/store-forms-camvid --source camvid:DATA:day.txt \
        --target camvid:DATA:dusk-train.txt --eval camvid:DATA:dusk-test.txt --preset fast --backbone mobile-sam \
        --weights mobile_sam.pt --forms half,int8,projected:64
    python benchmarks/store_forms.py errors --source camvid:DATA:day.txt --backbone mobile-sam --weights mobile_sam.pt
    python benchmarks/store_forms.py index --out runs/store-index --entries 1000000

`forms` makes one run a form, of the built-in scenes with filterbank unless it is said otherwise, then packs the store
of the first form; all in one process, one after another. Speeds are of files that the system has in memory: whole
pictures, and 256 random tokens of each, the mean of several rounds taken in turn. `errors` says how far the tokens of
the first pictures are off, |x' - x| / |x| over all of them: in eight bits with a step for each channel of a picture, as
a store has it, with a step for each token instead, and in half precision.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS, ROWS = 5, 256


def forms(options: argparse.Namespace) -> None:
    """One table, a line a form."""
    import torch

    from saot.features import FeatureStore, compact_stores
    from saot.label import RunSettings, run_job
    from saot.recipes import DEMO, DEMO_SIZE, DEMO_SOURCE, DEMO_TARGET, DEMO_TEST, preset
    from saot.tables import ALL_WINGS

    plain = options.source is None
    asked = options.forms.split(",")
    stores, scores = {}, {}
    for form in asked:
        name = form.replace(":", "-")
        settings = RunSettings(
            source=options.source or DEMO_SOURCE,
            target=options.target or DEMO_TARGET,
            eval=options.eval or DEMO_TEST,
            points=options.points,
            backbone=options.backbone,
            weights=options.weights,
            size=options.size or (DEMO_SIZE if plain else None),
            recipe=DEMO if options.preset is None else preset(options.preset),
            store_form=form,
        )
        stores[form] = options.out / f"store-{name}"
        made = run_job(settings, options.out / name, store=stores[form], wings=ALL_WINGS, compare="none")
        scores[form] = made.metrics["methods"]["saot_decoder"]["miou"]
        print(f"{form}: mIoU {scores[form]:.4f}", file=sys.stderr, flush=True)
    packed = f"{asked[0]}, packed"
    stores[packed], scores[packed] = options.out / "packed", scores[asked[0]]
    compact_stores(stores[asked[0]], stores[packed])

    opened = {
        form: [FeatureStore(path.parent) for path in sorted(root.rglob("store.json"))] for form, root in stores.items()
    }
    generator = torch.Generator().manual_seed(0)

    def rows(store: FeatureStore, key: str) -> None:
        store.rows(key, torch.randint(store.grid(key).num_tokens, (ROWS,), generator=generator))

    whole: dict[str, list[float]] = {form: [] for form in opened}
    some: dict[str, list[float]] = {form: [] for form in opened}
    for _ in range(ROUNDS):
        for form, found in opened.items():
            whole[form].append(_rate(found, FeatureStore.read))
            some[form].append(_rate(found, rows))
    print("| form | bytes a picture | mIoU | whole pictures a second | 256 tokens of a picture, a second |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for form, found in opened.items():
        files = [path for store in found for path in store.root.iterdir() if path.suffix != ".json"]
        pictures = sum(len(store.keys()) for store in found)
        size = sum(path.stat().st_size for path in files) / pictures
        speeds = [sum(rates) / ROUNDS for rates in (whole[form], some[form])]
        print(f"| {form} | {size:,.0f} | {scores[form]:.4f} | {speeds[0]:,.0f} | {speeds[1]:,.0f} |")


def _rate(stores: list, read: Callable) -> float:
    """Pictures a second."""
    keys = [(store, key) for store in stores for key in store.grids()]
    began = time.monotonic()
    for store, key in keys:
        read(store, key)
    return len(keys) / (time.monotonic() - began)


def errors(options: argparse.Namespace) -> None:
    """One line a way to keep tokens."""
    from saot.features import extract
    from saot.features.forms import rounded
    from saot.label import parse_size
    from saot.recipes import DEMO_SIZE, DEMO_SOURCE
    from saot.tables import ALL_WINGS

    images = ALL_WINGS.images(options.source or DEMO_SOURCE)
    size = options.size or (DEMO_SIZE if options.source is None else None)
    backbone = ALL_WINGS.backbone(options.backbone, options.weights, size=parse_size(size))
    ways = {"a step for each channel": rounded, "a step for each token": lambda tokens: rounded(tokens.T).T}
    ways["half precision"] = lambda tokens: tokens.half().float()
    off, total = dict.fromkeys(ways, 0.0), 0.0
    for number in range(min(options.pictures, len(images))):
        tokens = extract(backbone, images.image(number), "").tokens
        total += float(tokens.square().sum())
        for name, keep in ways.items():
            off[name] += float((keep(tokens) - tokens).square().sum())
    for name, squares in off.items():
        print(f"{backbone.key.backbone}, {name}: {(squares / total) ** 0.5:.5f}")


def index(options: argparse.Namespace) -> None:
    """Write an index of synthetic entries, then open it in a process of its own."""
    import numpy as np

    from saot.features.packed import INDEX, Index, Shard, hashed, index_bytes

    count, rng = options.entries, np.random.default_rng(0)
    names = np.array([hashed(_key(number)) for number in range(count)], np.uint64)
    columns = {
        "names": names,
        "sources": rng.integers(0, 2**64, count, np.uint64),
        "offsets": np.arange(count, dtype=np.uint64) % 1000 * 1_000_000,
        "lengths": np.full(count, 1_000_000, np.uint64),
        "shards": np.arange(count) // 1000,
    }
    shards = tuple(Shard(f"shard-{number:05d}.pack", 10**9, "0" * 32) for number in range(-(-count // 1000)))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / INDEX).write_bytes(index_bytes(Index({"key": "", "made_of": "", "left_out": []}, shards, columns)))
    subprocess.run([sys.executable, __file__, "open", "--out", options.out, "--entries", str(count)], check=True)


def open_it(options: argparse.Namespace) -> None:
    """What a process needs that opens an index; JSON."""
    from saot.features.packed import INDEX, hashed, read_index

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    found = read_index(options.out / INDEX)
    opened = time.monotonic()
    step = max(options.entries // 1000, 1)
    asked = [_key(number) for number in range(0, options.entries, step)][:1000]
    assert all(found.find(hashed(key)) is not None for key in asked)
    asked_all = time.monotonic()
    assert found.find(hashed("nothing")) is None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = {
        "entries": len(found),
        "bytes": (options.out / INDEX).stat().st_size,
        "open_seconds": round(opened - began, 4),
        "lookups": len(asked),
        "lookup_seconds": round(asked_all - opened, 4),
        "peak_mib": round(peak / 1024, 1),
        "peak_before_mib": round(before / 1024, 1),
    }
    print(json.dumps(said))


def _key(number: int) -> str:
    return f"train/{number:07d}.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("forms", "errors", "index", "open"))
    parser.add_argument("--out", type=Path, default=Path("runs/store-forms"))
    parser.add_argument("--forms", default="half,int8,projected:64")
    parser.add_argument("--entries", type=int, default=1_000_000)
    for name in ("source", "target", "eval", "weights", "size", "preset"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--points", default="20")
    parser.add_argument("--backbone", default="filterbank")
    options = parser.parse_args()
    {"forms": forms, "errors": errors, "index": index, "open": open_it}[options.what](options)


if __name__ == "__main__":
    main()
