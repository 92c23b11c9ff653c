"""The main job: from a labelled source and an unlabelled target to masks, a network and a report."""

from saot.label.cells import seen
from saot.label.choice import chosen_adjustment, held_out_scores
from saot.label.competitors import (
    TokenBank,
    balanced_transport,
    choose_probe,
    fit_linear_probe,
    knn,
    label_propagation,
    nearest_neighbor,
    prototype_scores,
    reliable_transport,
    unbalanced_transport,
)
from saot.label.decoders import pseudo_term, saot_decoder
from saot.label.domains import Domain, draw_tokens, load_maps
from saot.label.finished import classes_of, evaluate_run, predict_pictures
from saot.label.inputs import digest, open_inputs, points_request
from saot.label.job import Job, class_frequencies, merge_facts, open_job
from saot.label.networks import has_points, keep_network, kept_network, network, points_term, source_pool, source_term
from saot.label.paper import learned_cost, similarities
from saot.label.partial import noted_methods, score_some
from saot.label.rivals import Scorer, method_builders, mlp_network, network_scorer, of_tokens
from saot.label.run import RunOutcome, check_device, device_name, run_job, versions
from saot.label.scoring import confusion_of, spread_pictures
from saot.label.settings import RunSettings, parse_size, store_folder
from saot.label.summary import thinned
from saot.label.wings import NO_WINGS, Labeller, PullWing, Wings

__all__ = [
    "NO_WINGS",
    "Domain",
    "Job",
    "Labeller",
    "PullWing",
    "RunOutcome",
    "RunSettings",
    "Scorer",
    "TokenBank",
    "Wings",
    "balanced_transport",
    "check_device",
    "choose_probe",
    "chosen_adjustment",
    "class_frequencies",
    "classes_of",
    "confusion_of",
    "device_name",
    "digest",
    "draw_tokens",
    "evaluate_run",
    "fit_linear_probe",
    "has_points",
    "held_out_scores",
    "keep_network",
    "kept_network",
    "knn",
    "label_propagation",
    "learned_cost",
    "load_maps",
    "merge_facts",
    "method_builders",
    "mlp_network",
    "nearest_neighbor",
    "network",
    "network_scorer",
    "noted_methods",
    "of_tokens",
    "open_inputs",
    "open_job",
    "parse_size",
    "points_request",
    "points_term",
    "predict_pictures",
    "prototype_scores",
    "pseudo_term",
    "reliable_transport",
    "run_job",
    "saot_decoder",
    "score_some",
    "seen",
    "similarities",
    "source_pool",
    "source_term",
    "spread_pictures",
    "store_folder",
    "thinned",
    "unbalanced_transport",
    "versions",
]
