"""Markdown tables and the list of claims: what was to be shown, what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Outcome = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """Something to be shown.

    Attributes:
        what: In words.
        value: What was measured; None if it could not be.
        goal: The bound.
        least: Whether `goal` is the least value allowed, else the most.
        unit: Behind both numbers.
    """

    what: str
    value: float | None
    goal: float
    least: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        """Whether it holds; None if it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal

    def row(self) -> list[str]:
        """Its line in the table."""
        shown = "not measured" if self.value is None else f"{number(self.value)} {self.unit}"
        word = {True: "yes", False: "**no**", None: "-"}[self.met]
        return [self.what, f"{'>=' if self.least else '<='} {number(self.goal)} {self.unit}", shown, word]


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, no exponent between 0.001 and a million."""
    if value is None or value != value:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.2e}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    places = max(0, digits - 1 - next(p for p in range(2, -5, -1) if abs(value) >= 10**p))
    return f"{value:.{places}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def claims_table(claims: Sequence[Claim]) -> list[str]:
    """What was to be shown and whether it was."""
    return table(["to be shown", "goal", "measured", "met"], [claim.row() for claim in claims])


def ratio(outcomes: Mapping[str, Outcome], above: str, below: str, key: str = "best") -> float | None:
    """How much larger one contender's number is than another's; None where one did not run."""
    top, bottom = outcomes.get(above, {}).get(key), outcomes.get(below, {}).get(key)
    return top / bottom if top is not None and bottom else None


def base_claims(outcomes: Mapping[str, Outcome], goals: Mapping[str, float], what: str) -> list[Claim]:
    """How many times as fast each of these contenders is as at the base; none where no base was measured."""
    return [
        Claim(f"{what}: {outcomes[key]['title']}, the base over it", ratio(outcomes, base, key), goal)
        for key, goal in goals.items()
        if (base := f"{key.removesuffix('_fast')}_base") in outcomes and key in outcomes
    ]


def best_of(outcomes: Mapping[str, Outcome], keys: Sequence[str]) -> float | None:
    """The fastest of several contenders, those that ran; None if none did."""
    times = [outcomes[key]["best"] for key in keys if "best" in outcomes.get(key, {})]
    return min(times) if times else None


def over(above: float | None, below: float | None) -> float | None:
    """A quotient, None where a part is missing."""
    return above / below if above is not None and below else None


def race_table(
    outcomes: Mapping[str, Outcome], against: Mapping[str, str], errors: str = "plan error", memory: bool = False
) -> list[str]:
    """One line a contender: its time over each of `against` (heading: key), times, error, memory, versions."""
    head = [*against, "contender", "best ms", "median ms", errors, *(["extra MiB"] if memory else []), "versions"]
    rows = []
    for key, outcome in outcomes.items():
        if "best" not in outcome:
            blank = ["-"] * len(against)
            missing = f"not run: {outcome.get('reason', 'no repeat')}".replace("|", "/")
            rows.append([*blank, outcome["title"], "-", "-", "-", *(["-"] if memory else []), missing])
            continue
        rows.append(
            [
                *(number(ratio(outcomes, key, base)) for base in against.values()),
                outcome["title"],
                number(1e3 * outcome["best"]),
                number(1e3 * outcome["median"]),
                f"{outcome['error']:.1e}" if "error" in outcome else "-",
                *([_memory(outcome)] if memory else []),
                ", ".join(f"{name} {version}" for name, version in outcome.get("versions", {}).items()),
            ]
        )
    return table(head, rows)


def _memory(outcome: Outcome) -> str:
    return number(outcome["extra_mib"]) if "extra_mib" in outcome else outcome.get("memory_reason", "-")
