from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from saot.decoder import (
    FineDecoder,
    Term,
    cells_of_tokens,
    cross_tokens,
    decoder_of_shape,
    fit_decoder,
    make_decoder,
    picture_logits,
    pyramid,
    seen_rows,
    seen_tokens,
    seen_width,
    token_pool,
)
from saot.decoder.distill import confidence_weighted_kl
from saot.decoder.fine import cell_loss, grid_of_cells
from saot.recipes import DecoderRecipe

pytestmark = pytest.mark.training

ROWS, COLUMNS, DIM, CLASSES, PARTS = 3, 4, 5, 3, 2
FINE = DecoderRecipe(architecture="fine", hidden=32, blocks=1, steps=150, batch=64, subdivision=PARTS, smooth=0)


def fine() -> FineDecoder:
    torch.manual_seed(0)
    decoder = make_decoder(DIM, CLASSES, FINE)
    assert isinstance(decoder, FineDecoder)
    return decoder.eval()


def test_a_token_comes_with_the_four_around_it_and_stands_in_for_those_beyond_the_border():
    tokens = torch.arange(ROWS * COLUMNS).float().unsqueeze(1)
    grid = tokens.view(ROWS, COLUMNS)
    for row in range(ROWS):
        for column in range(COLUMNS):
            around = [
                grid[row, column],
                grid[max(row - 1, 0), column],
                grid[min(row + 1, ROWS - 1), column],
                grid[row, max(column - 1, 0)],
                grid[row, min(column + 1, COLUMNS - 1)],
            ]
            assert cross_tokens(tokens, ROWS, COLUMNS)[row * COLUMNS + column].tolist() == [float(v) for v in around]


@pytest.mark.parametrize("levels", [0, 2])
def test_reading_some_tokens_with_what_is_around_them_is_the_same_as_reading_all(levels):
    tokens = torch.randn(2, ROWS * COLUMNS, DIM)
    blocks = [pyramid(part, ROWS, COLUMNS, levels) for part in tokens]
    read = seen_rows(lambda p, chosen: tokens[p][chosen], lambda p: (ROWS, COLUMNS), lambda p: blocks[p], levels)
    chosen = torch.tensor([11, 0, 5, 5])
    seen = seen_tokens(tokens[1], ROWS, COLUMNS, levels)
    assert seen.shape[-1] == seen_width(DIM, levels)
    assert torch.equal(read(1, chosen), seen[chosen])
    assert torch.equal(seen[:, : 5 * DIM], cross_tokens(tokens[1], ROWS, COLUMNS))


def test_cells_go_to_their_tokens_and_back():
    cells = torch.arange(ROWS * PARTS * COLUMNS * PARTS).to(torch.uint8)
    height, width = ROWS * PARTS, COLUMNS * PARTS
    of_tokens = cells_of_tokens(cells, height, width, ROWS, COLUMNS, PARTS)
    first, second = of_tokens[0].tolist(), of_tokens[1].tolist()
    assert first == [0, 1, width, width + 1] and second == [2, 3, width + 2, width + 3]
    assert torch.equal(grid_of_cells(of_tokens.unsqueeze(-1).float(), ROWS, COLUMNS).squeeze(-1), cells.float())


def test_cells_in_padding_are_ignored():
    of_tokens = cells_of_tokens(torch.zeros(5 * 7, dtype=torch.uint8), 5, 7, ROWS, COLUMNS, PARTS)
    assert of_tokens[-1].tolist() == [0, 255, 255, 255]
    assert int((of_tokens == 255).sum()) == ROWS * PARTS * COLUMNS * PARTS - 35


def test_a_whole_picture_gets_the_logits_of_its_cells_row_by_row():
    decoder, tokens = fine(), torch.randn(ROWS * COLUMNS, DIM)
    whole = picture_logits(decoder, tokens, ROWS, COLUMNS).view(ROWS * PARTS, COLUMNS * PARTS, CLASSES)
    one = decoder(cross_tokens(tokens, ROWS, COLUMNS)[COLUMNS + 2]).view(PARTS, PARTS, CLASSES)
    assert_close(whole[PARTS : 2 * PARTS, 2 * PARTS : 3 * PARTS], one)


