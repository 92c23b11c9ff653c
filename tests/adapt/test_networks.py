import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from saot.adapt import Encoder, load_encoder
from saot.adapt.heads import DAFormerHead, DeepLabV2Head
from saot.adapt.networks import Segmenter, build_segmenter
from saot.adapt.teacher import update_ema
from saot.adapt.two_scale import TwoScaleSettings


class Small(Encoder):
    """Two convolutions with normalisation and a bias of positions."""

    family = "small"

    def __init__(self) -> None:
        super().__init__("small", (4, 6), (4, 8), 8, ((127.0,) * 3, (60.0,) * 3))
        self.first, self.second = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 6, 2, 2)
        self.norm = nn.BatchNorm2d(4)
        self.positions = nn.Parameter(torch.zeros(4, 1, 1))

    def maps(self, pixels):
        fine = torch.relu(self.norm(self.first(pixels)) + self.positions)
        return fine, torch.relu(self.second(fine))


def pictures(height: int = 32, width: int = 48) -> torch.Tensor:
    return 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("head", "kind", "stride"), [("daformer", DAFormerHead, 4), ("deeplab-v2", DeepLabV2Head, 8)])
def test_a_network_is_encoder_head_and_projector(head, kind, stride):
    network = build_segmenter(Small(), num_classes=5, head=head).eval()
    assert isinstance(network.head, kind) and network.num_classes == 5
    prediction = network(pictures(), project=True)  # compared up to float32's rounding
    stages = network.encoder(pictures())
    assert prediction.logits.shape == (2, 5, 32 // stride, 48 // stride)
    assert_close(prediction.logits, network.head(stages), rtol=0, atol=1e-5)
    assert_close(prediction.projected, network.projector(stages[-1]), rtol=0, atol=1e-5)
    assert prediction.projected.shape == (2, 256, 4, 6) and float(prediction.projected.detach().min()) >= 0
    assert_close(prediction.stages[0], stages[0], rtol=0, atol=1e-5)
    assert prediction.detail is None
    assert network(pictures()).projected is None
    assert network.multiple == 8


def test_projectors_are_built_as_asked():
    bare = build_segmenter(Small(), 5, projector=False)
    assert bare.projector is None
    with pytest.raises(ValueError, match="projected features were asked of a network without projector"):
        bare(pictures(), project=True)
    linear = build_segmenter(Small(), 5, projector_kernel=3, projector_last="linear")
    assert linear.projector.blocks[1].kernel_size == (3, 3)
    with pytest.raises(ValueError, match="expected the head daformer or deeplab-v2, but 'fcn' came"):
        inspect.unwrap(build_segmenter)(Small(), 5, head="fcn")  # past the checker of the tests


def weights(network: Segmenter) -> list[torch.Tensor]:
    return [value for name, value in network.state_dict().items() if not name.startswith("encoder.")]


@pytest.mark.parametrize("head", ["daformer", "deeplab-v2"])
def test_weights_come_from_the_seed(head):
    encoder, state = Small(), torch.get_rng_state()
    one, same, other = (build_segmenter(encoder, 5, head, two_scale=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(same), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))
    single = build_segmenter(encoder, 5, head, projector=False, seed=1)  # the head does not depend on its neighbours
    assert all(torch.equal(a, b) for a, b in zip(single.head.parameters(), one.head.parameters(), strict=True))
    assert one.training and one.encoder.training


@pytest.mark.parametrize("head", ["daformer", "deeplab-v2"])
@pytest.mark.parametrize("two_scale", [False, True])
def test_every_weight_gets_a_gradient(head, two_scale):
    network = build_segmenter(Small(), 3, head, two_scale)
    prediction = network(pictures(64, 64), project=True, generator=draws())
    loss = prediction.logits.square().sum() + prediction.projected.square().sum()
    loss.backward()
    assert [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()] == []


def test_two_scales_give_fused_and_detail_logits():
    network = build_segmenter(Small(), 3, two_scale=True)
    assert network.multiple == 16
    prediction = network(pictures(64, 96), project=True, generator=draws())
    assert prediction.logits.shape == (2, 3, 16, 24)
    assert prediction.detail.logits.shape == (2, 3, 8, 12)
    assert (prediction.detail.box.height, prediction.detail.box.width) == (32, 48)
    assert prediction.stages[-1].shape == (2, 6, 4, 6)
    assert prediction.projected.shape == (2, 256, 4, 6)
    network.eval()
    prediction = network(pictures(64, 96), generator=draws())
    assert prediction.detail is None and prediction.logits.shape == (2, 3, 16, 24)
    context = F.avg_pool2d(pictures(64, 96), 2)
    assert_close(prediction.stages[-1], network.encoder(context)[-1], rtol=1e-4, atol=1e-4)  # other float32 means
    settings = TwoScaleSettings(window=(16, 16), projector_scale="detail")
    other = build_segmenter(Small(), 3, two_scale=settings)
    assert other(pictures(64, 96), project=True, generator=draws()).projected.shape == (2, 256, 2, 2)


def test_groups_have_their_rates_and_spare_norms_and_positions():
    network = build_segmenter(Small(), 3, two_scale=True)
    network.encoder.second.bias.requires_grad_(False)
    groups = {group["name"]: group for group in network.parameter_groups(6e-5)}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "encoder": (6e-5, 0.01),
        "encoder, no decay": (6e-5, 0.0),
        "head": (pytest.approx(6e-4), 0.01),
        "head, no decay": (pytest.approx(6e-4), 0.0),
    }
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {name: [names[id(each)] for each in group["params"]] for name, group in groups.items()}
    assert found["encoder"] == [f"encoder.{name}" for name in ("first.weight", "first.bias", "second.weight")]
    assert sorted(found["encoder, no decay"]) == [
        f"encoder.{name}" for name in ("norm.bias", "norm.weight", "positions")
    ]
    assert {name.split(".")[0] for name in found["head"]} == {"head", "projector", "two_scale"}
    assert "head.classifier.bias" in found["head"]
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)][1:]
    assert len(found["head, no decay"]) == 2 * len(norms)
    together = [each for names in found.values() for each in names]
    assert len(together) == len(set(together)) == len(names) - 1
    torch.optim.AdamW(network.parameter_groups(6e-5, head_factor=1.0, weight_decay=0.1))


def test_positions_of_tinyvit_are_not_decayed():
    network = build_segmenter(load_encoder("mobile-sam", "random"), 3)
    spared = [group for group in network.parameter_groups(1e-4) if group["name"] == "encoder, no decay"]
    assert [tuple(each.shape) for group in spared for each in group["params"]][:2] == [(4, 49), (4, 49)]
    assert len(spared[0]["params"]) == 10  # blocks with attention; its normalisations are folded away


def test_a_teacher_is_a_copy():
    student = build_segmenter(Small(), 3, two_scale=True)
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    with torch.no_grad():
        update_ema(teacher, student, step=0)
    student.eval(), teacher.eval()
    assert_close(teacher(pictures(64, 64)).logits, student(pictures(64, 64)).logits, rtol=0, atol=1e-4)
