"""What is told of files that will not do, and weights that are read by name."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from saot.data import LARGEST_RECORD
from saot.features.published import (
    OneSentence,
    WeightReader,
    download,
    first_line,
    hash_files,
    is_repository,
    load_model,
    local_folder,
    pixel_statistics,
    read_weights,
    require_libraries,
)


def test_any_error_becomes_one_sentence_and_stays_its_cause():
    cause = KeyError("what\nand more")
    with (
        pytest.raises(ValueError, match=r"^it broke \('what.nand more'\); mend it$") as caught,
        OneSentence("it broke", "mend it"),
    ):
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(KeyboardInterrupt), OneSentence("it broke", "mend it"):
        raise KeyboardInterrupt
    with OneSentence("it broke", "mend it"):
        pass
    assert first_line(OSError(" one\ntwo")) == "one" and first_line(OSError("  ")) == "OSError"
    assert first_line(OSError("x" * 500)) == "x" * 160


def test_a_library_that_is_absent_is_named_with_its_extra():
    require_libraries("backbone x", "json", "hashlib")
    with pytest.raises(
        ValueError, match=r"^backbone x needs no_such, which is not .* the extra 'vit' needs: .*transformers"
    ):
        require_libraries("backbone x", "json", "no_such", "nor_such")
    with pytest.raises(ValueError, match=r"the extra 'diffusion' needs: .*diffusers"):
        require_libraries("backbone x", "no_such", extra="diffusion")


def test_names_of_the_hub():
    assert is_repository("me/my.net-1") and not any(map(is_repository, ("me", "a/b/c", "me/", "/x", "a b/c", "")))


def test_a_folder_of_a_model_has_its_files(tmp_path):
    with pytest.raises(
        ValueError, match=r"^expected a folder with config.json and model.safetensors at .*, found none"
    ):
        local_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert local_folder(tmp_path) == tmp_path
    with pytest.raises(ValueError, match=r"model.safetensors for net at .*, found none; pass the folder that"):
        local_folder(tmp_path, ("a.bin", "b.bin"), "net")
    (tmp_path / "b.bin").write_bytes(b"")
    assert local_folder(tmp_path, ("a.bin", "b.bin"), "net") == tmp_path


def test_the_hub_is_asked_for_those_files_alone(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, allow_patterns: asked.append((name, allow_patterns)) or "x"
    )
    assert download("me/net", ("a", "b"), "or else") == Path("x") and asked == [("me/net", ["a", "b"])]

    def refused(*arguments: object, **options: object) -> str:
        raise OSError("gated\nindeed")

    monkeypatch.setattr(hub, "snapshot_download", refused)
    with pytest.raises(ValueError, match=r"^could not get me/net from the hub \(gated\); check the name .*, or else$"):
        download("me/net", (), "or else")
    with pytest.raises(ValueError, match=r"^nothing here \(gated\); check"):
        download("me/net", (), "or else", "nothing here")


def test_a_file_has_its_own_hash_and_several_have_one_of_the_list(tmp_path):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(file.name)
    own = [hashlib.sha256(name.encode()).hexdigest() for name in "ab"]
    assert hash_files(files[:1]) == own[0]
    assert hash_files(files) == hashlib.sha256("".join(own).encode()).hexdigest() != hash_files(files[::-1])


class Model:
    """In the place of a network of transformers."""

    told: dict[str, list[str]]

    @classmethod
    def from_pretrained(cls, folder, **options):
        if folder.name == "damaged":
            raise OSError("cut short\nsomewhere")
        assert options == {
            "local_files_only": True, "output_loading_info": True, "dtype": torch.float32, "extra": 1
        }  # fmt: skip
        return cls(), cls.told


@pytest.mark.parametrize(
    ("missing", "unexpected", "said"),
    [
        ([], [], None),
        (["a.mask_token"], ["head.weight"], None),
        (["b", "a"], [], "are not those of net: a is missing; pass the folder of that model"),
        ([], ["neck", "head.weight"], "neck is unexpected"),
    ],
)
def test_weights_of_another_network_are_named(missing, unexpected, said):
    Model.told = {"missing_keys": missing, "unexpected_keys": unexpected}
    if said is None:
        assert isinstance(load_model(Model, Path("x"), "net", ("head.",), extra=1), Model)
        return
    with pytest.raises(ValueError, match=said):
        load_model(Model, Path("x"), "net", ("head.",), extra=1)


def test_weights_that_cannot_be_read():
    with pytest.raises(ValueError, match=r"^the weights in damaged cannot be read as net \(cut short\); fetch the"):
        load_model(Model, Path("damaged"), "net", ())


def test_pixel_statistics(tmp_path):
    default = ((1.0,), (2.0,))
    path = tmp_path / "preprocessor_config.json"
    assert pixel_statistics(tmp_path, default) is default
    path.write_text(json.dumps({"image_mean": [0.1, 0.2]}))
    assert pixel_statistics(tmp_path, default) == ((25.5, 51.0), (2.0,))
    with pytest.raises(ValueError, match="is not JSON with image_mean and image_std; fetch it again or delete it"):
        pixel_statistics(tmp_path, default, whole=True)
    for text in ("[", "[]", '{"image_mean": ["x"]}', '{"image_std": 1}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not JSON with image_mean"):
            pixel_statistics(tmp_path, default)


def test_a_reader_takes_each_tensor_once_it_fits_and_names_the_rest():
    reader = WeightReader(
        {"a": torch.ones(2, dtype=torch.float16), "b": torch.ones(1), "c": torch.ones(1)}, "net", "it"
    )
    assert reader.take("a", (2,)).dtype == torch.float32
    with pytest.raises(ValueError, match="not the weights of net: x is missing; pass it"):
        reader.take("x", (2,))
    with pytest.raises(ValueError, match=r"b has shape \(1,\), expected \(2,\); pass it"):
        reader.take("b", (2,))
    reader.finish(ignore=("b", "c"))
    with pytest.raises(ValueError, match="c is unexpected; pass it"):
        reader.finish(ignore=("b",))


def test_folded_normalisations_answer_as_the_layers_do():
    torch.manual_seed(1)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    layer_norm, linear = nn.LayerNorm(5), nn.Linear(5, 2)
    for part in (norm, layer_norm):
        nn.init.normal_(part.weight)
        nn.init.normal_(part.bias)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    state = {"x.c.weight": conv.weight} | {f"x.bn.{name}": value for name, value in norm.state_dict().items()}
    state |= {f"n.{name}": value for name, value in layer_norm.state_dict().items()}
    state |= {f"l.{name}": value for name, value in linear.state_dict().items()}
    reader, folded, plain = WeightReader(state, "net", "it"), nn.Conv2d(3, 4, 3), nn.Linear(5, 2)
    reader.fill_conv(folded, "x")
    reader.fill_normed_linear(plain, "n", "l")
    reader.finish(ignore=())
    pixels, rows = torch.randn(1, 3, 6, 6), torch.randn(7, 5)
    torch.testing.assert_close(folded(pixels), norm.eval()(conv(pixels)))
    torch.testing.assert_close(plain(nn.functional.layer_norm(rows, (5,))), linear(layer_norm(rows)))
    turned = nn.Linear(5, 2)
    reader.fill_normed_linear(turned, "n", "l", lambda x: x.flip(0))
    torch.testing.assert_close(turned(rows), plain(rows).flip(1))


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("pickle-was-run"),))


def test_files_that_are_no_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"image_encoder.x": Malicious()}, "evil.pt")
    torch.save([1, 2], "list.pt")
    Path("short.pt").write_bytes(b"PK\x03\x04 cut")
    Path("short.safetensors").write_bytes(b"\x00" * 4)
    for name in ("evil.pt", "list.pt", "short.pt", "short.safetensors", "absent.pt"):
        with pytest.raises(ValueError, match=name) as caught:
            read_weights(Path(name))
        assert "\n" not in str(caught.value)
    assert not Path("pickle-was-run").exists()


def test_a_configuration_of_unlikely_size_is_not_read(tmp_path):
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", LARGEST_RECORD + 1)  # a hole: it takes no room
    with pytest.raises(ValueError, match=r"config\.json has 268,435,457 bytes, which no configuration has"):
        local_folder(tmp_path)
