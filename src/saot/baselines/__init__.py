"""Every competitor, trained properly."""

from saot.baselines.bank import TokenBank
from saot.baselines.fixed_cost import balanced_transport, reliable_transport, unbalanced_transport
from saot.baselines.nearest import knn, label_propagation, nearest_neighbor, prototype_scores
from saot.baselines.probe import LinearProbe, ProbeChoice, choose_probe, fit_linear_probe

__all__ = [
    "LinearProbe",
    "ProbeChoice",
    "TokenBank",
    "balanced_transport",
    "choose_probe",
    "fit_linear_probe",
    "knn",
    "label_propagation",
    "nearest_neighbor",
    "prototype_scores",
    "reliable_transport",
    "unbalanced_transport",
]
