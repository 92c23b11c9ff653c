"""Forms of a store: what is read is what a backbone of that form gives, to the bit, and forms never mix."""

from dataclasses import replace

import pytest
import torch
from helpers.mobile_sam import published_state
from helpers.stores import files, filterbank, image_set
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from saot.features import FeatureKey, FeatureStore, Projected, extract, extract_each, in_form, load_backbone, parse_form
from saot.features.flow import Picture
from saot.features.forms import SMALLEST, decoded, encoded, in_eight_bits, payload_size, rounded

FORMS = ("half", "int8", "projected:20")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.sampled_from([1, 3, 50]), scale=st.sampled_from([1e-7, 1e-3, 1.0, 400.0]))
def test_eight_bits_err_by_half_a_step_and_lose_nothing_the_second_time(seed, dim, scale):
    tokens = torch.randn(40, dim, generator=torch.Generator().manual_seed(seed)) * scale
    found, (codes, steps) = rounded(tokens), in_eight_bits(tokens)
    peaks = tokens.abs().amax(0, keepdim=True)
    assert ((found - tokens).abs() <= steps.float() / 2 * (1 + 1e-5)).all()  # of a quotient in single precision
    assert (steps.float() <= (peaks / 127 * 9 / 8 * (1 + 1e-6)).clamp_min(SMALLEST)).all()  # four bits of the step
    assert codes.int().abs().max() <= 127
    assert torch.equal(found.half().float(), found)  # each is a number of half precision
    assert torch.equal(rounded(found), found)
    payload = encoded("int8", found)
    assert len(payload) == payload_size("int8", 40, dim) == 42 * dim
    assert torch.equal(torch.from_numpy(decoded("int8", payload, 40, dim)).float(), found)


def test_the_step_of_a_token_whose_peak_has_passed_below_one():
    """A peak of 114.4 steps of 10/16 becomes 114, for which 9/16 would do: 127 * 9/10 is 114.3."""
    tokens = torch.tensor([[127.0], [1.0], [-30.3]]) * 10 / 16
    worst = [rounded(tokens * scale) for scale in torch.linspace(0.895, 0.905, 501).tolist()]
    assert all(torch.equal(rounded(found), found) for found in worst)
    unsure = [found for found in worst if found.abs().max() / 127 <= in_eight_bits(found)[1].float().item() * 9 / 10]
    assert unsure  # among them are some that the peak alone would give another step


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_is_what_the_backbone_gives(tmp_path, form):
    images = image_set()
    backbone = in_form(filterbank(), form, (), images)
    store = FeatureStore(tmp_path, backbone.key)
    asked = store.size(backbone, images)
    assert store.ensure(images, backbone) == 5
    payload = 0
    for number, key in enumerate(images.keys):
        wanted = extract(backbone, images.image(number), images.fingerprint(number))
        found = store.read(key)
        assert torch.equal(found.tokens, wanted.tokens.half().float()) and found.tokens.dtype == torch.float32
        assert found.provenance == wanted.provenance and found.provenance.dim == backbone.dim
        count = len(found.tokens)
        payload += payload_size(backbone.key.form, count, backbone.dim)
        for chosen in ([3], [5, 4, 4, 0], list(range(0, count, 3)), [count - 1, 0], []):
            rows = store.rows(key, torch.tensor(chosen, dtype=torch.int64))
            assert rows.dtype == torch.float16 and torch.equal(rows, found.tokens[chosen].half())
    assert asked.missing == payload
    assert FeatureStore(tmp_path, backbone.key).ensure(images, backbone) == 0
    assert FeatureKey.from_json(backbone.key.to_json()) == backbone.key


def test_files_in_eight_bits_are_plain_safetensors_of_half_the_size(tmp_path):
    backbone, images = in_form(filterbank(), "int8"), image_set(1)
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone)
    with safe_open(files(tmp_path)[0], "pt") as file:
        codes, steps = file.get_tensor("tokens"), file.get_tensor("steps")
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float() * steps.float(), store.read(images.keys[0]).tokens)
    whole = extract(filterbank(), images.image(0), "").tokens
    assert steps.shape == (1, backbone.dim)
    whole = extract(filterbank(), images.image(0), "").tokens
    error = (store.read(images.keys[0]).tokens - whole).norm() / whole.norm()
    assert 0 < error < 0.01  # 1 / 127 / 12 ** 0.5, times the share of the largest number in the root mean square


