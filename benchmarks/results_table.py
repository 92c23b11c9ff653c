"""Markdown tables for docs/results.md from finished runs: nothing is copied by hand.

python benchmarks/results_table.py runs/a [runs/b ...]
"""

import json
import sys
from pathlib import Path

from saot.evaluate import METHODS


def main() -> None:
    runs = [Path(name) for name in sys.argv[1:]]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    names = [record["preset"] for record in records]
    print("| method | " + " | ".join(f"`{name}` mIoU" for name in names) + " | target labels |")
    print("| --- | " + " | ".join("---:" for _ in names) + " | ---: |")
    for method in METHODS:
        entries = [part["methods"].get(method.name) for part in metrics]
        if not any(entries):
            continue
        cells = ["–" if entry is None else f"{100 * entry['miou']:.1f}" for entry in entries]
        budget = next(entry["label_budget"] for entry in entries if entry is not None)
        mark = "**" if method.name == "saot_decoder" else ""
        print(f"| {mark}`{method.name}`{mark} | " + " | ".join(f"{mark}{c}{mark}" for c in cells) + f" | {budget:,} |")
    print()
    for name, record, part in zip(names, records, metrics, strict=True):
        stages = record["stages"]
        seconds = sum(stage["seconds"] for stage in stages.values())
        memory = max(stage["peak_memory_bytes"] for stage in stages.values()) / 2**20
        features = sum(stage["seconds"] for key, stage in stages.items() if key.startswith("features"))
        print(
            f"- `{name}`: {seconds / 60:.1f} minutes ({features:.0f} s of it features), peak {memory:.0f} MiB, "
            f"{part['images']} pictures scored, seed {record['seed']}, commit {record['commit']}, {record['device']}"
        )
    print()
    classes = metrics[0]["classes"]
    shown = [m.name for m in METHODS if m.name in metrics[-1]["methods"]]
    print("| method | " + " | ".join(classes) + " |")
    print("| --- | " + " | ".join("---:" for _ in classes) + " |")
    for method in shown:
        iou = metrics[-1]["methods"][method]["iou"]
        print(f"| `{method}` | " + " | ".join("–" if iou[c] is None else f"{100 * iou[c]:.0f}" for c in classes) + " |")


if __name__ == "__main__":
    main()
