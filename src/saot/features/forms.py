"""How many bytes a store gives a token: half precision, or eight bits a number and one step for each of its numbers.

Eight bits are x = code * step, with codes from -127 to 127 and one step for each channel of a picture, which errs less
than one for each token (docs/large-sets.md). A step has four significant bits, so that each x is a
number of half precision exactly: what is read as a whole, row by row, or never was on a disk is the same to the bit.
"""

import numpy as np
import torch
from jaxtyping import Float, Float16, Int8, Shaped
from torch import Tensor

FORMS = ("half", "int8", "projected")
NUMBERS = 256  # that a projected token keeps, unless it is said
CODES = 127  # largest code of eight bits
SMALLEST = 2.0**-21  # step: four significant bits whose last is the smallest number of half precision


def parse_form(text: str) -> tuple[str, int]:
    """One of `FORMS`, and how many numbers it keeps of a token; 0 for all.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> parse_form("half"), parse_form("projected"), parse_form("projected:64")
        (('half', 0), ('projected', 256), ('projected', 64))
    """
    name, _, number = text.partition(":")
    if name == "projected" and ((number.isdecimal() and int(number) > 0) or text == name):
        return name, int(number or NUMBERS)
    if text in FORMS:
        return text, 0
    raise ValueError(f"expected the form of a store as half, int8, projected or projected:NUMBERS; got {text!r}")


def rounded(tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The tokens as eight bits keep them; what was rounded before stays as it is.

    Example:
        >>> rounded(torch.tensor([[127.0], [0.4], [-63.6]])).flatten()
        tensor([127.,   0., -64.])
    """
    codes, steps = in_eight_bits(tokens)
    return codes.float() * steps.float()


def in_eight_bits(tokens: Float[Tensor, "n d"]) -> tuple[Int8[Tensor, "n d"], Float16[Tensor, "1 d"]]:
    """Codes and the step of each channel: the smallest of four significant bits with which no code leaves the range.

    Args:
        tokens: Finite; those of `rounded` come back exactly.
    """
    tokens = tokens.float()
    peaks = tokens.abs().amax(0, keepdim=True)
    steps = _four_bits(peaks / CODES).clamp_min(SMALLEST)
    above = _four_bits(steps * (1 + 2**-6))  # the next one: the peak of rounded tokens may have passed below `steps`
    steps = torch.where(_are_multiples(tokens, above) & ~_are_multiples(tokens, steps), above, steps)
    return torch.round(tokens / steps).to(torch.int8), steps.half()


def _four_bits(values: Float[Tensor, "1 d"]) -> Float[Tensor, "1 d"]:
    """The next larger numbers k 2^e, k from 8 to 16."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.ceil(mantissa * 16) / 16, exponent)


def _are_multiples(tokens: Float[Tensor, "n d"], steps: Float[Tensor, "1 d"]) -> Shaped[Tensor, "1 d"]:
    return (torch.round(tokens / steps) * steps == tokens).all(0, keepdim=True)


def described(form: str, rows: int, dim: int) -> dict[str, dict[str, object]]:
    """What the header of a safetensors file says of the tensors, in their order."""
    if form != "int8":
        return {"tokens": {"dtype": "F16", "shape": [rows, dim], "data_offsets": [0, 2 * rows * dim]}}
    return {  # steps first, so that their two bytes are aligned
        "steps": {"dtype": "F16", "shape": [1, dim], "data_offsets": [0, 2 * dim]},
        "tokens": {"dtype": "I8", "shape": [rows, dim], "data_offsets": [2 * dim, 2 * dim + rows * dim]},
    }


def payload_size(form: str, rows: int, dim: int) -> int:
    """Bytes of the tokens of a picture.

    Example:
        >>> payload_size("half", 10, 64), payload_size("int8", 10, 64)
        (1280, 768)
    """
    return (2 + rows) * dim if form == "int8" else 2 * rows * dim


def encoded(form: str, tokens: Float[Tensor, "n d"]) -> bytes:
    """The bytes of `described`."""
    if form != "int8":
        return tokens.half().contiguous().numpy().astype("<f2", copy=False).tobytes()
    codes, steps = in_eight_bits(tokens)
    return steps.numpy().astype("<f2", copy=False).tobytes() + codes.contiguous().numpy().tobytes()


def decoded(form: str, payload: bytes, rows: int, dim: int) -> Float16[np.ndarray, "rows dim"]:
    """The tokens behind `encoded`."""
    if form != "int8":
        return np.frombuffer(payload, "<f2").reshape(rows, dim).astype(np.float16, copy=False)
    steps = np.frombuffer(payload, "<f2", dim)
    codes = np.frombuffer(payload, np.int8, offset=2 * dim).reshape(rows, dim)
    return from_eight_bits(codes, steps)


def from_eight_bits(
    codes: Int8[np.ndarray, "rows dim"], steps: Float16[np.ndarray, " dim"]
) -> Float16[np.ndarray, "rows dim"]:
    """Each code times the step of its channel, exactly."""
    return (codes.astype(np.float32) * steps.astype(np.float32)).astype(np.float16)
