"""One picture of the benchmark's tables: solve and gradient beside the peers, growth, iterations.

    python benchmarks/transport/figure.py docs/transport-benchmark.md docs/figures/transport.png "commit ..."

It reads the tables of a page that bench.py wrote, so that the picture shows the numbers of the page and nothing else.
"""

import re
import sys
from pathlib import Path

OURS, PEERS, BOUND = "#1f77b4", "#b8b8b8", "#555555"


def table_under(text: str, heading: str) -> list[dict[str, str]]:
    """Rows of the first table below the heading that starts like this; empty if there is none."""
    found = re.search(rf"^#+ {re.escape(heading)}.*?\n\n?(\|.*?)\n(?!\|)", text + "\n\n", re.DOTALL | re.MULTILINE)
    if found is None:
        return []
    head, _, *rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in found[1].splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def _value(cell: str) -> float:
    return float(cell.replace(",", ""))


def _bars(axes, rows: list[dict[str, str]], title: str) -> None:
    """A bar a contender that ran, in milliseconds, ours in colour."""
    rows = [row for row in rows if re.fullmatch(r"[\d,.]+", row["best ms"])]
    names = [row["contender"] for row in rows]
    times = [_value(row["best ms"]) for row in rows]
    colors = [OURS if name.startswith("saot") else BOUND if name.startswith("bound") else PEERS for name in names]
    axes.barh(names, times, color=colors)
    for place, time in enumerate(times):
        axes.text(time * 1.08, place, f"{time:,.3g}" if time < 1000 else f"{time:,.0f}", va="center", fontsize=8)
    axes.set(xscale="log", xlabel="milliseconds, best of the repeats", title=title, xlim=(None, max(times) * 4))
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)


def draw(page: Path, path: Path, caption: str = "") -> None:
    """Writes the picture of the page's tables as PNG; a panel without a table stays empty."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    text = page.read_text()
    figure = plt.figure(figsize=(13, 8.4), layout="constrained")
    upper, lower, foot = figure.subfigures(3, 1, height_ratios=(1.15, 1, 0.07))
    races = [
        (title, rows)
        for heading, title in (
            ("Solve: ", "Solve, 30 iterations: 2,592 x 2,592 tokens, k = 128"),
            ("Solve and gradient of ", "Solve and gradient in the cost, same size"),
        )
        if (rows := table_under(text, heading))
    ]
    for axes, (title, rows) in zip(upper.subplots(1, max(1, len(races)), squeeze=False)[0], races, strict=False):
        _bars(axes, rows, title)
    time, memory, counts = lower.subplots(1, 3)
    if rows := [row for row in table_under(text, "Growth: ") if row.get("with") != "[fast]"]:
        _growth(time, memory, rows)
    if rows := table_under(text, "Iterations "):
        _iterations(counts, rows)
    for axes in figure.axes:
        axes.grid(alpha=0.3, axis="x" if axes.patches else "both")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    foot.text(0.01, 0.5, caption, fontsize=8.5, va="center", wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _growth(time, memory, rows: list[dict[str, str]]) -> None:
    """Time and memory against the number of tokens."""
    tokens = [_value(row["tokens a side"]) for row in rows]
    for key, style, label in (
        ("whole ms", "o-", "saot, whole call"),
        ("loop ms", "s-", "saot, loop alone"),
        ("bound ms", "k--", "bound: 60 passes"),
    ):
        time.plot(tokens, [_value(row[key]) / 1e3 for row in rows], style, label=label)
    time.set(ylabel="seconds, 30 iterations", title="Time: random support, k = 32")
    for key, style, label in (
        ("peak GiB, support made in it", "o-", "saot, support made in the process"),
        ("peak GiB, solve", "s-", "saot, solve"),
    ):
        memory.plot(tokens, [_value(row[key]) for row in rows], style, label=label)
    memory.set(ylabel="peak memory, GiB", title="Memory: random support, k = 32")
    for axes in (time, memory):
        axes.set(xscale="log", yscale="log", xlabel="tokens a side")
        axes.legend(frameon=False, fontsize=8)
    memory.set_ylim(0.1, 4)
    memory.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    memory.yaxis.set_minor_formatter("")


def _iterations(axes, rows: list[dict[str, str]]) -> None:
    """Iterations against tau / epsilon, ours beside plain sweeps."""
    for k, mark in (("128", "o"), ("16", "s")):
        found = [row for row in rows if row["k"] == k]
        ratios = [_value(row["tau / epsilon"]) for row in found]
        plain = [_value(row["plain"]) for row in found]
        axes.plot(ratios, plain, mark + "--", color="0.5", label=f"plain Sinkhorn, k = {k}")
        axes.plot(ratios, [_value(row["ours"]) for row in found], mark + "-", label=f"saot, k = {k}")
    axes.set(xscale="log", yscale="log", xlabel="tau / epsilon", ylabel="iterations")
    axes.set_title("Iterations to a plan error of 1e-6")
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), " ".join(sys.argv[3:]))
