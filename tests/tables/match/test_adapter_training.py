"""Adapters behind rows: what they are trained on, and that a store changes nothing."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.pair_tables import PAIRS, REQUEST, opened

from saot.features import FeatureStore
from saot.tables import Request
from saot.tables.match.adapter_training import trained_adapter
from saot.tables.match.matching import seeded
from saot.tables.match.viewer import Viewer, network_of
from saot.tables.match.way import AdapterPlan


def test_adapter_plans_differ_in_what_they_are_trained_on():
    plan = AdapterPlan(PAIRS)
    others = [replace(plan, labels="nearest"), replace(plan, label_changes={"topk": 1}), replace(plan, count=2)]
    assert len({json.dumps(one.identity()) for one in [plan, *others]}) == 4


def test_later_settings_leave_kept_adapters_valid_and_tell_new_ones_apart():
    plan = AdapterPlan(PAIRS, changes={"steps": 2})
    assert len(plan.identity()) == 6  # as files of earlier tables have it
    same = plan.asked(Request())
    assert same.identity() == plan.identity()
    asked = [Request(counts="paper"), Request(held_out=3), Request(target="tss:x")]
    assert len({json.dumps(plan.asked(one).identity()) for one in [Request(), *asked]}) == 4
    paper = plan.asked(asked[0])
    assert (paper.count, paper.width, paper.changes["steps"]) == (None, 768, 200_000)


def test_features_masks_and_weights_are_those_of_the_training_set(tmp_path):
    """Pairs that a store keeps are opened when drawn; the adapter is that of pairs held in memory."""
    request = replace(REQUEST, target=PAIRS, held_out=1, counts="tiny")
    plan = AdapterPlan("").asked(request)
    network = network_of(request)
    pairs = opened(seeded(PAIRS, 0))
    drawn = trained_adapter(plan, list(pairs), Viewer(network, None, None, None), tmp_path / "one", 0)
    store = FeatureStore(tmp_path / "store", network.key)
    kept = trained_adapter(plan, list(pairs), Viewer(network, store, None, None), tmp_path / "two", 0)
    for one, other in zip(drawn.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)  # the store has half precision
    with pytest.raises(ValueError, match="are held out"):
        trained_adapter(replace(plan, held_out=3), list(pairs), Viewer(network, None, None, None), tmp_path, 0)
