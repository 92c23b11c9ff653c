import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saot.decoder import (
    FineDecoder,
    JointDecoder,
    TailDecoder,
    Windows,
    decoder_of_shape,
    fit_tail,
    make_decoder,
    picture_logits,
    point_pool,
)
from saot.decoder.crops import CellCrops, cell_weights, class_weights
from saot.decoder.fine import IGNORE, grid_of_cells
from saot.features import make_tail
from saot.recipes import DecoderRecipe, TailRecipe
from saot.runs import Checkpoint, generator_for

pytestmark = pytest.mark.training

DIM, CLASSES = 6, 3
RECIPE = TailRecipe(steps=200, width=16, warm_up=4, learning_rate=1e-2, ema_decay=0.9)


class PlainTail(nn.Module):
    """A linear layer in place of a network's last ones."""

    kind, dim, out, window = "plain", DIM, 8, 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, 8)

    def forward(self, x):
        return self.layer(x)


def decoder(dropout: float = 0.1) -> TailDecoder:
    torch.manual_seed(0)
    return TailDecoder(PlainTail(), CLASSES, width=16, dropout=dropout)


def pool_of(shapes, seed=0):
    """Tokens that say the class of their cells: the left half of each token has that of its first number."""
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randint(0, CLASSES, (h * w,), generator=generator) for h, w in shapes]
    tokens = [nn.functional.one_hot(c, DIM).float() + 0.05 for c in classes]
    cells = [c.to(torch.uint8).unsqueeze(1).repeat(1, 16) for c in classes]
    for part in cells:
        part.view(-1, 4, 4)[:, :, 2:] = CLASSES - 1
    places = [(n, t, int(label)) for n, part in enumerate(classes) for t, label in enumerate(part)]
    picture, token, label = torch.tensor(places).T
    pool = point_pool(picture, token, label, CLASSES, lambda p, t: tokens[p][t.long()], DIM, lambda p: shapes[p])
    return replace(pool, soft=lambda p, t: cells[p][t.long()]), tokens, cells


def test_a_whole_picture_is_told_cell_by_cell_and_survives_the_disk():
    made = decoder().eval()
    tokens = torch.randn(3 * 5, DIM)
    with torch.no_grad():
        of_tokens, whole = made.of_tokens(tokens, 3, 5), picture_logits(made, tokens, 3, 5)
    assert of_tokens.shape == (15, 16, CLASSES)
    assert_close(whole, grid_of_cells(of_tokens, 3, 5))
    real = TailDecoder(make_tail("mobile-sam"), CLASSES, width=16)
    again = decoder_of_shape(real.shape)
    again.load_state_dict(real.state_dict())
    tokens = torch.randn(1, 6, 160)
    with torch.no_grad():
        assert torch.equal(again.eval()(tokens, 2, 3), real.eval()(tokens, 2, 3))
    with pytest.raises(ValueError, match="expected the last layers of mobile-sam"):
        decoder_of_shape({**real.shape, "tail": "resnet"})


def test_a_token_has_a_say_near_by_and_none_far_away():
    made, tokens = decoder().eval(), torch.zeros(40, DIM)
    with torch.no_grad():
        before = made.of_tokens(tokens, 1, 40)
        tokens[3] = 5.0
        moved = (made.of_tokens(tokens, 1, 40) - before).abs().sum((1, 2))
    assert float(moved[3]) > 1 and bool((moved[30:] == 0).all())


