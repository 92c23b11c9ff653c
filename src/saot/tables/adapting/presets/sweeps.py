"""T2S-DA's sensitivity to its numbers: tables S6 to S10."""

from collections.abc import Mapping
from typing import Any

from saot.tables.adapting.model import AdaptExperiment, AdaptRow
from saot.tables.adapting.presets.names import SMALL_NOTE


def _sweep(name: str, title: str, location: str, path: str, papers: Mapping[Any, str], symbol: str) -> AdaptExperiment:
    return AdaptExperiment(
        name=name,
        title=title,
        location=location,
        reference="No pull",
        rows=(
            AdaptRow("No pull", "dacs", paper={"miou": "68.3 ± 0.5"}),
            *(
                AdaptRow(f"{symbol} = {value}", changes={path: value}, paper={"miou": paper})
                for value, paper in papers.items()
            ),
        ),
        notes=(SMALL_NOTE,),
    )


LAMBDA = _sweep(
    "t2s-da-lambda", "Weight of the pull loss", "T2S-DA, Tab. S6", "pull.weight",
    {0.01: "68.3 ± 0.9", 0.1: "70.0 ± 0.6", 0.5: "68.2 ± 0.6", 1.0: "67.3 ± 0.4"}, "λ",
)  # fmt: skip
TAU = _sweep(
    "t2s-da-tau", "Temperature of the pull loss", "T2S-DA, Tab. S7", "pull.settings.temperature",
    {0.02: "69.3 ± 0.4", 0.2: "70.0 ± 0.6", 0.5: "68.8 ± 0.7", 1.0: "69.0 ± 0.1"}, "τ",
)  # fmt: skip
BETA = _sweep(
    "t2s-da-beta", "Power of the re-weighting", "T2S-DA, Tab. S8", "pull.settings.weight_power",
    {0.1: "69.9 ± 0.6", 0.5: "70.0 ± 0.6", 1.0: "68.8 ± 0.4", 2.0: "69.0 ± 0.5"}, "β",
)  # fmt: skip
ALPHA = _sweep(
    "t2s-da-alpha", "Share of target pixels that count as unreliable", "T2S-DA, Tab. S9", "pull.settings.unreliable",
    {0.1: "69.5 ± 0.1", 0.5: "70.0 ± 0.6", 0.9: "69.4 ± 0.5"}, "α",
)  # fmt: skip

QUERIES = AdaptExperiment(
    name="t2s-da-queries",
    title="Numbers of queries and negatives",
    location="T2S-DA, Tab. S10",
    reference="No pull",
    rows=(
        AdaptRow("No pull", "dacs", paper={"miou": "68.3 ± 0.5"}),
        *(
            AdaptRow(
                f"n = {n}, m = {m}",
                changes={"pull.settings.base_queries": n, "pull.settings.negatives": m},
                paper={"miou": paper},
            )
            for n, m, paper in (
                (64, 1024, "68.7 ± 0.3"),
                (128, 1024, "70.0 ± 0.6"),
                (256, 1024, "69.3 ± 0.5"),
                (128, 512, "69.5 ± 0.5"),
                (128, 2048, "68.8 ± 0.3"),
            )
        ),
    ),
    notes=(SMALL_NOTE,),
)
