"""What a support of a learned cost holds of the cheapest pairs: searched by cosine, raw or projected, and by the cost.

    python benchmarks/projected_support.py --out runs/projected [--set cost.steps=300] [--pairs 20]

Trains the cost of preset paper-small on the built-in scenes (20 points a class and picture) with
cost.support_space=projected, then takes pairs of a source and a target picture. A support is of k = 128 targets a
source; a cheapest pair is one of the 128 targets of least cost, Eq. (3), of a source.
"""

import argparse
from pathlib import Path

import torch

from saot.label import RunSettings, open_contest, open_inputs
from saot.recipes import PAPER_SMALL, with_words
from saot.runs import Workspace
from saot.tables import ALL_WINGS
from saot.transfer import pair_support
from saot.transport import topk_support


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    settings = RunSettings(
        source="scenes:game:train,count=24",
        target="scenes:street:train,count=24",
        points="20",
        recipe=with_words(PAPER_SMALL, ["cost.support_space=projected", *options.set]),
    )
    space = Workspace(options.out, settings.to_dict())
    contest = open_contest(settings, open_inputs(settings, "cpu", ALL_WINGS), space, options.store)
    cost, data, k = contest.cost().cost, contest.data, settings.recipe.transport.k
    shares: dict[str, list[float]] = {"raw features": [], "cosine of the projection": [], "the cost": []}
    for number in range(min(options.pairs, len(data.target))):
        source, labels = data.source.labelled(number)
        target = data.target.tokens(number)
        with torch.no_grad():
            cheapest = cost(source, labels, target).topk(k, dim=1, largest=False).indices
            supports = (
                topk_support(source, target, k),
                topk_support(cost.project(source), cost.project(target), k),
                pair_support(source, target, settings.recipe.transport, cost, labels),
            )
        for name, support in zip(shares, supports, strict=True):
            held = torch.zeros(support.shape, dtype=torch.bool)
            held[support.row.long(), support.col.long()] = True
            shares[name].append(float(held.gather(1, cheapest).double().mean()))
    space.close()
    print("| searched by | cheapest pairs held |\n| --- | ---: |")
    for name, each in shares.items():
        print(f"| {name} | {100 * sum(each) / len(each):.2f} % (least {100 * min(each):.2f} %) |")


if __name__ == "__main__":
    main()
