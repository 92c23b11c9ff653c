import pytest
import torch
from helpers.mobile_sam import decoder_of_transformers, decoder_state, shared_weights

from saot.features.published import read_weights
from saot.features.sam_decoder import SamDecoder
from saot.features.tinyvit import TinyViT


@pytest.fixture(scope="module")
def oracle():
    return decoder_of_transformers()


@pytest.fixture(scope="module")
def state(oracle) -> dict[str, torch.Tensor]:
    return decoder_state(*oracle)


@pytest.fixture(scope="module")
def decoder(state) -> SamDecoder:
    network = SamDecoder()
    network.load_published(state)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(("count", "box"), [(1, False), (3, False), (0, True), (2, True)])
def test_equals_the_networks_of_transformers(oracle, decoder, count, box):
    prompts, network = oracle
    generator = torch.Generator().manual_seed(count)
    points = 1024 * torch.rand(2, count, 2, generator=generator)
    labels = torch.randint(0, 2, (2, count), generator=generator)
    boxes = 1024 * torch.rand(2, int(box), 4, generator=generator)
    embedding = torch.randn(64, 64, 256, generator=generator)
    centres = (torch.arange(64) + 0.5) / 64
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    with torch.no_grad():
        _, dense = prompts(points[None], labels[None], None, None)
        sparse = prompts._embed_points(points[None], labels[None], pad=not box)
        if box:
            sparse = torch.cat([sparse, prompts._embed_boxes(boxes[:, 0][None])], 2)
        place = prompts.shared_embedding(grid[None]).permute(0, 3, 1, 2)
        inputs = (embedding.permute(2, 0, 1)[None], place, sparse, dense)
        three, single = network(*inputs, multimask_output=True), network(*inputs, multimask_output=False)
    logits, iou = decoder(embedding, points, labels, boxes)
    # float32, sums in another order; logits are of order 10
    torch.testing.assert_close(logits[:, 1:], three[0][0], rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(logits[:, :1], single[0][0], rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(iou[:, 1:], three[1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(iou[:, :1], single[1][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_decoder.iou_token.weight": None}, r"iou_token\.weight is missing"),
        ({"prompt_encoder.no_mask_embed.weight": torch.zeros(2)}, r"has shape \(2,\), expected \(1, 256\)"),
        ({"mask_decoder.transformer.layers.2.norm1.weight": torch.zeros(2)}, "layers.2.norm1.weight is unexpected"),
        ({"head.weight": torch.zeros(2)}, "head.weight is unexpected"),
    ],
)
def test_weights_of_another_model_are_named(state, change, message):
    other = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        SamDecoder().load_published(other)


def test_answers_as_the_authors_published():
    reference = read_weights(shared_weights("mobile_sam_reference.safetensors"))
    state = read_weights(shared_weights("mobile_sam.pt"))
    decoder, encoder = SamDecoder(), TinyViT()
    decoder.load_published(state)
    encoder.load_published(state)
    prompt = (torch.tensor([[[512.0, 300.0]]]), torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 0, 4))
    wanted = reference["prompt_point_mask_logits"].float()
    step = torch.arange(1, 1025, dtype=torch.float64)
    rows = torch.sin(0.01 * step[:, None] * torch.arange(1, 4))
    x = (rows[:, None] * torch.cos(0.013 * step)[None, :, None]).float()  # row, column, channel
    with torch.no_grad():
        # sines of angles up to 60, in float32
        tokens = decoder.prompts(*prompt)[0]
        torch.testing.assert_close(tokens, reference["prompt_sparse_embedding"], rtol=0, atol=2e-6)
        logits, iou = decoder(encoder(x[None])["neck"][0], *prompt)
        # the reference is rounded to half precision (2^-11 of each number); float32 in another order adds some 1e-5
        torch.testing.assert_close(logits[0, 1:], wanted, rtol=2**-11, atol=1e-4)
        torch.testing.assert_close(iou[0, 1:], reference["prompt_point_iou"], rtol=0, atol=5e-6)
        logits, iou = decoder(reference["neck"].float().permute(1, 2, 0), *prompt)
        # here the embedding too is rounded, by up to 2.4e-4 of its 0.6: measured 1.5e-3 and 3e-6 on top of it
        torch.testing.assert_close(logits[0, 1:], wanted, rtol=2**-11, atol=5e-3)
        torch.testing.assert_close(iou[0, 1:], reference["prompt_point_iou"], rtol=0, atol=2e-5)
    assert torch.equal(logits[0, 1:] > 0, wanted > 0)
