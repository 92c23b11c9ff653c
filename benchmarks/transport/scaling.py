"""Sections "growth" and "iterations": up to a million tokens a side, and the count of iterations as tau grows."""

from typing import Any

from counts import GOAL, RATIOS
from machine import build_stream
from problems import ITERATIONS, make_folder
from race import Entry, Setting, memory_of, race, with_base
from tables import Claim, base_claims, number, over, race_table, ratio, table

SIZES, K = (10_000, 30_000, 100_000, 300_000, 1_000_000), 32
GRADIENT_SIZE, GRADIENT_K = 100_000, 64
GRADIENT_UNIT = f"gradient-{GRADIENT_SIZE}-{GRADIENT_K}"
GROWTH_UNITS = (*(str(size) for size in SIZES), GRADIENT_UNIT)
_TOKENS, _KS = 2592, (128, 16)
COUNT_UNITS = tuple(f"{k}-{ratio}" for k in _KS for ratio in RATIOS)


def growth(setting: Setting, unit: str) -> dict[str, Any]:
    """One size on a random support that is given: time beside the bound, memory of a process of its own."""
    if unit == GRADIENT_UNIT:
        return _growth_gradient(setting)
    tokens = int(unit)
    streamed = {"pairs": tokens * K, "passes": 2 * ITERATIONS, "library": build_stream(setting.data)}
    large = 5 if tokens >= 300_000 else 10**6
    entries = {
        "ours": Entry("saot", "ours:growth", {"tokens": tokens, "k": K}, alone=True, repeats=large),
        "ours_fast": Entry("saot, [fast]", "ours:growth", {"tokens": tokens, "k": K}, repeats=large),
        "stream": Entry("bound", "machine:stream", streamed, repeats=large),
    }
    outcomes = race(with_base(entries, ("ours",), setting), setting)
    whole = Entry("saot", "ours:growth", {"tokens": tokens, "k": K, "parts": "whole"}, alone=True)
    outcomes["ours"].update(memory_of(whole, setting))
    return outcomes


def _growth_gradient(setting: Setting) -> dict[str, Any]:
    sizes = {"tokens": GRADIENT_SIZE, "k": GRADIENT_K}

    def ours(how: str, repeats: int) -> Entry:
        return Entry(f"saot, {how}", "ours:gradient", {"how": how, **sizes}, alone=True, repeats=repeats, memory=True)

    entries = {
        "implicit": ours("implicit", 5),
        "unrolled": ours("unrolled", 2),
        "plain": Entry("autograd through gather/scatter, torch", "plain:unrolled", sizes, repeats=2, memory=True),
    }
    return race(entries, setting)


def growth_rows(units: dict[str, dict[str, Any]], key: str = "ours") -> list[dict[str, float]]:
    """Numbers of each size that a contender ran, for table and figure."""
    rows = []
    for unit in (str(size) for size in SIZES):
        outcomes = units.get(unit, {})
        ours, bound = outcomes.get(key, {}), outcomes.get("stream", {}).get("best")
        if "parts" not in ours or bound is None:
            continue
        rows.append(
            {
                "tokens": int(unit),
                "pairs": ours["notes"]["pairs"],
                "loop": min(parts["loop"] for parts in ours["parts"]),
                "whole": min(parts["whole"] for parts in ours["parts"]),
                "bound": bound,
                "bandwidth": outcomes["stream"]["notes"]["bytes"] / bound / 1e9,
                "process_gib": ours.get("process_peak_mib", float("nan")) / 1024,
                "timed_gib": ours.get("timed_peak_mib", float("nan")) / 1024,
                "call_gib": ours.get("call_peak_mib", float("nan")) / 1024,
                "bytes_a_pair": ours.get("extra_mib", float("nan")) * 2**20 / ours["notes"]["pairs"],
            }
        )
    return rows


