"""Every table of T2S-DA with its numbers, and one of ours."""

from saot.tables.adapting.model import AdaptExperiment
from saot.tables.adapting.presets.domains import FEATURES, ROADS, SOURCE
from saot.tables.adapting.presets.methods import TABLE_1, TABLE_2, TABLE_3, TABLE_S1, TABLE_S2
from saot.tables.adapting.presets.parts import (
    COMPONENTS,
    DIRECTION,
    DIRECTION_CNN,
    OBJECTIVE,
    REWEIGHTING,
    SAMPLING,
    TRANSLATOR,
)
from saot.tables.adapting.presets.sweeps import ALPHA, BETA, LAMBDA, QUERIES, TAU

ADAPT_EXPERIMENTS: dict[str, AdaptExperiment] = {
    experiment.name: experiment
    for experiment in (
        TABLE_1,
        TABLE_2,
        TABLE_3,
        DIRECTION,
        OBJECTIVE,
        SAMPLING,
        REWEIGHTING,
        TRANSLATOR,
        TABLE_S1,
        TABLE_S2,
        DIRECTION_CNN,
        COMPONENTS,
        LAMBDA,
        TAU,
        BETA,
        ALPHA,
        QUERIES,
        SOURCE,
        FEATURES,
        ROADS,
    )
}
