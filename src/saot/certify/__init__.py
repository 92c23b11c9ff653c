"""Whether confidences mean what they say, and what may be labelled with a guarantee."""

from saot.certify.calibration import (
    SCORE_LIMIT,
    Calibration,
    CalibrationScores,
    ReliabilityBins,
    RiskCoverage,
    ScoreHistogram,
    class_shares,
    fit_logistic,
    fit_temperature,
    log_odds,
)
from saot.certify.conformal import (
    Threshold,
    binomial_p_value,
    bounded_mean_p_value,
    class_error_threshold,
    class_limits,
    clopper_pearson_upper,
    one_per_group,
    prediction_sets,
    selective_threshold,
)
from saot.certify.estimate import QualityEstimate, between, estimate_quality

__all__ = [
    "SCORE_LIMIT",
    "Calibration",
    "CalibrationScores",
    "QualityEstimate",
    "ReliabilityBins",
    "RiskCoverage",
    "ScoreHistogram",
    "Threshold",
    "between",
    "binomial_p_value",
    "bounded_mean_p_value",
    "class_error_threshold",
    "class_limits",
    "class_shares",
    "clopper_pearson_upper",
    "estimate_quality",
    "fit_logistic",
    "fit_temperature",
    "log_odds",
    "one_per_group",
    "prediction_sets",
    "selective_threshold",
]