def growth_report(units: dict[str, dict[str, Any]]) -> tuple[list[str], list[Claim]]:
    """Tables and claims."""
    rows, fast = growth_rows(units), growth_rows(units, "ours_fast")
    head = [
        "with",
        "loop / bound",
        "whole / bound",
        "tokens a side",
        "pairs",
        "loop ms",
        "whole ms",
        "bound ms",
        "GB/s",
    ]
    head += ["peak GiB, support made in it", "peak GiB, timing process", "peak GiB, solve", "extra bytes a pair"]
    cells = []
    for name, row in [*(("torch alone", row) for row in rows), *(("[fast]", row) for row in fast)]:
        times = [row["loop"], row["whole"], row["bound"]]
        cells.append(
            [
                name,
                *(number(t / row["bound"]) for t in times[:2]),
                *(f"{row[key]:,}" for key in ("tokens", "pairs")),
                *(number(1e3 * t) for t in times),
                *(number(row[key]) for key in ("bandwidth", "process_gib", "timed_gib", "call_gib", "bytes_a_pair")),
            ]
        )
    for unit in (str(size) for size in SIZES):
        reason = units.get(unit, {}).get("ours", {}).get("reason")
        if reason:
            cells.append(["torch alone", "-", "-", unit, f"not run: {reason}", *["-"] * 8])
    lines = [f"### Growth: a random support that is given, k = {K}, 30 iterations, float32", ""]
    lines += table(head, cells)
    lines += ["How a support for 300,000 tokens is found is measured by benchmarks/bench_large_support.py.", ""]
    claims = [
        Claim(f"growth: {row['tokens']:,} tokens, loop over the bound", row["loop"] / row["bound"], 4, False)
        for row in rows
    ]
    for row in fast:
        what = f"growth: {row['tokens']:,} tokens, loop over the bound, [fast]"
        claims.append(Claim(what, row["loop"] / row["bound"], 6, False))
        claims += base_claims(units[str(row["tokens"])], {"ours_fast": 1}, f"growth, {row['tokens']:,} tokens")
    if rows and rows[-1]["tokens"] == SIZES[-1]:
        million = rows[-1]
        peaks = [million[key] for key in ("process_gib", "timed_gib")]
        claims.append(Claim("growth: the million's peak, support made in it", max(peaks), 8, False, "GiB"))
        spread = over(million["bytes_a_pair"], next((r["bytes_a_pair"] for r in rows if r["tokens"] >= 1e5), None))
        claims.append(Claim("growth: memory a pair, the million over 100,000", spread, 1.1, False))
    twins = units.get(GRADIENT_UNIT)
    if twins:
        lines += [f"#### Solve and gradient at {GRADIENT_SIZE:,} tokens a side, k = {GRADIENT_K}", ""]
        lines += race_table(twins, {"/ implicit": "implicit"}, "-", memory=True)
        claims.append(Claim("growth: 100,000, k 64, unrolled over implicit", ratio(twins, "unrolled", "implicit"), 1))
        for key, title in (("unrolled", "unrolled"), ("plain", "plain autograd")):
            extra = ratio(twins, "implicit", key, "extra_mib")
            claims.append(Claim(f"growth: 100,000, k 64, memory, implicit over {title}", extra, 0.2, False))
    return lines, claims


def iterations(setting: Setting, unit: str) -> dict[str, Any]:
    """Both counts at one tau / epsilon."""
    k, factor = unit.split("-")
    folder = str(make_folder(setting.data, _TOKENS, int(k), dense=True))
    once = Setting(setting.out, 1, setting.threads, setting.peers_python, setting.timeout)
    options = {"folder": folder, "ratio": float(factor)}
    return race({"counts": Entry("counts", "counts:counts", options, alone=True)}, once)


def iteration_rows(units: dict[str, dict[str, Any]], k: int) -> list[dict[str, float]]:
    """Counts of each tau / epsilon that ran, on the support of k targets a source."""
    found = {ratio: units.get(f"{k}-{ratio}", {}).get("counts", {}) for ratio in RATIOS}
    return [{"ratio": ratio, **one["parts"][-1]} for ratio, one in found.items() if "parts" in one]


def iterations_report(units: dict[str, dict[str, Any]]) -> tuple[list[str], list[Claim]]:
    """Table and claims."""
    lines = [f"### Iterations to a plan error of {GOAL}, float64, epsilon 0.1, n = m = {_TOKENS}", ""]
    head = ["plain / ours", "k", "tau / epsilon", "ours", "plain", "ours ms", "plain ms"]
    head += ["at tol 1e-5: iterations", "plan error", "float32: iterations"]
    cells, claims = [], []
    for k in _KS:
        for row in iteration_rows(units, k):
            cells.append(
                [
                    *(number(row["plain"] / row["ours"]), str(k), str(row["ratio"])),
                    *(f"{row[key]:,}" for key in ("ours", "plain")),
                    *(number(1e3 * row[key]) for key in ("ours_seconds", "plain_seconds")),
                    *(f"{row['default_iterations']}", f"{row['default_error']:.1e}", f"{row['float32_iterations']}"),
                ]
            )
        reasons = {unit: outcome["counts"].get("reason") for unit, outcome in units.items() if unit.startswith(f"{k}-")}
        cells += [["-", *unit.split("-"), f"not run: {why}", *["-"] * 6] for unit, why in reasons.items() if why]
        rows = {row["ratio"]: row for row in iteration_rows(units, k)}
        if RATIOS[-1] in rows:
            last = rows[RATIOS[-1]]
            claims.append(Claim(f"iterations: k {k}, plain over ours at 1000", last["plain"] / last["ours"], 1))
    return [*lines, *table(head, cells)], claims
