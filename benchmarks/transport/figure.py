"""One picture of growth (time and memory against tokens) and of iterations against tau / epsilon."""

from pathlib import Path
from typing import Any

import scaling


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Writes the picture as PNG; panels without results are left empty."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (time, memory, counts) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    rows = scaling.growth_rows(results.get("growth", {}))
    tokens = [row["tokens"] for row in rows]
    for key, style, label in (
        ("whole", "o-", "whole call"),
        ("loop", "s-", "loop alone"),
        ("bound", "k--", "60 passes at measured bandwidth"),
    ):
        time.plot(tokens, [row[key] for row in rows], style, label=label)
    time.set(xlabel="tokens a side, k = 32", ylabel="seconds, 30 iterations", title="Time: random support, two cores")
    for key, style, label in (("process_gib", "o-", "whole process, support made in it"), ("call_gib", "s-", "solve")):
        memory.plot(tokens, [row[key] for row in rows], style, label=label)
    memory.axhline(8, color="0.6", linestyle=":")
    memory.set(xlabel="tokens a side, k = 32", ylabel="peak memory, GiB", title="Memory")
    for k, mark in ((128, "o"), (16, "s")):
        found = scaling.iteration_rows(results.get("iterations", {}), k)
        ratios = [row["ratio"] for row in found]
        counts.plot(ratios, [row["plain"] for row in found], mark + "--", color="0.5", label=f"plain Sinkhorn, k = {k}")
        counts.plot(ratios, [row["ours"] for row in found], mark + "-", label=f"saot, k = {k}")
    counts.set(xlabel="tau / epsilon", ylabel="iterations", title="Iterations to a plan error of 1e-6")
    for axes in (time, memory, counts):
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8)
    memory.set_ylim(0.1, 12)
    memory.set_yticks([0.1, 1, 8], ["0.1", "1", "8"])
    memory.yaxis.set_minor_formatter("")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
