"""Several input sizes in one run: a decoder is trained at each, and weights learned on declared points join them.

Appendix P of the paper proposes it: upsample the predictions of several sizes to one grid and learn fusion weights for
each class. The points are those the run has declared, so nothing is chosen on the pictures that are scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from saot.decoder import Decoder
from saot.evaluate import scores_at
from saot.label.data import Bench, Domain, draw_tokens
from saot.label.networks import Trained, packed, unpacked
from saot.label.scoring import Contest, MethodScores, Scorer, chosen_adjustment, network_scorer, score_method
from saot.label.sizes import SizesDecoder, centres, fit_weights
from saot.runs import Kept, Making, generator_for, identity_of

DECODER = "saot_decoder"


@dataclass(frozen=True)
class TrainedSizes(Trained):
    """Decoders of several input sizes as one; `Domain.logits` and `packed_decoder` know what to do with it."""

    decoder: SizesDecoder  # pyright: ignore[reportIncompatibleVariableOverride]  a `Trained` has one of one size


def joined_contest(bench: Bench, members: Mapping[str, Contest]) -> Contest:
    """One contest of several: its decoder joins theirs, everything else is that of the first.

    The first has most tokens. So what a run is compared with sees the largest input.

    Args:
        bench: Of the whole run; each member has its own.
        members: The contest at each input size, most tokens first.
    """
    first, *others = members.values()
    target = joined_domain([first.data.target, *(other.data.target for other in others)])
    test = joined_domain([first.evaluation.domain, *(other.evaluation.domain for other in others)])
    whole = replace(
        first,
        bench=bench,
        data=replace(first.data, target=target),
        evaluation=replace(first.evaluation, domain=test),
        members=members,
    )
    return replace(whole, decoder=cache(lambda: joined_decoder(whole)))


def joined_domain(domains: Sequence[Domain]) -> Domain:
    """The same pictures at several input sizes: tokens and grid are those of the first, logits come from all."""
    first, *others = domains
    return replace(first, further=tuple(others), identity=identity_of(*domains))


def joined_decoder(contest: Contest) -> Trained:
    """The decoders of all input sizes as one, weighed on declared points; made once.

    Each brings the logit adjustment that it has alone. Weights are learned on held-out points where there are any, else
    on those the decoders were trained on; without points every size weighs the same.
    """
    bench, members = contest.bench, contest.members
    trained = [member.decoder() for member in members.values()]
    adjusted = [
        chosen_adjustment(one.bench, one.data, each.decoder)
        for one, each in zip(members.values(), trained, strict=True)
    ]
    zero = torch.zeros(contest.data.num_classes)
    biases = [zero if one.bias is None else one.bias.float() for one in adjusted]

    def make(making: Making) -> Kept:
        points = declared_pixels(contest)
        classes = torch.cat([labels for *_, labels in points]) if points else torch.zeros(0, dtype=torch.int64)
        answers = [
            probs_at(member.data.target, each.decoder, bias, points, contest.data.num_classes)
            for member, each, bias in zip(members.values(), trained, biases, strict=True)
        ]
        return Kept({"weights": fit_weights(torch.stack(answers), classes, contest.data.num_classes)})

    identity = identity_of(trained, biases, contest.data.points, contest.evaluation.declared)
    weights = bench.space.once("work/fusion", identity, make, title="fusion").tensors["weights"]
    names = contest.data.classes.names
    facts = {
        **trained[0].facts,
        "sizes": {
            size: {
                "weights": dict(zip(names, [round(value, 4) for value in weights[place].tolist()], strict=True)),
                "adjustment": adjusted[place].facts,
            }
            for place, size in enumerate(members)
        },
    }
    decoder = SizesDecoder([each.decoder for each in trained], weights, torch.stack(biases)).to(bench.device).eval()
    return TrainedSizes(decoder, identity_of(identity, weights), facts)


def scores_of_sizes(contest: Contest) -> dict[str, MethodScores]:
    """Scores of each input size's decoder alone, as `saot_decoder_SIZE`; none where there is one size."""
    if contest.evaluation.truth is None:
        return {}
    scores = {}
    for size, one in contest.members.items():
        name = f"{DECODER}_{size}"
        scores[name] = score_method(one, DECODER, partial(_alone, one, name))
    return scores


def _alone(contest: Contest, name: str) -> Scorer:
    return network_scorer(contest, contest.decoder(), name, contest.data.points.budget)


def declared_pixels(contest: Contest) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """The declared points that weights are learned on: picture, rows and columns in pixels, classes.

    Those held out from training, where there are any; none at all where evaluation pictures are target pictures too.
    With points that are drawn anew at each step, one such draw.
    """
    found, target, declared = [], contest.data.target, contest.data.points
    points = declared.tokens
    if contest.evaluation.declared:
        return found
    if points.resample:
        generator = generator_for(contest.bench.seed, "fusion")
        for number, labels in enumerate(points.dense):
            tokens, classes = draw_tokens(labels, points.resample, generator)
            rows, columns = centres(target.grid(number))
            found.append((number, rows[tokens], columns[tokens], classes))
    elif len(points):
        chosen = points.held() if len(points.held()) else points
        for number in chosen.picture.unique().tolist():
            x, y, classes = declared.pixels.of(target.images.keys[number])
            found.append((number, y.long(), x.long(), classes.long()))
    return [part for part in found if len(part[-1])]


def probs_at(
    target: Domain,
    decoder: Decoder,
    bias: Float[Tensor, " K"],
    points: Sequence[tuple[int, Tensor, Tensor, Tensor]],
    num_classes: int,
) -> Float[Tensor, "p K"]:
    """Class probabilities of a decoder at pixels of target pictures.

    Args:
        target: The pictures at the decoder's input size.
        decoder: Of one input size.
        bias: Its logit adjustment.
        points: From `declared_pixels`.
        num_classes: K.
    """
    if not points:
        return torch.zeros(0, num_classes)
    parts = []
    for number, rows, columns, _ in points:
        logits = target.logits(decoder, number).float().cpu() + bias
        parts.append(scores_at(logits, target.grid(number), rows, columns))
    return torch.softmax(torch.cat(parts), -1)


def packed_decoder(decoder: Any, **extra: object) -> Kept:
    """A decoder of one input size, or of several: the tensors of size number s as `s/NAME`, and all their shapes."""
    if not isinstance(decoder, SizesDecoder):
        return packed(decoder, **extra)
    tensors = {"weights": decoder.weights.cpu(), "biases": decoder.biases.cpu()}
    shapes = []
    for number, member in enumerate(decoder.members):
        part = packed(cast(Decoder, member))
        tensors |= {f"{number}/{name}": tensor for name, tensor in part.tensors.items()}
        shapes.append(part.about["shape"])
    return Kept(tensors, about={"shapes": shapes, **extra})


def unpacked_decoder(kept: Kept) -> Decoder | SizesDecoder:
    """The decoder that was packed, in evaluation mode."""
    if "shapes" not in kept.about:
        return unpacked(kept)
    members = []
    for number, shape in enumerate(kept.about["shapes"]):
        head = f"{number}/"
        tensors = {name.removeprefix(head): part for name, part in kept.tensors.items() if name.startswith(head)}
        members.append(unpacked(Kept(tensors, about={"shape": shape})))
    return SizesDecoder(members, kept.tensors["weights"], kept.tensors["biases"]).eval()
