import math
from dataclasses import replace

import pytest
import torch
from helpers.decoder import SMALL, pictures, pool_of
from torch.testing import assert_close

from saot.decoder import Focal, TargetTokens, Term, TokenDecoder, fit_decoder
from saot.decoder.distill import confidence_weighted_kl, focal_loss, label_loss
from saot.decoder.refine import PseudoLabels, teacher_labels
from saot.recipes import RefineRecipe

pytestmark = pytest.mark.training


def test_focal_loss_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # p of the true class: 1/4 and 1/2
    focal = Focal(gamma=2.0, class_weights=(0.5, 3.0))
    first, second = 3.0 * (3 / 4) ** 2 * math.log(4), 0.5 * (1 / 2) ** 2 * math.log(2)
    classes = torch.tensor([1, 0])
    assert_close(focal_loss(logits, classes, focal), torch.tensor((first + second) / 2))
    weighted = focal_loss(logits, classes, focal, torch.tensor([0.9, 0.1]))
    assert_close(weighted, torch.tensor(0.9 * first + 0.1 * second))


def test_focal_loss_without_focus_is_cross_entropy():
    logits, classes = torch.randn(20, 4), torch.randint(0, 4, (20,))
    plain = Focal(gamma=0.0, class_weights=(1.0,) * 4)
    assert_close(focal_loss(logits, classes, plain), torch.nn.functional.cross_entropy(logits, classes))


def test_focal_loss_of_a_certain_answer_has_a_gradient():
    logits = torch.tensor([[60.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), Focal(2.0, (1.0, 1.0))).backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_weights_are_a_mean(smoothing):
    logits, classes, even = torch.randn(8, 3), torch.randint(0, 3, (8,)), torch.full((8,), 1 / 8)
    assert_close(label_loss(logits, classes, smoothing, weights=even), label_loss(logits, classes, smoothing))
    soft = torch.softmax(torch.randn(8, 3), -1)
    assert_close(label_loss(logits, soft, weights=even), confidence_weighted_kl(logits, soft))


def test_a_focal_term_trains_by_its_weights():
    features, labels = pictures(count=6)
    pool = pool_of(features, labels)

    def fitted(weights: tuple[float, ...]) -> torch.Tensor:
        torch.manual_seed(0)
        term = Term("focal", pool, 1.0, Focal(2.0, weights))
        decoder = fit_decoder(TokenDecoder(6, 3, 16, 1), [term], replace(SMALL, class_power=1.0, steps=30)).decoder
        return decoder(torch.cat(features)).argmax(-1)

    assert not bool((fitted((1.0, 1.0, 0.0)) == 2).any())
    assert float((fitted((0.01, 0.01, 50.0)) == 2).float().mean()) > 0.5


def test_the_head_alone_is_trained():
    features, labels = pictures()
    torch.manual_seed(0)
    decoder = TokenDecoder(6, 3, 16, 1, dropout=0.9)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    terms = [Term("s", pool_of(features, labels))]
    modes: list[bool] = []
    fit = fit_decoder(decoder, terms, SMALL, part="head", progress=lambda done, total: modes.append(decoder.training))
    assert not any(modes)  # no dropout disturbs the body
    after = fit.decoder
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert all(p.requires_grad for p in after.parameters())
    read, classes = terms[0].pool.read(torch.arange(len(terms[0].pool)))
    assert float((after(read.float()).argmax(-1) == classes).float().mean()) > 0.8


def test_soft_pseudo_labels_are_the_teachers_answers_when_they_were_made():
    features, _ = pictures()
    target = TargetTokens(len(features), lambda p: features[p], lambda p, t: features[p][t], 6)
    config = RefineRecipe(pseudo="soft", sharpen=0.5)
    torch.manual_seed(0)
    teacher = TokenDecoder(6, 3, 16, 1).eval()
    pseudo = PseudoLabels(teacher, target, config)
    with torch.no_grad():
        teacher.head.bias.add_(torch.tensor([0.5, 0.0, -0.5]))  # a teacher that has moved since the start
    pseudo.make(0)
    with torch.no_grad():
        expected = torch.softmax(teacher(features[1]) / 0.5, -1)
        kept = teacher_labels(teacher, target, config)[1] != 255
        for parameter in teacher.parameters():
            parameter.add_(1.0)
    pool = pseudo.pool()
    mine = (pool.picture == 1).nonzero().flatten()
    _, soft = pool.read(mine)
    assert_close(soft, expected[pool.token[mine].long()])
    assert sorted(pool.token[mine].tolist()) == kept.nonzero().flatten().tolist()
    assert torch.equal(pool.label[mine].long(), soft.argmax(-1))
