"""What the presets of matching have in common: pairs, methods and columns."""

from saot.tables.matching.model import MatchColumn
from saot.tables.model import Changes

PAIRS = "scenes-pairs:turned:val"
DIFFUSE_UOT: Changes = {"method": "uot", "uot.epsilon": 1.0, "uot.tau": 0.75}  # Shape-of-You's "Semantic UOT"
NEAREST: Changes = {"method": "nn"}
SPAIR_GWOT: Changes = {"method": "gwot", "gwot.cost": 0.6, "gwot.structure": 0.1, "gwot.marginal": 0.01}
TSS_GWOT: Changes = {"method": "gwot"}
SHAPE: Changes = {"method": "shape-of-you"}


def points(*alphas: float) -> tuple[MatchColumn, ...]:
    return tuple(MatchColumn(f"{alpha:g}", f"PCK@{alpha:g}", alpha) for alpha in alphas)


GENERATED_NOTE = (
    "Pairs of the built-in scenes' objects at headings of their own, exact key points; each seed draws others."
)
