"""Which class to answer with, where mIoU is the measure: not always the likeliest.

A pixel that is pole with probability 0.4 and building with 0.6 is better called pole: buildings lose little by a pixel
that is missing, and poles gain much. With p_i the posterior of pixel i and y_i the answer, the expected IoU of class
k is

    J_k = sum_(i: y_i = k) p_ik / (|{i: y_i = k}| + sum_i p_ik - sum_(i: y_i = k) p_ik),

the ratio of the expected intersection and union (S. Nowozin, "Optimal Decisions from Probabilistic Models: the
Intersection-over-Union Case", CVPR 2014). Answers are y_i = argmax_k log p_ik + b_k, and b maximises the mean of J.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SWEEPS = 5  # over all classes, at most
REACH, STEP = 2.0, 0.1  # nats: how far a class may be moved in all, and in what steps
LEAST = 1e-6  # of the mean of J: a smaller gain is none


def expected_iou_bias(log_probs: Float[Tensor, "n K"]) -> Float[Tensor, " K"]:
    """What to add to log posteriors so that the largest is the best answer for mIoU.

    One class is moved at a time, to the step that gains most, until none gains. A class that is expected less than
    once stays where it is.

    Args:
        log_probs: Log posteriors of n pixels, up to a constant for each: a fair sample of what will be answered for.

    Returns:
        b, less its mean over the classes; zeros where no answer could be better than the likeliest.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1]]).repeat(90, 1)
        >>> unsure = torch.tensor([[0.6, 0.4]]).repeat(10, 1)  # a rare class, never the likeliest
        >>> b = expected_iou_bias(torch.cat([sure, unsure]).log())
        >>> int((unsure[0].log() + b).argmax())
        1
    """
    logs = log_probs.double().log_softmax(-1)
    probs, size = logs.exp(), logs.shape[1]
    bias, expected = torch.zeros(size, dtype=torch.float64), probs.sum(0)
    if size < 2 or len(logs) == 0:
        return bias.float()
    steps = torch.arange(-round(REACH / STEP), round(REACH / STEP) + 1, dtype=torch.float64) * STEP
    best = float(_expected_iou(probs, (logs + bias).argmax(-1), expected).mean())
    for _ in range(SWEEPS):
        before = best
        for label in (expected >= 1).nonzero().flatten().tolist():
            found = _gains(logs, probs, expected, bias, label, steps)
            if float(found.max()) > best + LEAST:
                best = float(found.max())
                bias[label] = steps[int(found.argmax())]
        if best == before:
            break
    return (bias - bias.mean()).float() if bool(bias.any()) else bias.float()


def _expected_iou(probs: Tensor, said: Tensor, expected: Tensor) -> Tensor:
    hits = torch.zeros_like(expected).index_add_(0, said, probs.gather(1, said.unsqueeze(1)).squeeze(1))
    return hits / (torch.bincount(said, minlength=len(expected)) + expected - hits).clamp_min(1e-12)


def _gains(logs: Tensor, probs: Tensor, expected: Tensor, bias: Tensor, label: int, steps: Tensor) -> Tensor:
    """(steps,) mean expected IoU with this class at each of the steps, all others as they are.

    A pixel takes the class from the first step on that lifts it over the best of the others, which loses the pixel.
    """
    moved = logs + bias
    moved[:, label] = -torch.inf
    rival, other = moved.max(-1)
    taken = torch.searchsorted(steps, (rival - logs[:, label]).contiguous(), right=True)  # first step that is larger
    size, count = len(expected), len(steps) + 1
    place = torch.stack([taken, other])

    def by_step(values: Tensor) -> Tensor:
        """(steps, K) of what each class loses up to a step."""
        table = torch.zeros(count * size, dtype=torch.float64).index_add_(0, place[0] * size + place[1], values)
        return table.view(count, size).cumsum(0)[:-1]

    ones, theirs = torch.ones_like(rival), probs.gather(1, other.unsqueeze(1)).squeeze(1)
    lost, lost_hits, won_hits = by_step(ones), by_step(theirs), by_step(probs[:, label]).sum(1)
    said = torch.bincount(other, minlength=size) - lost
    hits = torch.zeros(size, dtype=torch.float64).index_add_(0, other, theirs) - lost_hits
    said[:, label], hits[:, label] = lost.sum(1), won_hits
    return (hits / (said + expected - hits).clamp_min(1e-12)).mean(1)
