"""Sections "pair" and "step": candidates to labels against its bound, and a training step by part; d = 1024."""

from typing import Any

from machine import build_stream
from problems import ITERATIONS, make_folder
from race import Entry, Setting, race, with_base
from tables import Claim, base_claims, number, over, race_table, ratio, table

SIZES = {"2592-128": (2592, 128), "7200-64": (7200, 64)}
_PRODUCTS = ("product_torch", "product_numpy", "product_onednn")
_READS = 10  # passes over the similarities at each repeat of the bound; one of them counts
_GOALS = {True: 1.7, False: 2.3}  # times the bound, with [fast] and with torch alone
_PARTS = ("candidates", "cost", "solve", "labels")
_STEP_PARTS = ("candidates", "cost", "solve", "transfer", "losses", "backward", "update")


def pair(setting: Setting, unit: str) -> dict[str, Any]:
    """The race of a whole pair, with every term of its bound as a contender."""
    tokens, k = SIZES[unit]
    folder, library = str(make_folder(setting.data, tokens, k, dense=False)), build_stream(setting.data)

    def ours(title: str, learned: bool, alone: bool) -> Entry:
        return Entry(title, "ours:pair", {"folder": folder, "k": k, "learned": learned}, alone=alone)

    def streamed(title: str, pairs: int, passes: int) -> Entry:
        return Entry(title, "machine:stream", {"pairs": pairs, "passes": passes, "library": library})

    entries = {
        "learned_fast": ours("saot, learned cost, [fast]", True, False),
        "learned": ours("saot, learned cost, torch alone", True, True),
        "fixed_fast": ours("saot, fixed cost, [fast]", False, False),
        "fixed": ours("saot, fixed cost, torch alone", False, True),
        "read": streamed(f"bound: {_READS} reads of the similarities", tokens * tokens // 2, _READS),
        "stream": streamed("bound: 60 passes over the support", tokens * k, 2 * ITERATIONS),
    }
    for how, title in zip(_PRODUCTS, ("torch x @ y.T", "numpy x @ y.T", "oneDNN, private operator"), strict=True):
        options = {"folder": folder, "how": how.removeprefix("product_")}
        entries[how] = Entry(f"bound: similarities, {title}", "machine:product", options)
    return race(with_base(entries, ("learned_fast", "learned"), setting), setting)


def pair_report(units: dict[str, dict[str, Any]]) -> tuple[list[str], list[Claim]]:
    """Tables of every size, and claims."""
    lines, claims = [], []
    for unit, outcomes in units.items():
        tokens, k = SIZES[unit]
        product, read, stream, bound = _bound(outcomes)
        claims += base_claims(outcomes, {"learned": 2}, f"pair {tokens}, k {k}")
        claims += _fast_claims(outcomes, f"pair {tokens}, k {k}")
        lines += [f"### Whole pair, candidates to labels: n = m = {tokens}, k = {k}, d = 1024, float32", ""]
        rows = []
        shown_keys = ("learned_fast", "learned", "fixed_fast", "fixed", "learned_fast_base", "learned_base")
        for key in [key for key in shown_keys if key in outcomes]:
            outcome = outcomes[key]
            best = outcome.get("best")
            if best is None:
                rows.append(["-", outcome["title"], f"not run: {outcome.get('reason')}"] + ["-"] * 5)
                continue
            fastest = min(outcome["parts"], key=lambda parts: parts["total"])
            parts = [number(1e3 * fastest[name]) for name in _PARTS]
            rows.append(
                [
                    number(over(best, bound)),
                    outcome["title"],
                    number(1e3 * best),
                    number(1e3 * outcome["median"]),
                    *parts,
                ]
            )
            if key.endswith("base"):
                continue
            goal = _GOALS[key.endswith("fast")]
            what = f"pair {tokens}, k {k}: {outcome['title']} over the bound"
            claims.append(Claim(what, over(best, bound), goal, False))
        lines += table(["/ bound", "contender", "best ms", "median ms", *(f"{name} ms" for name in _PARTS)], rows)
        shown = ", ".join(number(None if v is None else 1e3 * v) for v in (product, read, stream, bound))
        lines += [f"Bound: product, one read of the similarities, 60 passes; sum: {shown} ms.", ""]
        bounds = {key: value for key, value in outcomes.items() if value["title"].startswith("bound")}
        lines += race_table(bounds, {}, "-")
    return lines, claims


def _fast_claims(outcomes: dict[str, Any], what: str) -> list[Claim]:
    """An extra is to make nothing slower: torch alone over [fast], which noise may hold a little under 1."""
    pairs = {"learned cost": ("learned", "learned_fast"), "fixed cost": ("fixed", "fixed_fast")}
    return [
        Claim(f"{what}: {name}, torch alone over [fast]", ratio(outcomes, *keys), 0.95) for name, keys in pairs.items()
    ]


def _bound(outcomes: dict[str, Any]) -> tuple[float | None, ...]:
    """Seconds of the fastest product, of one read of the similarities, of 60 passes, and their sum."""
    products = [outcomes[key]["best"] for key in _PRODUCTS if "best" in outcomes[key]]
    product = min(products) if products else None
    read, stream = over(outcomes["read"].get("best"), _READS), outcomes["stream"].get("best")
    parts = (product, read, stream)
    return (*parts, None if None in parts else sum(part for part in parts if part is not None))


def step(setting: Setting) -> dict[str, Any]:
    """One training step, with torch alone and with [fast]."""
    folder = str(make_folder(setting.data, 2592, 128, dense=False))
    entries = {
        "fast": Entry("saot, [fast]", "ours:step", {"folder": folder}),
        "alone": Entry("saot, torch alone", "ours:step", {"folder": folder}, alone=True),
    }
    return race(entries, setting)


def step_report(outcomes: dict[str, Any]) -> tuple[list[str], list[Claim]]:
    """Share of each part."""
    rows, claims = [], []
    for outcome in outcomes.values():
        if "best" not in outcome:
            rows.append([outcome["title"], f"not run: {outcome.get('reason')}"] + ["-"] * (2 + len(_STEP_PARTS)))
            continue
        parts = min(outcome["parts"], key=lambda parts: parts["total"])
        shares = [f"{1e3 * parts[name]:.1f} ({parts[name] / parts['total']:.0%})" for name in _STEP_PARTS]
        called = min(one["as called"] for one in outcome["parts"])
        rows.append([outcome["title"], number(outcome["best"]), number(outcome["median"]), number(called), *shares])
        claims.append(Claim(f"step: {outcome['title']}, one step of Algorithm 1", outcome["best"], 0.35, False, "s"))
    head = ["contender", "best s", "median s", "as called s", *(f"{name} ms" for name in _STEP_PARTS)]
    lines = ["### One training step of Algorithm 1: n = m = 2592, k = 128, d = 1024, 19 classes", ""]
    return [*lines, *table(head, rows)], claims
