"""The main job: from a labelled source and an unlabelled target to masks, a network and a report.

The room can be called: `saot.label(source, target, out=...)` is `saot run` from Python; see `saot.api.label`.
"""

import sys
from types import ModuleType
from typing import Any

from saot.label.best import joint_decoder, saot_decoder, taught_decoder
from saot.label.data import (
    Bench,
    Domain,
    EvaluationData,
    Source,
    TrainingData,
    draw_tokens,
    fingerprints,
    label_maps,
)
from saot.label.expected import ExpectedStage, Expecting, expected_stages
from saot.label.finished import Evaluation, FinishedRun, classes_of, evaluate_run, open_evaluation, open_run
from saot.label.fusion import declared_pixels, probs_at
from saot.label.inputs import Inputs, check_manifest, digest, keep_manifest, kept_manifest, open_inputs
from saot.label.networks import (
    Trained,
    network,
    points_pool,
    points_term,
    pull_of,
    source_pool,
    source_term,
    term_identity,
    train_once,
)
from saot.label.new_pictures import (
    LabelledPictures,
    MaskWork,
    NewPicture,
    class_scores,
    label_found,
    open_abstaining,
    plan_masks,
    predict_pictures,
    visible,
)
from saot.label.opening import declare, label_source, open_points
from saot.label.paper import (
    learned_cost,
    new_cost,
    packed_cost,
    pair_data,
    pseudo_term,
    refine_terms,
    similarities,
    source_prototypes,
    unpacked_cost,
)
from saot.label.prediction import Prediction, picture_of
from saot.label.quality import said
from saot.label.run import RunOutcome, open_contest, reopened, run_job, score_some
from saot.label.scoring import (
    UNADJUSTED,
    Builders,
    Compare,
    Contest,
    Scorer,
    all_methods,
    answers_of,
    chosen_adjustment,
    confusion_of,
    decided,
    held_out_scores,
    network_scorer,
    sample_tokens,
    spread_pictures,
)
from saot.label.settings import (
    RunSettings,
    fingerprints_file,
    parse_size,
    points_request,
    seen_beside,
    size_folder,
    sizes_of,
    store_folder,
)
from saot.label.sizes import SizesDecoder, fit_weights, join
from saot.label.summary import thinned
from saot.label.wings import NO_WINGS, Labelled, Labeller, PullWing, Wings

__all__ = [
    "NO_WINGS",
    "UNADJUSTED",
    "Bench",
    "Builders",
    "Compare",
    "Contest",
    "Domain",
    "Evaluation",
    "EvaluationData",
    "ExpectedStage",
    "Expecting",
    "FinishedRun",
    "Inputs",
    "Labelled",
    "LabelledPictures",
    "Labeller",
    "MaskWork",
    "NewPicture",
    "Prediction",
    "PullWing",
    "RunOutcome",
    "RunSettings",
    "Scorer",
    "SizesDecoder",
    "Source",
    "Trained",
    "TrainingData",
    "Wings",
    "all_methods",
    "answers_of",
    "check_manifest",
    "chosen_adjustment",
    "class_scores",
    "classes_of",
    "confusion_of",
    "decided",
    "declare",
    "declared_pixels",
    "digest",
    "draw_tokens",
    "evaluate_run",
    "expected_stages",
    "fingerprints",
    "fingerprints_file",
    "fit_weights",
    "held_out_scores",
    "join",
    "joint_decoder",
    "keep_manifest",
    "kept_manifest",
    "label_found",
    "label_maps",
    "label_source",
    "learned_cost",
    "network",
    "network_scorer",
    "new_cost",
    "open_abstaining",
    "open_contest",
    "open_evaluation",
    "open_inputs",
    "open_points",
    "open_run",
    "packed_cost",
    "pair_data",
    "parse_size",
    "picture_of",
    "plan_masks",
    "points_pool",
    "points_request",
    "points_term",
    "predict_pictures",
    "probs_at",
    "pseudo_term",
    "pull_of",
    "refine_terms",
    "reopened",
    "run_job",
    "said",
    "sample_tokens",
    "saot_decoder",
    "score_some",
    "seen_beside",
    "similarities",
    "size_folder",
    "sizes_of",
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
    "visible",
]


class _Room(ModuleType):
    """This room as a function; the core knows no wing, so the package above it says what the function is."""

    def __call__(self, source: str, target: str, **options: Any) -> Any:
        """`saot.api.label` with these arguments."""
        import saot

        return saot._run_from_python(source, target, **options)


sys.modules[__name__].__class__ = _Room
