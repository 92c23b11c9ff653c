import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saot.adapt.heads import DAFormerHead, DeepLabV2Head, Projector, StageEmbedding


def stages(generator: int = 0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(generator)
    return tuple(torch.randn(2, width, side, side + 2) for width, side in ((4, 8), (6, 4), (8, 2)))


def test_embedding_is_linear_upsampled_and_in_order():
    embedding = StageEmbedding((1, 1), 1)
    for layer, factor in zip(embedding.embeddings, (2.0, 3.0), strict=True):
        nn.init.constant_(layer.weight, factor)
        nn.init.constant_(layer.bias, 1.0)
    fine, coarse = torch.arange(8.0).view(1, 1, 2, 4), torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    found = embedding((fine, coarse))
    assert_close(found[0, 0], 2 * fine[0, 0] + 1, rtol=0, atol=0)
    # centres of 4 cells on 2: a quarter of the way in, beyond the outermost centre the outermost value
    assert_close(found[0, 1, 0], torch.tensor([4.0, 4.75, 6.25, 7.0]), rtol=0, atol=1e-6)


def test_daformer_head_is_what_its_authors_wrote():
    head = DAFormerHead((4, 6, 8), num_classes=5, channels=16)
    assert head(stages()).shape == (2, 5, 8, 10)
    assert head.dropout.p == 0.1 and isinstance(head.dropout, nn.Dropout2d)
    kernels = [
        [conv.kernel_size[0] for conv in branch.modules() if isinstance(conv, nn.Conv2d)] for branch in head.branches
    ]
    assert kernels == [[1], [3, 1], [3, 1], [3, 1]]
    dilations = [branch[0][0].dilation[0] for branch in list(head.branches)[1:]]
    groups = [branch[0][0].groups for branch in list(head.branches)[1:]]
    assert dilations == [6, 12, 18] and groups == [48, 48, 48]
    head.eval()
    both, one = head(stages()), head(tuple(stage[1:] for stage in stages()))
    assert_close(both[1:], one, rtol=1e-4, atol=1e-6)


def test_daformer_head_of_ones_by_hand():
    """All weights so that each block hands its input on: the logit is the sum over stages and branches."""
    head = DAFormerHead((1, 1), num_classes=1, channels=1, dilations=(1, 6), dropout=0.0).eval()
    with torch.no_grad():
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.fill_(1.0), layer.bias.zero_()
            elif isinstance(layer, nn.Conv2d):
                layer.weight.zero_()
                layer.weight[..., layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0
    fine, coarse = torch.rand(1, 1, 4, 4), torch.full((1, 1, 2, 2), 0.5)
    # batch normalisation at its start divides by sqrt(1 + 1e-5), once or twice in a branch and once in the fusion
    assert_close(head((fine, coarse)), 2 * (fine + 0.5), rtol=1e-4, atol=0)


def test_deeplab_head_is_a_sum_of_dilated_convolutions():
    """One pixel set: the response is the kernel, spread by 6 and by 12, on top of the biases."""
    head = DeepLabV2Head(1, num_classes=1)
    with torch.no_grad():
        for layer, factor in zip(head.classifiers, (1.0, 100.0), strict=True):
            layer.weight.copy_(factor * torch.arange(1.0, 10.0).view(1, 1, 3, 3))
            layer.bias.fill_(0.25)
    x = torch.zeros(1, 1, 25, 25)
    x[0, 0, 12, 12] = 1.0
    wanted = torch.full((25, 25), 0.5)
    for dilation, factor in ((6, 1.0), (12, 100.0)):
        for row in range(3):
            for column in range(3):  # the output at (12 - d (row - 1)) looks at the pixel with kernel entry `row`
                place = (12 - dilation * (row - 1), 12 - dilation * (column - 1))
                wanted[place] += factor * (3 * row + column + 1)
    assert_close(head((torch.full((1, 7, 50, 50), torch.nan), x))[0, 0], wanted, rtol=1e-6, atol=0)
    assert [layer.dilation[0] for layer in DeepLabV2Head(8, 2, (6, 12, 18, 24)).classifiers] == [6, 12, 18, 24]


def test_deeplab_head_has_no_normalisation_and_small_weights():
    head = DeepLabV2Head(64, num_classes=19)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in head.modules())
    assert all(not layer.bias.any() for layer in head.classifiers)
    assert_close(head.classifiers[0].weight.std().item(), 0.01, rtol=0.05, atol=0)  # of 10944 draws


@pytest.mark.parametrize("kernel", [1, 3])
def test_projector_keeps_the_resolution_and_may_end_linear(kernel):
    x = torch.randn(4, 8, 5, 6)
    relu = Projector(8, channels=16, kernel=kernel)(x)
    assert relu.shape == (4, 16, 5, 6)
    assert float(relu.detach().min()) == 0.0
    linear = Projector(8, channels=16, kernel=kernel, last="linear")
    assert float(linear(x).detach().min()) < 0
    assert sum(isinstance(part, nn.BatchNorm2d) for part in linear.modules()) == 1
    assert Projector(8)(x).shape[1] == 256


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd kernel such as 1 or 3, but 2 came"):
        Projector(8, kernel=2)