def test_scores_of_cells_are_means_over_those_around():
    plain, decoder = fine(), decoder_of_shape({**fine().shape, "smooth": 1})
    decoder.load_state_dict(plain.state_dict())
    torch.nn.init.normal_(decoder.head.bias)  # cells that differ
    plain.load_state_dict(decoder.state_dict())
    tokens, height, width = torch.randn(ROWS * COLUMNS, DIM), ROWS * PARTS, COLUMNS * PARTS
    alone = picture_logits(plain, tokens, ROWS, COLUMNS).view(height, width, CLASSES)
    means = picture_logits(decoder.eval(), tokens, ROWS, COLUMNS).view(height, width, CLASSES)
    assert_close(means[2, 3], alone[1:4, 2:5].mean((0, 1)))
    assert_close(means[0, 0], alone[:2, :2].mean((0, 1)))
    assert_close(means[height - 1, 4], alone[height - 2 :, 3:6].mean((0, 1)))


def test_it_is_built_again_from_its_shape():
    decoder, tokens = fine(), torch.randn(ROWS * COLUMNS, DIM)
    again = decoder_of_shape(decoder.shape).eval()
    again.load_state_dict(decoder.state_dict())
    assert again.shape == decoder.shape
    assert torch.equal(picture_logits(again, tokens, ROWS, COLUMNS), picture_logits(decoder, tokens, ROWS, COLUMNS))


def test_cells_without_a_label_have_no_say():
    logits = torch.randn(2, 4, CLASSES)
    targets = torch.tensor([[0, 255, 2, 255], [255, 255, 255, 1]], dtype=torch.uint8)
    kept = torch.stack([logits[0, 0], logits[0, 2], logits[1, 3]])
    expected = torch.nn.functional.cross_entropy(kept, torch.tensor([0, 2, 1]))
    even = torch.tensor([0.5, 0.5])
    assert_close(cell_loss(logits, targets, even, lambda a, b, w: a.sum()), expected)
    nothing = torch.full_like(targets, 255)
    assert float(cell_loss(logits, nothing, even, lambda a, b, w: a.sum())) == 0.0


@pytest.mark.parametrize("soft", [False, True])
def test_a_token_drawn_twice_weighs_as_two(soft):
    logits, draws = torch.randn(3, 4, CLASSES), torch.tensor([0, 1, 1, 2])
    targets = torch.tensor([[0, 255, 2, 255], [255, 255, 255, 1], [1, 1, 0, 2]], dtype=torch.uint8)
    targets = torch.rand(3, 4, CLASSES).softmax(-1) if soft else targets
    repeated = cell_loss(logits[draws], targets[draws], torch.full((4,), 0.25), confidence_weighted_kl)
    once = cell_loss(logits, targets, torch.tensor([0.25, 0.5, 0.25]), confidence_weighted_kl)
    assert_close(once, repeated)


