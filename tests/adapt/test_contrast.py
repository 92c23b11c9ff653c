"""Which features are pulled where, and what each class weighs: the switches against their parts."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from saot.adapt.contrast import loss_weights, pixel_weights, positive_keys, pull
from saot.adapt.pull import (
    PullBatch,
    PullSettings,
    class_confidence,
    class_weights,
    pull_loss,
    source_prototypes,
)
from saot.adapt.recipe import PullRecipe
from saot.adapt.teacher import PseudoLabels

SETTINGS = PullSettings(base_queries=6, negatives=8)
RECIPE = PullRecipe(settings=SETTINGS)


def told() -> PseudoLabels:
    """Class 0 is sure, class 1 is not, class 2 does not appear."""
    labels = torch.tensor([[[0, 0, 1], [0, 1, 1]]])
    confidence = torch.where(labels == 0, 0.9, 0.4)
    return PseudoLabels(labels, confidence, torch.ones(1, 2, 3), torch.ones(1))


def batch(grad: bool = False) -> PullBatch:
    source, target = torch.randn(12, 5), torch.randn(9, 5)
    queries = torch.randn(12, 5).requires_grad_(grad)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 255, 0, 1])
    return PullBatch(queries, source, labels, target, torch.arange(9) % 3, torch.rand(9))


@pytest.mark.parametrize("of", ["pull", "target"])
@pytest.mark.parametrize("reweight", ["pull", "target", "none"])
def test_dynamic_weights_are_put_where_the_recipe_says(of, reweight):
    found = loss_weights(told(), 3, replace(RECIPE, reweight=reweight), of)
    if of != reweight:
        assert_close(found, torch.full((3,), 1 / 3))
        return
    made = told()
    assert_close(found, class_weights(*class_confidence(made.confidence, made.labels, 3), SETTINGS))
    # Eqs. (12), (13) with beta 0.5: (1 - conf) over the largest 1 - conf; the absent class weighs as the largest
    powers = torch.tensor([(0.1 / 0.6) ** 0.5, 1.0, 1.0], dtype=torch.float64)
    assert_close(found.double(), powers / powers.sum(), rtol=1e-6, atol=0)  # confidences in single precision


def test_without_pseudo_labels_all_classes_weigh_the_same():
    for of in ("pull", "target"):
        assert_close(loss_weights(None, 4, replace(RECIPE, reweight=of), of), torch.full((4,), 0.25))


def test_fixed_weights_are_scaled_and_of_the_pull_loss_alone():
    recipe = replace(RECIPE, reweight="fixed", fixed_weights=(1.0, 1.0, 2.0))
    assert_close(loss_weights(told(), 3, recipe, "pull"), torch.tensor([0.25, 0.25, 0.5]))
    assert_close(loss_weights(told(), 3, recipe, "target"), torch.full((3,), 1 / 3))


def test_pixels_weigh_what_their_class_does():
    labels = torch.tensor([[[0, 1, 2], [255, 1, -1]]])
    assert_close(
        pixel_weights(labels, torch.tensor([0.5, 0.3, 0.2])),
        torch.tensor([[[1.5, 0.9, 0.6], [1.0, 0.9, 1.0]]]),
    )
    assert torch.equal(pixel_weights(labels, torch.full((4,), 0.25)), torch.ones(1, 2, 3))


def test_keys_of_every_kind():
    made, other = batch(), torch.randn(12, 5)
    kinds = {
        "source": source_prototypes(made.source, made.labels, 3),
        "target": source_prototypes(made.target, made.pseudo_labels, 3),
        "pseudo_target": source_prototypes(other, made.labels, 3),
    }
    for kind, wanted in kinds.items():
        found = positive_keys(made, other, 3, replace(RECIPE, positives=kind))
        assert torch.equal(found.means, wanted.means) and torch.equal(found.present, wanted.present)
    assert len({float(keys.means[0, 0]) for keys in kinds.values()}) == 3
    with pytest.raises(ValueError, match="teacher's features of the translation"):
        positive_keys(made, None, 3, replace(RECIPE, positives="pseudo_target"))


@pytest.mark.parametrize("positives", ["source", "target", "pseudo_target"])
def test_the_loss_is_that_of_the_keys_and_moves_the_queries_alone(positives):
    made, other, weights = batch(grad=True), torch.randn(12, 5), torch.tensor([0.2, 0.3, 0.5])
    recipe = replace(RECIPE, positives=positives)
    found = pull(made, other, weights, recipe, torch.Generator().manual_seed(1))
    keys = positive_keys(made, other, 3, recipe)
    wanted = pull_loss(made, weights, SETTINGS, torch.Generator().manual_seed(1), keys)
    assert torch.equal(found.loss, wanted.loss) and float(found.loss.detach()) > 0
    found.loss.backward()
    grad = made.queries.grad
    assert grad is not None and float(grad.abs().sum()) > 0 and float(grad[9].abs().sum()) == 0  # an ignored pixel
