"""What a step of `saot adapt` costs: steps a second and memory by crop size, and an estimate of the paper's run.

    python benchmarks/bench_adapt.py --weights mobile_sam.pt
    python benchmarks/bench_adapt.py --device cuda --preset paper --crops 512x512 --precision bf16

Each line trains on random pictures, so nothing is read; one process a line, so that peaks do not add up. The estimate
counts the multiplications and additions of a step of each paper recipe (`torch.utils.flop_counter`, on crops of 128 x
128, scaled by their area, which leaves out that attention grows faster) and divides them by what a card does in
practice: 40 % of its dense bf16 peak.
"""

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator

from saot.adapt import load_encoder
from saot.adapt.networks import build_segmenter
from saot.adapt.pictures import TrainingPictures
from saot.adapt.recipe import METHODS, AdaptRecipe, adapt_preset, with_method
from saot.adapt.sampling import count_pixels
from saot.adapt.trainer import Trainer
from saot.data import ImageSet, LabelledSet, class_set

CARDS = {"A100 (312 TFLOP/s)": 312e12, "H100 (989 TFLOP/s)": 989e12}
SHARE = 0.4
STEPS = 5


def pictures(recipe: AdaptRecipe) -> TrainingPictures:
    """Random pictures of the sizes a recipe asks for, twice its crop where it leaves them."""
    rng, classes = np.random.default_rng(0), class_set("cityscapes19")
    least = tuple(2 * side for side in recipe.pictures.crop)
    size = recipe.pictures.source_size or least
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.kron(rng.integers(0, 19, (size[0] // 8, size[1] // 8), dtype=np.uint8), np.ones((8, 8), np.uint8))
    target = rng.integers(0, 256, (*(recipe.pictures.target_size or least), 3), dtype=np.uint8)
    images = ImageSet("random", classes, ("a",), lambda _: image, lambda _: "a")
    source = LabelledSet(images, lambda _: mask)
    others = ImageSet("random", classes, ("b",), lambda _: target, lambda _: "b")
    return TrainingPictures(source, others, count_pixels([mask], 19), recipe, 0)


def trainer(recipe: AdaptRecipe, weights: str, device: str) -> Trainer:
    """A trainer about to take its first step."""
    parts = recipe.network
    network = build_segmenter(
        load_encoder(parts.encoder, weights), 19, parts.head, two_scale=parts.two_scale, channels=parts.channels
    )
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=recipe.optimizer.precision)
    return Trainer(network, pictures(recipe), recipe, accelerator)


def measure(recipe: AdaptRecipe, weights: str, device: str) -> tuple[float, float]:
    """Seconds a step and peak memory, GiB."""
    made = trainer(recipe, weights, device)
    for number in range(2):
        made.step(number)
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for number in range(2, 2 + STEPS):
        made.step(number)
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / STEPS
    made.close()
    if device != "cpu":
        return seconds, torch.cuda.max_memory_allocated() / 2**30
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def operations(recipe: AdaptRecipe) -> float:
    """Floating-point operations of a step at the recipe's crop, from one at a crop that a CPU can take."""
    from torch.utils.flop_counter import FlopCounterMode

    side = 256 if recipe.network.two_scale else 128
    small = replace(
        recipe,
        pictures=replace(recipe.pictures, crop=(side, side), source_size=None, target_size=None),
        rare=None,
        optimizer=replace(recipe.optimizer, precision="no"),
    )
    made = trainer(small, "random", "cpu")
    with FlopCounterMode(display=False) as counter:
        made.step(0)
    made.close()
    height, width = recipe.pictures.crop
    return counter.get_total_flops() * height * width / side**2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--crops", default="96x96,128x128,160x160,224x224")
    parser.add_argument("--precision", default="no")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", default="source-only,dacs,t2s-da")
    parser.add_argument("--no-estimate", action="store_true")
    parser.add_argument("--one", help="METHOD:CROP, one line in this process")
    given = parser.parse_args()
    base = adapt_preset(given.preset)
    base = replace(base, optimizer=replace(base.optimizer, precision=given.precision))
    if given.one:
        method, crop = given.one.split(":")
        size = tuple(int(side) for side in crop.split("x"))
        recipe = with_method(replace(base, pictures=replace(base.pictures, crop=size)), method)
        seconds, memory = measure(recipe, given.weights, given.device)
        print(f"| {crop} | {method} | {1 / seconds:.2f} | {memory:.2f} |", flush=True)
        return
    machine = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    print(f"preset {given.preset}, {given.device}, {machine}, batch {base.optimizer.batch} + as many\n")
    print("| crop | method | steps a second | peak memory, GiB |\n| --- | --- | ---: | ---: |", flush=True)
    for crop in given.crops.split(","):
        for method in given.methods.split(","):
            assert method in METHODS
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", f"{method}:{crop}"], check=True)
    if given.no_estimate:
        return
    print("\n| recipe | method | TFLOP a step |" + "".join(f" hours of 40,000 steps, {card} |" for card in CARDS))
    print("| --- | --- | ---: |" + " ---: |" * len(CARDS))
    for name in ("paper", "paper-cnn", "paper-hrda"):
        for method in ("dacs", "t2s-da"):
            total = operations(with_method(adapt_preset(name), method))
            hours = [f" {40_000 * total / (SHARE * peak) / 3600:.1f} |" for peak in CARDS.values()]
            print(f"| {name} | {method} | {total / 1e12:.2f} |" + "".join(hours), flush=True)


if __name__ == "__main__":
    main()
