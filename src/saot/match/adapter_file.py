"""A trained adapter as one file: its weights, and the features that it refines."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saot.data import as_written
from saot.features import FeatureKey
from saot.match.adapter import Adapter, token_map
from saot.match.sides import MatchSide
from saot.runs import Kept, read_kept, write_kept


def save_adapter(path: Path, adapter: Adapter, features: FeatureKey) -> None:
    """Write the adapter in one step; `features` are those it was trained on."""
    shape = {"widths": list(adapter.widths), "out": adapter.out, "hidden": adapter.hidden}
    tensors = {name: tensor.cpu() for name, tensor in adapter.state_dict().items()}
    write_kept(path, Kept(tensors, about={"adapter": shape, "features": features.to_json()}), features.to_json())


@dataclass(frozen=True, eq=False)
class KeptAdapter:
    """An adapter from its file.

    Attributes:
        adapter: In evaluation mode, on the CPU.
        features: Those it was trained on.
    """

    adapter: Adapter
    features: FeatureKey

    def check(self, key: FeatureKey, path: Path) -> None:
        """Refuse other features than it was trained on; the input size may be another.

        Raises:
            ValueError: If layers, weights or anything else differs.
        """
        names = [name for name in self.features.differences(key) if name not in ("size", "pad", "format_version")]
        if names:
            own, given = (", ".join(f"{name}={getattr(one, name)}" for name in names) for one in (self.features, key))
            raise ValueError(f"{path} was trained on features with {own}; got {given}: give it the same backbone")


def load_adapter(path: Path) -> KeptAdapter:
    """An adapter that `saot reproduce` left (adapter-*.safetensors), or the one of a folder that holds a single one.

    Raises:
        ValueError: If there is none, several, or the file is damaged or something else.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.rglob("adapter-*.safetensors"))
        if len(found) != 1:
            named = ", ".join(str(one.relative_to(path)) for one in found[:3])
            raise ValueError(
                f"expected one adapter-*.safetensors in {path}; found {len(found)}{': ' + named if named else ''}: "
                "name the file"
            )
        path = found[0]
    if not path.is_file():
        raise ValueError(f"expected the file of a trained adapter, adapter-*.safetensors; {path} is missing")
    kept = read_kept(path)
    if kept is None:
        raise ValueError(f"{path} is damaged or no safetensors file; train the adapter again")
    if "adapter" not in kept.about:
        raise ValueError(f"{path} holds no adapter with a word on its features; train it again with this version")
    with as_written(path, "train the adapter again"):
        adapter = Adapter(**kept.about["adapter"])
        adapter.load_state_dict(dict(kept.tensors))
        return KeptAdapter(adapter.eval(), FeatureKey.from_json(kept.about["features"]))


def token_maps(tokens: Tensor, shape: tuple[int, int], widths: tuple[int, ...]) -> list[Tensor]:
    """The maps that tokens are joined of, as an `Adapter` takes them: each (width, rows, columns)."""
    return [token_map(part, shape) for part in tokens.split(widths, dim=-1)]


def adapted(adapter: Adapter, side: MatchSide) -> MatchSide:
    """The side with the adapter's tokens, each of length 1."""
    with torch.no_grad():
        tokens = adapter.tokens(token_maps(side.tokens, side.shape, adapter.widths), side.shape)
    return MatchSide(tokens, side.shape, side.mask, side.points)
