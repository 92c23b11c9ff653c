import math

import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from saot.evaluate import ConfusionMatrix, confusion, iou_from_counts


def random_masks(classes=7, shape=(3, 20, 31), seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, shape, generator=generator, dtype=torch.uint8)
    pred = torch.where(
        torch.rand(shape, generator=generator) < 0.6,
        target,
        torch.randint(classes, shape, generator=generator),
    )
    target[torch.rand(shape, generator=generator) < 0.1] = 255
    return pred, target


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts_and_iou_equal_scikit_learn(dtype):
    pred, target = random_masks()
    matrix = ConfusionMatrix(7)
    for one_pred, one_target in zip(pred, target, strict=True):
        matrix.update(one_pred.to(dtype), one_target)
    kept = target != 255
    truth, guess = target[kept].numpy(), pred[kept].numpy()
    assert matrix.counts.tolist() == confusion_matrix(truth, guess, labels=range(7)).tolist()
    expected = torch.from_numpy(jaccard_score(truth, guess, labels=range(7), average=None))
    torch.testing.assert_close(matrix.iou(), expected)
    assert matrix.mean_iou() == pytest.approx(float(expected.mean()))
    assert matrix.accuracy() == pytest.approx(float((truth == guess).mean()))


def test_chunks_do_not_change_the_counts(monkeypatch):
    pred, target = random_masks()
    whole, parts = ConfusionMatrix(7), ConfusionMatrix(7)
    whole.update(pred, target)
    monkeypatch.setattr(confusion, "CHUNK", 100)
    parts.update(pred, target)
    assert whole.to_list() == parts.to_list()


def test_absent_class_is_nan_but_its_false_positives_count():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1]))
    iou = matrix.iou()
    assert iou[:2].tolist() == [pytest.approx(2 / 3), 1.0]
    assert math.isnan(iou[2])
    assert matrix.mean_iou() == pytest.approx((2 / 3 + 1) / 2)
    assert matrix.mean_iou([1]) == 1.0
    assert math.isnan(matrix.mean_iou([2]))


def test_a_class_never_found_counts_as_zero():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert matrix.iou().tolist() == [0.5, 0.0]
    assert matrix.mean_iou() == 0.25


def test_mean_is_of_summed_counts_not_of_pictures():
    one, two = ConfusionMatrix(2), ConfusionMatrix(2)
    one.update(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 1]))
    two.update(torch.tensor([1]), torch.tensor([0]))
    assert (one + two).iou().tolist() == [0.75, 0.5]
    assert one.counts.sum() == 4  # adding leaves the parts alone


def test_nothing_counted():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.empty(0, 5, dtype=torch.uint8), torch.empty(0, 5, dtype=torch.uint8))
    matrix.update(torch.tensor([[200]]), torch.tensor([[255]]))  # whatever is predicted on ignored pixels
    assert matrix.counts.sum() == 0
    assert math.isnan(matrix.mean_iou())
    assert math.isnan(matrix.accuracy())


@pytest.mark.parametrize(
    ("pred", "target", "word"),
    [
        (torch.tensor([0, 3]), torch.tensor([0, 1]), "prediction must hold"),
        (torch.tensor([0, -1]), torch.tensor([0, 1]), "got -1"),
        (torch.tensor([0, 1]), torch.tensor([0, 3]), "truth must hold"),
        (torch.tensor([0, 1]), torch.tensor([[0], [1]]), "upsample"),
    ],
)
def test_wrong_input_is_refused_and_changes_nothing(pred, target, word):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=word):
        matrix.update(pred, target)
    assert matrix.counts.sum() == 0


def test_lists_round_trip_and_refuse():
    pred, target = random_masks()
    matrix = ConfusionMatrix(7)
    matrix.update(pred, target)
    assert torch.equal(ConfusionMatrix.from_list(matrix.to_list()).counts, matrix.counts)
    for wrong in ([[1, 2]], [[1, -1], [0, 0]], [[0.5, 0], [0, 0]]):
        with pytest.raises(ValueError, match="counts must be"):
            ConfusionMatrix.from_list(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="cannot add"):
        matrix + ConfusionMatrix(3)
    with pytest.raises(ValueError, match="indices"):
        matrix.mean_iou([7])


def test_batched_iou_equals_one_by_one():
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(9, (4, 5, 5), generator=generator)
    counts[2, 3] = 0
    together = iou_from_counts(counts)
    for index in range(4):
        torch.testing.assert_close(together[index], iou_from_counts(counts[index]), equal_nan=True)
    assert together.isnan().sum() == 1