def test_forms_do_not_mix(tmp_path):
    images, whole = image_set(2), filterbank()
    eight = in_form(whole, "int8")
    store = FeatureStore(tmp_path, whole.key)
    store.ensure(images, whole)
    with pytest.raises(ValueError, match=r"this run has form 'int8', but the .* were made with form 'half'"):
        FeatureStore(tmp_path, eight.key)
    with pytest.raises(ValueError, match="the backbone has form 'int8'"):
        store.ensure(images, eight)
    other = FeatureStore(tmp_path / "other", eight.key)
    other.ensure(images, eight)
    files(tmp_path)[0].write_bytes(files(other.root)[0].read_bytes())
    with pytest.raises(ValueError, match=r"the file of train/0000\.png has form 'int8'"):
        store.read(images.keys[0])


def test_a_store_of_before_is_one_in_half_precision(tmp_path):
    key = filterbank().key
    assert '"form"' not in key.to_json()  # as such a store has it
    FeatureStore(tmp_path, key)
    assert FeatureStore(tmp_path).key.form == "half"


def test_a_projection_keeps_inner_products_and_what_it_cannot_keep_is_least(tmp_path):
    images, whole = image_set(8), filterbank()
    exact = torch.cat([extract(whole, images.image(n), "").tokens for n in range(8)])
    errors = []
    for numbers in (10, 30):
        backbone = in_form(whole, f"projected:{numbers}", (), images)
        assert isinstance(backbone, Projected)
        matrix = backbone.projection.matrix
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(numbers), atol=1e-5, rtol=0)
        best = torch.linalg.svdvals(exact.double())[numbers:].square().sum().sqrt()
        left = (exact - exact @ matrix @ matrix.T).norm()
        torch.testing.assert_close(left.double(), best, rtol=1e-3, atol=0)  # Eckart and Young
        errors.append(float(left))
    assert errors[1] < errors[0]


def test_a_projection_is_fitted_once_and_kept(tmp_path):
    whole = filterbank()
    first = in_form(whole, "projected:20", [tmp_path], image_set(3))
    assert isinstance(first, Projected) and not list(tmp_path.iterdir())  # a slip in the command leaves nothing
    first.projection.save(tmp_path)
    again = in_form(whole, "projected:20", [tmp_path], image_set(5, "other"))
    assert again.key == first.key == in_form(whole, first.key.form, [tmp_path]).key
    other = in_form(whole, "projected:20", (), image_set(5))
    assert other.key.differences(first.key) == ("form",)
    with pytest.raises(ValueError, match="put the right file back"):
        in_form(whole, other.key.form, [tmp_path])
    with pytest.raises(ValueError, match="it is missing: put the file back"):
        in_form(whole, first.key.form, [tmp_path / "nowhere"])
    path = next(tmp_path.iterdir())
    for content in (b"", path.read_bytes()[:-30], path.read_bytes()[:-4] + b"\0\0\x80\x7f"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or of other features") as caught:
            in_form(whole, "projected:20", [tmp_path], image_set(3))
        assert "\n" not in str(caught.value)


def test_a_projected_backbone_in_batches_is_the_same_as_one_by_one():
    images, whole = image_set(3), filterbank()
    backbone = in_form(whole, "projected:20", (), images)
    pictures = [Picture(key, lambda n=n: images.image(n), "") for n, key in enumerate(images.keys)]
    wanted = [extract(backbone, images.image(n), "").tokens for n in range(3)]
    for found, tokens in zip(extract_each(backbone, pictures), wanted, strict=True):
        torch.testing.assert_close(found.features.tokens, tokens)
    torch.testing.assert_close(wanted[0].norm(dim=-1), torch.ones(len(wanted[0])))


@pytest.mark.parametrize("text", ["half:3", "projected:", "projected:0", "projected:x", "int4", ""])
def test_a_form_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected the form of a store as half, int8, projected"):
        parse_form(text)


def test_a_projection_to_no_fewer_numbers_is_refused():
    with pytest.raises(ValueError, match=r"fewer numbers than the 203 .* got 256: give projected:50, or int8"):
        in_form(filterbank(), "projected", (), image_set(1))


def test_early_tokens_of_a_divided_network_keep_the_form(tmp_path):
    torch.save(published_state(), tmp_path / "mobile_sam.pt")
    whole = load_backbone("mobile-sam", tmp_path / "mobile_sam.pt", size=64)
    early = in_form(whole, "int8").early()
    assert early.key == replace(whole.early().key, form="int8") and whole.key.form == "half"
    image = image_set(1).image(0)
    tokens = extract(early, image, "").tokens
    assert torch.equal(tokens, rounded(extract(whole.early(), image, "").tokens))
    assert not hasattr(in_form(whole, "projected:20", (), image_set(1)), "early")
