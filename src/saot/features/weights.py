"""Weight files: read without unpickling code, checked name by name, normalisations folded into the layers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a `.pt` or `.safetensors` file, without ever unpickling code.

    Raises:
        ValueError: If there is no such file or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise ValueError(f"expected a weight file at {path}, found none; check --weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in half a dozen kinds of error
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as plain weights ({reason}); fetch the published file again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds more than tensors by name; pass a plain state dict")
    return state


class WeightReader:
    """Takes tensors out of a published state dict by name, and complains in one sentence.

    Args:
        state: The published tensors by name.
        model: Whose weights they ought to be, for the messages.
        remedy: What to pass instead, for the messages.
    """

    def __init__(self, state: Mapping[str, Tensor], model: str, remedy: str) -> None:
        self._state, self._model, self._remedy = state, model, remedy
        self._taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`, in float32.

        Raises:
            ValueError: If it is missing or has another shape.
        """
        value = self._state.get(name)
        if value is None:
            raise ValueError(f"these are not the weights of {self._model}: {name} is missing; pass {self._remedy}")
        if tuple(value.shape) != shape:
            raise ValueError(
                f"these are not the weights of {self._model}: {name} has shape "
                f"{tuple(value.shape)}, expected {shape}; pass {self._remedy}"
            )
        self._taken.add(name)
        return value.float()

    @torch.no_grad()
    def fill(self, parameter: Tensor, name: str) -> None:
        """Copy the tensor `name` into `parameter`."""
        parameter.copy_(self.take(name, tuple(parameter.shape)))

    @torch.no_grad()
    def fill_conv(self, layer: nn.Module, name: str) -> None:
        """Convolution and batch normalisation in one: w' = w s, b' = beta - mean s, s = gamma / sqrt(var +
        1e-5).

        A 1x1 convolution may be a linear layer, which is the same on channels-last maps.
        """
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert layer.bias is not None
        width = (layer.weight.shape[0],)
        gamma, beta = self.take(f"{name}.bn.weight", width), self.take(f"{name}.bn.bias", width)
        mean, variance = (
            self.take(f"{name}.bn.running_mean", width),
            self.take(f"{name}.bn.running_var", width),
        )
        scale = gamma / torch.sqrt(variance + 1e-5)
        shape = tuple(layer.weight.shape) + (1,) * (4 - layer.weight.ndim)
        weight = self.take(f"{name}.c.weight", shape) * scale[:, None, None, None]
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(beta - mean * scale)

    @torch.no_grad()
    def fill_normed_linear(
        self, linear: nn.Linear, norm: str, name: str, reorder: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Affine part of a layer normalisation folded into the linear layer behind it: W (g x + c) + b.

        Args:
            linear: Layer to fill.
            norm: Name of the layer normalisation.
            name: Name of the linear layer.
            reorder: Permutation of the output rows.
        """
        gain = self.take(f"{norm}.weight", (linear.in_features,))
        shift = self.take(f"{norm}.bias", (linear.in_features,))
        weight = self.take(f"{name}.weight", tuple(linear.weight.shape))
        bias = self.take(f"{name}.bias", tuple(linear.bias.shape)) + weight @ shift
        weight = weight * gain
        linear.weight.copy_(weight if reorder is None else reorder(weight))
        linear.bias.copy_(bias if reorder is None else reorder(bias))

    def finish(self, ignore: tuple[str, ...]) -> None:
        """Raise if a tensor was never taken, other than step counters and those that begin as in `ignore`."""
        rest = [name for name in self._state if name not in self._taken and not name.startswith(ignore)]
        rest = [name for name in rest if not name.endswith("num_batches_tracked")]
        if rest:
            raise ValueError(
                f"these are not the weights of {self._model}: {rest[0]} is unexpected; pass {self._remedy}"
            )