def test_windows_begin_where_windows_of_attention_do_and_bring_all_their_targets():
    shapes = [(21, 13), (5, 30)]
    pool, tokens, cells = pool_of(shapes)
    crops = CellCrops(pool, 3, 8, 4, 0.5, lambda step: generator_for(0, step))
    starts = set()
    for step in range(40):
        batch, generator = crops.cell_batch(step), generator_for(0, step)
        positions = pool.draw_by(crops.shares, 3, generator)
        windows = [crops._window(int(at), generator) for at in positions]
        for number, window in enumerate(windows):
            height, width = shapes[window.picture]
            for (first, past), size in ((window.rows, height), (window.columns, width)):
                assert past - first == min(8, size) and (first % 4 == 0 or past == size)
                starts.add((first, size))
            assert bool(window.holds(pool.token[positions[number : number + 1]].long()))
            where = window.tokens()
            read = batch.tokens.view(3, batch.rows, batch.columns, DIM)[number]
            assert torch.equal(read[: where.shape[0], : where.shape[1]], tokens[window.picture][where])
            targets = batch.targets.view(3, batch.rows, batch.columns, 16)[number]
            assert torch.equal(targets[: where.shape[0], : where.shape[1]], cells[window.picture][where].long())
            assert bool((targets[where.shape[0] :] == IGNORE).all())
        assert float(batch.weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert {(0, 21), (4, 21), (8, 21), (12, 21), (13, 21)} <= starts, "every place is drawn"


def test_a_class_weighs_by_the_root_of_its_number_and_soft_cells_by_how_sure_they_are():
    targets = torch.tensor([[[0] * 9 + [1] * 4 + [2] * 3 + [IGNORE] * 4]])
    shares = class_weights(torch.tensor([900, 400, 0]), None, 0.5)
    weights = cell_weights(targets, shares)[0, 0]
    parts = [float(weights[targets[0, 0] == c].sum()) for c in (0, 1, 2, IGNORE)]
    assert parts == pytest.approx([30 / 51, 20 / 51, 1 / 51, 0.0])  # a class without tokens of its own counts as one
    soft = torch.tensor([[[[0.9, 0.1], [0.4, 0.6], [0.0, 0.0]]]])
    assert_close(cell_weights(soft, torch.ones(2).double()), torch.tensor([[[0.6, 0.4, 0.0]]]))
    nothing = torch.full((1, 1, 2), IGNORE)
    assert float(cell_weights(nothing, torch.ones(2).double()).sum()) == 0.0


def test_points_are_drawn_and_weighed_as_frequent_as_the_source_says():
    """As many points of each class say nothing of how frequent a class is."""
    pool, _, _ = pool_of([(30, 30)])
    frequencies = torch.tensor([0.64, 0.32, 0.04]).double()
    crops = CellCrops(pool, 400, 1, 4, 1.0, lambda step: generator_for(0, step), frequencies=frequencies)
    batch = crops.cell_batch(0)
    first = batch.targets[:, 0, 0]  # of the left half of each token: its class
    drawn = torch.bincount(first, minlength=CLASSES) / 400
    assert_close(drawn.double(), frequencies, atol=0.05, rtol=0)
    cells = [float(batch.weights[batch.targets == label].sum()) for label in range(CLASSES)]
    assert cells == pytest.approx(frequencies.tolist(), abs=1e-5)


def test_training_learns_cells_moves_the_tail_slowly_and_goes_on_bit_for_bit(tmp_path):
    pool, tokens, cells = pool_of([(12, 12)])
    terms = [Windows("source", pool, 2, 8)]

    def fitted(state=None, stop=None, steps=RECIPE.steps, **changes):
        def halt(done, total):
            if done == stop:
                raise KeyboardInterrupt

        made = decoder()
        return fit_tail(made, terms, replace(RECIPE, **changes), steps=steps, checkpoint=state, progress=halt)

    fit = fitted()
    with torch.no_grad():
        said = fit.decoder.of_tokens(tokens[0], 12, 12).argmax(-1)
    assert float((said == cells[0]).float().mean()) > 0.9
    assert fit.history[-1]["loss"] < 0.5 * fit.history[0]["loss"]
    state = Checkpoint(tmp_path / "state", every=50)
    with pytest.raises(KeyboardInterrupt):
        fitted(state, stop=120)
    again = fitted(state)
    for one, other in zip(fit.decoder.parameters(), again.decoder.parameters(), strict=True):
        assert torch.equal(one, other)
    assert fit.history == again.history
    frozen, first = fitted(tail_rate=0.0, steps=3), decoder()
    assert torch.equal(frozen.decoder.tail.layer.weight, first.tail.layer.weight)
    assert not torch.equal(frozen.decoder.head.weight, first.head.weight)
    step = fitted(steps=1, weight_decay=0.0, warm_up=0)
    pairs = (step.decoder.head.bias, first.head.bias), (step.decoder.tail.layer.bias, first.tail.layer.bias)
    moved = [float((after - before).abs().max()) for after, before in pairs]
    assert moved == pytest.approx([1e-2, 1e-3], rel=1e-2)  # the first step of Adam is its rate long


def test_terms_are_summed_and_a_term_without_targets_adds_nothing():
    pool, _, _ = pool_of([(12, 12)])
    nothing = replace(pool, soft=lambda p, t: torch.full((len(t), 16), IGNORE, dtype=torch.uint8))
    alone = fit_tail(decoder(0.0), [Windows("source", pool, 2, 8)], RECIPE, steps=2)
    both = fit_tail(decoder(0.0), [Windows("source", pool, 2, 8), Windows("points", nothing, 1, 8)], RECIPE, steps=2)
    assert both.history[0]["points"] == 0.0
    assert_close(copy.deepcopy(alone.decoder.head.weight), both.decoder.head.weight)


def fine(subdivision: int = 4, classes: int = CLASSES) -> FineDecoder:
    recipe = DecoderRecipe(architecture="fine", hidden=8, blocks=1, context=1, subdivision=subdivision)
    made = make_decoder(8, classes, recipe)
    assert isinstance(made, FineDecoder)
    return made.eval()


@pytest.mark.parametrize("unit", [True, False])
def test_two_decoders_as_one_say_their_mean_posterior(unit):
    frozen, tokens = PlainTail(), torch.randn(3 * 5, DIM)
    joint = JointDecoder(frozen, fine(), decoder().eval(), unit).eval()
    whole = frozen(tokens)
    whole = nn.functional.normalize(whole, dim=-1) if unit else whole
    with torch.no_grad():
        parts = picture_logits(joint.fine, whole, 3, 5), picture_logits(joint.trained, tokens, 3, 5)
        said = picture_logits(joint, tokens, 3, 5)
    assert said.shape == (15 * 16, CLASSES)
    assert_close(said.softmax(-1), sum(part.softmax(-1) for part in parts) / 2)


def test_two_decoders_as_one_survive_the_disk():
    joint = JointDecoder(
        make_tail("mobile-sam"), fine_of_neck(), TailDecoder(make_tail("mobile-sam"), CLASSES, width=16)
    )
    again = decoder_of_shape(joint.shape)
    again.load_state_dict(joint.state_dict())
    tokens = torch.randn(4, joint.dim)
    with torch.no_grad():
        assert_close(picture_logits(again.eval(), tokens, 2, 2), picture_logits(joint.eval(), tokens, 2, 2))
    assert again.shape == joint.shape


def fine_of_neck() -> FineDecoder:
    made = make_decoder(256, CLASSES, DecoderRecipe(architecture="fine", hidden=8, blocks=1))
    assert isinstance(made, FineDecoder)
    return made


def test_two_decoders_of_other_cells_or_classes_are_refused():
    with pytest.raises(ValueError, match="expected two decoders of the same classes and of 4 x 4 cells"):
        JointDecoder(PlainTail(), fine(subdivision=2), decoder())
    with pytest.raises(ValueError, match="expected two decoders of the same classes"):
        JointDecoder(PlainTail(), fine(classes=CLASSES + 1), decoder())
