"""Every table and figure of the papers as one value each, and those that the papers lack."""

from saot.tables.experiment import Experiment
from saot.tables.presets import (
    ablations,
    figures,
    gwot,
    main_tables,
    matching,
    ours,
    resolutions,
    settings_tables,
    shape_of_you,
    t2s_da,
    text_claims,
)

_ALL: tuple[Experiment, ...] = (
    *(main_tables.TABLE_1, main_tables.TABLE_2, ablations.TABLE_3, ablations.TABLE_4, ablations.TABLE_5),
    *(ablations.TABLE_6, main_tables.TABLE_7, main_tables.TABLE_8, settings_tables.TABLE_9, main_tables.TABLE_10),
    *(settings_tables.TABLE_11, settings_tables.TABLE_12, settings_tables.TABLE_13, settings_tables.TABLE_14),
    *(settings_tables.STRUCTURE, settings_tables.OUTLOOK),
    *(resolutions.TABLE_15, resolutions.TABLE_16, resolutions.TABLE_17, ablations.TABLE_18, ablations.TABLE_19),
    *(resolutions.TABLE_20, resolutions.TABLE_21),
    *figures.FIGURES,
    *(text_claims.MASS, text_claims.EPSILON, text_claims.TAU, text_claims.K, text_claims.LAMBDA_SEM),
    *(text_claims.CLASS_BALANCE, text_claims.RARITY, text_claims.OVERTRAINING, text_claims.SYNTHIA),
    *(ours.BUDGET, ours.BEST, ours.BEST_CLASSES, ours.BEST_ABLATION, ours.BRIDGE, ours.FUSION),
    *gwot.GWOT,
    *shape_of_you.SHAPE_OF_YOU,
    *(matching.REAL, matching.WARPS, matching.SEQUENCE, matching.DRIVE),
    *t2s_da.T2S_DA,
)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}


def experiment_named(name: str) -> Experiment:
    """The preset of this name.

    Raises:
        ValueError: If there is none; says how to list them.

    Example:
        >>> experiment_named("saot-table-5").rows[0].paper["miou"]
        12.6
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"expected a table or figure that `saot reproduce --list` names, such as saot-table-1; got {name!r}"
        )
    return EXPERIMENTS[name]
