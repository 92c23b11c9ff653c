"""The main job: from a labelled source and an unlabelled target to masks, a network and a report."""

from saot.label.best import saot_decoder, taught_decoder
from saot.label.choice import chosen_adjustment, held_out_scores, sample_tokens
from saot.label.data import Bench, EvaluationData, Source, TrainingData
from saot.label.domains import Domain, draw_tokens, fingerprints, label_maps
from saot.label.finished import classes_of, evaluate_run, predict_pictures
from saot.label.inputs import digest, open_inputs, points_request
from saot.label.networks import Trained, network, term_identity, train_once
from saot.label.paper import (
    learned_cost,
    new_cost,
    packed_cost,
    pseudo_term,
    refine_terms,
    similarities,
    source_prototypes,
    unpacked_cost,
)
from saot.label.run import RunOutcome, all_methods, open_contest, run_job, score_some
from saot.label.scoring import Builders, Contest, Scorer, answers_of, confusion_of, network_scorer, spread_pictures
from saot.label.settings import RunSettings, parse_size, store_folder
from saot.label.summary import thinned
from saot.label.terms import points_pool, points_term, pull_of, source_pool, source_term
from saot.label.wings import NO_WINGS, Labeller, PullWing, Wings

__all__ = [
    "NO_WINGS",
    "Bench",
    "Builders",
    "Contest",
    "Domain",
    "EvaluationData",
    "Labeller",
    "PullWing",
    "RunOutcome",
    "RunSettings",
    "Scorer",
    "Source",
    "Trained",
    "TrainingData",
    "Wings",
    "all_methods",
    "answers_of",
    "chosen_adjustment",
    "classes_of",
    "confusion_of",
    "digest",
    "draw_tokens",
    "evaluate_run",
    "fingerprints",
    "held_out_scores",
    "label_maps",
    "learned_cost",
    "network",
    "network_scorer",
    "new_cost",
    "open_contest",
    "open_inputs",
    "packed_cost",
    "parse_size",
    "points_pool",
    "points_request",
    "points_term",
    "predict_pictures",
    "pseudo_term",
    "pull_of",
    "refine_terms",
    "run_job",
    "sample_tokens",
    "saot_decoder",
    "score_some",
    "similarities",
    "source_pool",
    "source_prototypes",
    "source_term",
    "spread_pictures",
    "store_folder",
    "taught_decoder",
    "term_identity",
    "thinned",
    "train_once",
    "unpacked_cost",
]