@pytest.mark.parametrize("architecture", ["fine", "residual"])
def test_it_sees_an_edge_inside_a_patch_that_a_token_decoder_cannot_draw(architecture):
    """Each token is half class 0, half class 1, the order of the halves is in the token."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randint(0, 2, (ROWS * COLUMNS,), generator=generator)
    tokens = torch.nn.functional.one_hot(order, DIM).float()
    cells = torch.stack([order, 1 - order, order, 1 - order], dim=1).to(torch.uint8)
    torch.manual_seed(0)
    recipe = FINE if architecture == "fine" else DecoderRecipe(hidden=32, blocks=1, steps=150, batch=64)
    decoder = make_decoder(DIM, CLASSES, recipe)

    def shape(picture: int) -> tuple[int, int]:
        return ROWS, COLUMNS

    if architecture == "fine":
        rows = seen_rows(lambda picture, chosen: tokens[chosen], shape)
        pool = token_pool([cells[:, 0]], CLASSES, rows, 5 * DIM, lambda picture, chosen: cells[chosen], shape)
    else:
        pool = token_pool([cells[:, 0]], CLASSES, lambda picture, chosen: tokens[chosen], DIM)
    fitted = fit_decoder(decoder, [Term("source", pool)], recipe).decoder
    logits = picture_logits(fitted, tokens, ROWS, COLUMNS)
    if architecture == "residual":
        logits = grid_of_cells(logits.unsqueeze(1).expand(-1, PARTS**2, -1), ROWS, COLUMNS)
    truth = grid_of_cells(cells.unsqueeze(-1).float(), ROWS, COLUMNS).squeeze(-1)
    right = float((logits.argmax(-1) == truth).float().mean())
    assert right == (1.0 if architecture == "fine" else 0.5)


def test_surroundings_are_dropped_in_training_alone():
    recipe = replace(FINE, context=2, context_dropout=0.5, dropout=0.0)
    torch.manual_seed(0)
    decoder = make_decoder(DIM, CLASSES, recipe)
    assert isinstance(decoder, FineDecoder) and decoder_of_shape(decoder.shape).context_dropout == 0.5
    seen = torch.randn(1, seen_width(DIM, 2)).expand(400, -1)
    alone = torch.cat([seen[:1, : 5 * DIM], torch.zeros(1, 2 * DIM)], -1)
    answers = decoder.train()(seen)
    decoder.eval()
    dropped = (answers - decoder(alone)).abs().amax((1, 2)) < 1e-5
    assert 0.4 < float(dropped.double().mean()) < 0.6
    assert_close(decoder(seen), decoder(seen[:1]).expand(400, -1, -1))
    assert not bool(((decoder(seen) - decoder(alone)).abs().amax((1, 2)) < 1e-5).any())


def test_all_cells_of_a_token_start_alike():
    made = make_decoder(DIM, CLASSES, replace(FINE, subdivision=3, start="alike"))
    assert isinstance(made, FineDecoder)
    answers = made.eval()(torch.randn(7, seen_width(DIM, 0)))
    assert_close(answers, answers[:, :1].expand(-1, 9, -1), rtol=1e-5, atol=1e-6)
    assert float(answers.std(0).min()) > 0, "tokens differ all the same"


def halves(seed: int, rows: int, columns: int, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of two classes under a slanted border: features (n, 16) of its tokens, labels of their cells."""
    generator = torch.Generator().manual_seed(seed)
    height, slope = torch.rand(2, generator=generator).tolist()
    y, x = (torch.arange(size * parts) + 0.5 for size in (rows, columns))
    below = y[:, None] > rows * parts * (0.3 + 0.4 * height) + (x - columns * parts / 2) * (slope - 0.5)
    cells = cells_of_tokens(below.flatten().to(torch.uint8), len(y), len(x), rows, columns, parts)
    shown = torch.randn(parts**2, 16, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(rows * columns, 16, generator=generator)
    return torch.nn.functional.normalize(cells.float() @ shown / parts + 0.7 * noise, dim=-1), cells


def test_no_checkerboard_of_cells_within_a_region():
    """Where truth has one class, a noisy token shows one too; without means over cells 20 % are not."""
    shape, parts = (12, 16), 4
    made = [halves(seed, *shape, parts) for seed in range(10)]
    recipe = replace(FINE, subdivision=parts, steps=80, batch=128, smooth=1)
    rows = seen_rows(lambda picture, chosen: made[picture][0][chosen].half(), lambda picture: shape)
    labels = [cells[:, 0] for _, cells in made[:4]]
    pool = token_pool(labels, 2, rows, seen_width(16, 0), lambda picture, chosen: made[picture][1][chosen])
    torch.manual_seed(0)
    decoder = fit_decoder(make_decoder(16, 2, recipe), [Term("source", pool)], recipe).decoder
    mixed, right = [], []
    for features, cells in made[4:]:
        answers = picture_logits(decoder, features, *shape).argmax(-1)
        answers = cells_of_tokens(answers.to(torch.uint8), shape[0] * parts, shape[1] * parts, *shape, parts)
        one = (cells == cells[:, :1]).all(1)
        grid = torch.where(one, cells[:, 0].float(), torch.nan).view(1, 1, *shape)
        spread = torch.nn.functional.unfold(torch.nn.functional.pad(grid, (1,) * 4, mode="replicate"), 3)[0]
        inside = (spread == spread[:1]).all(0)  # all nine tokens around show one class, and the same
        mixed.append((answers != answers[:, :1]).any(1)[inside])
        right.append((answers == cells).float().mean())
    assert int(torch.cat(mixed).numel()) > 300
    assert float(torch.cat(mixed).float().mean()) < 0.05
    assert float(torch.stack(right).mean()) > 0.96
