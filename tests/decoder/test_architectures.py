import pytest
import torch
from torch.testing import assert_close

from saot.decoder import (
    GridDecoder,
    MLPDecoder,
    TargetTokens,
    Term,
    TokenDecoder,
    TokenPool,
    decoder_of_shape,
    fit_decoder,
    make_decoder,
    picture_logits,
    refine_decoder,
    token_pool,
)
from saot.decoder.crops import CropReader
from saot.recipes import DecoderRecipe, RefineRecipe
from saot.runs import Checkpoint, generator_for

pytestmark = pytest.mark.training

ROWS, COLUMNS, DIM, CLASSES = 7, 9, 6, 3
CONV = DecoderRecipe(
    architecture="conv", hidden=32, conv_width=0.5, conv_blocks=2, steps=60, batch=48, crop=4, learning_rate=1e-2
)


def size(decoder: torch.nn.Module) -> int:
    return sum(p.numel() for p in decoder.parameters())


def neighbours_class(count: int = 4, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pictures in which a token's class shows in its left neighbour alone; the first column is ignored."""
    generator = torch.Generator().manual_seed(seed)
    features, labels = [], []
    for _ in range(count):
        shown = torch.randint(0, CLASSES, (ROWS, COLUMNS), generator=generator)
        noise = 0.1 * torch.randn(ROWS, COLUMNS, DIM, generator=generator)
        label = torch.full((ROWS, COLUMNS), 255)
        label[:, 1:] = shown[:, :-1]
        features.append(torch.nn.functional.normalize(torch.eye(DIM)[shown] + noise, dim=-1).flatten(0, 1))
        labels.append(label.flatten().to(torch.uint8))
    return features, labels


def grid_pool(features: list[torch.Tensor], labels: list[torch.Tensor], soft=None) -> TokenPool:
    return token_pool(
        labels, CLASSES, lambda p, t: features[p][t].half(), DIM, soft, grid=lambda picture: (ROWS, COLUMNS)
    )


def conv(seed: int = 0) -> GridDecoder:
    torch.manual_seed(seed)
    decoder = make_decoder(DIM, CLASSES, CONV)
    assert isinstance(decoder, GridDecoder)
    return decoder


def test_the_decoders_of_table_4_have_its_sizes():
    residual, mlp, spatial = (
        make_decoder(1024, 19, DecoderRecipe(architecture=a)) for a in ("residual", "mlp3", "conv")
    )
    assert [round(size(d) / 1e6, 1) for d in (residual, mlp, spatial)] == [5.3, 1.6, 3.1]
    assert size(mlp) == 1024 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 19 + 19
    narrow = make_decoder(1024, 19, DecoderRecipe(architecture="mlp3", mlp_widths=(0.5, 0.5)))
    assert size(narrow) == 1024 * 512 + 512 + 512 * 512 + 512 + 512 * 19 + 19


def test_an_unknown_architecture_is_refused():
    config = DecoderRecipe()
    object.__setattr__(config, "architecture", "vit")  # as a caller without type checks might
    with pytest.raises(ValueError, match="residual, mlp3, conv, fine; got 'vit'"):
        make_decoder(8, 3, config)


@pytest.mark.parametrize("architecture", ["residual", "mlp3", "conv"])
def test_a_shape_is_enough_to_build_a_decoder_again(architecture):
    decoder = make_decoder(DIM, CLASSES, DecoderRecipe(architecture=architecture, hidden=16)).eval()
    again = decoder_of_shape(decoder.shape).eval()
    assert type(again) is type(decoder)
    again.load_state_dict(decoder.state_dict())
    tokens = torch.randn(ROWS * COLUMNS, DIM)
    assert torch.equal(picture_logits(again, tokens, ROWS, COLUMNS), picture_logits(decoder, tokens, ROWS, COLUMNS))


def test_decoders_of_single_tokens_do_not_mind_the_grid():
    decoder, tokens = MLPDecoder(DIM, CLASSES, 8, 4).eval(), torch.randn(ROWS * COLUMNS, DIM)
    whole = picture_logits(decoder, tokens, ROWS, COLUMNS)
    assert_close(whole[5], decoder(tokens[5]))


def test_a_grid_decoder_sees_as_far_as_its_radius():
    decoder = conv().eval()
    tokens = torch.randn(ROWS * COLUMNS, DIM)
    before = decoder(tokens, ROWS, COLUMNS).reshape(ROWS, COLUMNS, CLASSES)
    tokens[3 * COLUMNS + 1] += 1.0
    moved = (decoder(tokens, ROWS, COLUMNS).reshape(ROWS, COLUMNS, CLASSES) - before).abs().amax(-1) > 0
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    assert torch.equal(moved, torch.maximum((rows - 3).abs(), (columns - 1).abs()) <= decoder.radius)


def test_a_grid_decoder_wants_whole_pictures():
    with pytest.raises(ValueError, match="7 x 9 = 63 tokens; got 60"):
        conv()(torch.randn(60, DIM), ROWS, COLUMNS)


def crops(pool: TokenPool, decoder: GridDecoder, class_power: float = 0.0, side: int = 4) -> CropReader:
    return CropReader(pool, 48, side, decoder.radius, class_power, lambda step: generator_for(0, "crop", step))


def test_a_window_shows_what_the_whole_picture_would():
    features, labels = neighbours_class()
    features = [part.half().float() for part in features]
    decoder, reader = conv().eval(), crops(grid_pool(features, labels), conv())
    whole = torch.stack([decoder(part, ROWS, COLUMNS) for part in features]).flatten(0, 1)
    every, told = torch.cat(features), torch.cat(labels)
    for step in range(25):
        batch = reader(step)
        seen = batch.tokens.flatten(0, 1)[batch.place]
        place = (seen.unsqueeze(1) - every).abs().sum(-1).argmin(1)  # which token of which picture each one is
        assert torch.equal(every[place], seen)
        assert torch.equal(batch.targets, told[place].long())
        logits = decoder(batch.tokens, batch.rows, batch.columns, batch.inside).flatten(0, 1)[batch.place]
        assert_close(logits, whole[place], rtol=0, atol=1e-5)  # float32 convolutions in another order


def test_windows_weigh_classes_as_drawing_class_first_would():
    features, labels = neighbours_class()
    labels = [torch.where((part == 2) & (torch.arange(len(part)) > 20), 0, part) for part in labels]  # class 2 is rare
    pool = grid_pool(features, labels)
    for power in (0.0, 0.5, 1.0):
        share = pool.class_counts().double() ** power
        for step in range(10):
            batch = crops(pool, conv(), power)(step)
            sums = torch.zeros(CLASSES).index_add_(0, batch.targets, batch.weights)
            shown = torch.bincount(batch.targets, minlength=CLASSES) > 0
            expected = torch.where(shown, share, 0.0) / share[shown].sum()
            assert_close(sums.double(), expected, rtol=0, atol=1e-6)


def test_windows_are_of_the_asked_size_and_small_pictures_are_taken_whole():
    features, labels = neighbours_class()
    pool = grid_pool(features, labels)
    assert crops(pool, conv(), side=4).windows == 48 // 16
    whole = crops(pool, conv(), side=40)(0)
    assert (whole.rows, whole.columns) == (ROWS, COLUMNS) and len(whole.place) == ROWS * (COLUMNS - 1)


def test_tokens_without_a_grid_are_refused():
    features, labels = neighbours_class()
    pool = token_pool(labels, CLASSES, lambda p, t: features[p][t], DIM)
    with pytest.raises(ValueError, match="pool has no grid"):
        fit_decoder(conv(), [Term("a", pool)], CONV)


def accuracy(decoder, features: list[torch.Tensor], labels: list[torch.Tensor]) -> float:
    hits = [
        (picture_logits(decoder, f, ROWS, COLUMNS).argmax(-1) == label)[label != 255]
        for f, label in zip(features, labels, strict=True)
    ]
    return float(torch.cat(hits).float().mean())


def test_what_only_a_neighbour_shows_is_learned_from_the_grid_alone():
    features, labels = neighbours_class(count=6)
    unseen = neighbours_class(count=2, seed=1)
    pool = grid_pool(features, labels, soft=lambda p, t: torch.eye(CLASSES)[labels[p][t].long()])
    spatial = fit_decoder(conv(), [Term("hard", grid_pool(features, labels)), Term("soft", pool)], CONV).decoder
    assert accuracy(spatial, *unseen) > 0.9
    torch.manual_seed(0)
    alone = fit_decoder(TokenDecoder(DIM, CLASSES, 16, 1), [Term("hard", grid_pool(features, labels))], CONV).decoder
    assert accuracy(alone, *unseen) < 0.6


@pytest.mark.parametrize("pseudo", ["hard", "soft"])
@pytest.mark.parametrize("spatial", [False, True])
def test_both_kinds_of_pseudo_labels_survive_a_kill(pseudo, spatial, tmp_path, monkeypatch):
    monkeypatch.setattr("saot.decoder.pool.BLOCK_BYTES", 32 * DIM * 2 * 3)  # three steps a block
    features, labels = neighbours_class()
    config = RefineRecipe(steps=8, batch=32, ema_decay=0.5, regenerate=4, learning_rate=1e-2, pseudo=pseudo)
    target = TargetTokens(
        len(features), lambda p: features[p], lambda p, t: features[p][t].half(), DIM, lambda p: (ROWS, COLUMNS)
    )
    torch.manual_seed(1)
    start = conv() if spatial else TokenDecoder(DIM, CLASSES, 8, 1)
    terms = [Term("source", grid_pool(features, labels))]

    def refine(checkpoint: Checkpoint | None, stop: int | None = None):
        def interrupt(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        return refine_decoder(
            start, target, config, terms=terms, checkpoint=checkpoint, progress=interrupt, crop=4
        ).decoder

    whole, checkpoint = refine(None), Checkpoint(tmp_path / "r.pt", every=3)
    with pytest.raises(KeyboardInterrupt):
        refine(checkpoint, stop=7)  # goes on from step 6, with labels of step 4
    again = refine(checkpoint)
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
