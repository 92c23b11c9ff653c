"""Dense correspondence of two pictures: GWOT, Shape-of-You, and what they are compared with."""

from saot.match.adapter import Adapter, token_map
from saot.match.adapter_file import KeptAdapter, adapted, load_adapter, save_adapter, token_maps
from saot.match.drawing import GAP, beside
from saot.match.gwot import GWOT_SPAIR, GWOT_TSS, GwotResult, GwotSettings, match_gwot, solve_gwot
from saot.match.inputs import MatchRequest
from saot.match.lift import Camera, LiftedTokens, lift_depth, lift_file, lift_flat, lift_points
from saot.match.lift_models import lifting_model
from saot.match.masks import token_mask
from saot.match.matching import METHODS, Matching, MatchSettings, UotSettings, match_sides, plan_confidence
from saot.match.neighbours import Disk, LocalStructure
from saot.match.pck import KeyPointScores, PckTable, flow_hits, point_hits
from saot.match.pose_align import choose_pose, mirror_points, mirror_side
from saot.match.propagate import (
    Carried,
    PropagationSettings,
    StepSettings,
    label_agreement,
    predict_labels,
    propagate_labels,
)
from saot.match.readout import Readout, from_pixels, in_mask, read_out, to_pixels
from saot.match.reduction import Basis, PairBasis, as_it_is, pair_basis, read_dims
from saot.match.run import match_pictures
from saot.match.shape_of_you import PseudoLabel, ShapeOfYouSettings, nearest_label, pseudo_label, shape_of_you
from saot.match.sides import MatchSide
from saot.match.train_adapter import AdapterPair, AdapterSettings, HeldOut, fit_adapter

__all__ = [
    "GAP",
    "GWOT_SPAIR",
    "GWOT_TSS",
    "METHODS",
    "Adapter",
    "AdapterPair",
    "AdapterSettings",
    "Basis",
    "Camera",
    "Carried",
    "Disk",
    "GwotResult",
    "GwotSettings",
    "HeldOut",
    "KeptAdapter",
    "KeyPointScores",
    "LiftedTokens",
    "LocalStructure",
    "MatchRequest",
    "MatchSettings",
    "MatchSide",
    "Matching",
    "PairBasis",
    "PckTable",
    "PropagationSettings",
    "PseudoLabel",
    "Readout",
    "ShapeOfYouSettings",
    "StepSettings",
    "UotSettings",
    "adapted",
    "as_it_is",
    "beside",
    "choose_pose",
    "fit_adapter",
    "flow_hits",
    "from_pixels",
    "in_mask",
    "label_agreement",
    "lift_depth",
    "lift_file",
    "lift_flat",
    "lift_points",
    "lifting_model",
    "load_adapter",
    "match_gwot",
    "match_pictures",
    "match_sides",
    "mirror_points",
    "mirror_side",
    "nearest_label",
    "pair_basis",
    "plan_confidence",
    "point_hits",
    "predict_labels",
    "propagate_labels",
    "pseudo_label",
    "read_dims",
    "read_out",
    "save_adapter",
    "shape_of_you",
    "solve_gwot",
    "to_pixels",
    "token_map",
    "token_maps",
    "token_mask",
]
