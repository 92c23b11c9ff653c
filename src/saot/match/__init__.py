"""Dense correspondence of two pictures: GWOT, Shape-of-You, and what they are compared with."""

from saot.match.gwot import GwotResult, match_gwot, solve_gwot
from saot.match.gwot_terms import GWOT_SPAIR, GWOT_TSS, GwotSettings
from saot.match.methods import METHODS, Matching, MatchSettings, UotSettings, match_sides, plan_confidence
from saot.match.propagate import Carried, PropagationSettings, propagate_labels
from saot.match.readout import Readout, from_pixels, read_out, to_pixels
from saot.match.shape_of_you import ShapeOfYouSettings, pseudo_label, shape_of_you
from saot.match.sides import Side

__all__ = [
    "GWOT_SPAIR",
    "GWOT_TSS",
    "METHODS",
    "Carried",
    "GwotResult",
    "GwotSettings",
    "MatchSettings",
    "Matching",
    "PropagationSettings",
    "Readout",
    "ShapeOfYouSettings",
    "Side",
    "UotSettings",
    "from_pixels",
    "match_gwot",
    "match_sides",
    "plan_confidence",
    "propagate_labels",
    "pseudo_label",
    "read_out",
    "shape_of_you",
    "solve_gwot",
    "to_pixels",
]
