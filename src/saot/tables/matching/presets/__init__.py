"""Tables of GWOT and Shape-of-You, with the papers' numbers, and those that ask of each part whether it helps."""

from saot.tables.matching.model import MatchExperiment
from saot.tables.matching.presets import gwot, ours, shape_of_you
from saot.tables.matching.sequence import SequenceExperiment

MATCH_EXPERIMENTS: dict[str, MatchExperiment | SequenceExperiment] = {
    experiment.name: experiment
    for experiment in (
        gwot.GWOT_SPAIR,
        gwot.GWOT_TSS,
        gwot.GWOT_PF_PASCAL,
        gwot.GWOT_ABLATION,
        gwot.GWOT_COST,
        shape_of_you.SOY_LABELS,
        shape_of_you.SOY_SETTINGS,
        shape_of_you.SOY_SPAIR,
        shape_of_you.SOY_TRAINING,
        shape_of_you.ap10k("intra", 65.5, 68.0),
        shape_of_you.ap10k("species", 63.3, 65.8),
        shape_of_you.ap10k("family", 51.1, 52.9),
        ours.WARPS,
        ours.SEQUENCE,
    )
}
