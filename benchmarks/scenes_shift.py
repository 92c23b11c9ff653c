"""How far apart the two renderings of the built-in scenes are, for one frozen descriptor.

    python benchmarks/scenes_shift.py filterbank --height 504
    python benchmarks/scenes_shift.py mobile-sam --weights mobile_sam.pt --height 504

Nearest neighbour from labelled game pictures, against linear and one-layer probes that were trained on all
labels of street pictures: the room between them is what label transfer can win. Scores are mean IoU over the 19
classes at pixel level on scenes:street:val. No method of this library is scored here.
"""

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from saot.data.patches import patch_labels
from saot.features import extract, load_backbone
from saot.scenes.scene import SCENES_VERSION, render_scene

K = 19


def tokens(backbone, style: str, split: str, count: int, height: int):
    """Tokens and patch labels of `count` pictures, and the masks with their grids."""
    features, labels, masks = [], [], []
    for index in range(count):
        scene = render_scene(style, split, index, height, 2 * height)
        found = extract(backbone, scene.image, f"{style}:{split}:{index}")
        features.append(found.tokens.float())
        labels.append(torch.as_tensor(patch_labels(scene.labels, found.grid, num_classes=K)).long())
        masks.append((scene.labels, found.grid))
    return torch.cat(features), torch.cat(labels), masks


def score(predicted: Tensor, masks) -> tuple[float, list[float]]:
    """Mean IoU and IoU of each class, percent, from pixel counts summed over the pictures."""
    counts, start = np.zeros((K, K), np.int64), 0
    for mask, grid in masks:
        patches = predicted[start : start + grid.height * grid.width].reshape(grid.height, grid.width).numpy()
        start += grid.height * grid.width
        rows = (np.arange(mask.shape[0]) + 0.5) * grid.input_height / mask.shape[0] // grid.patch_size
        columns = (np.arange(mask.shape[1]) + 0.5) * grid.input_width / mask.shape[1] // grid.patch_size
        pixels = patches[rows.astype(int)[:, None], columns.astype(int)]
        valid = (mask < K) & (pixels < K)
        pairs = mask[valid].astype(int) * K + pixels[valid]
        counts += np.bincount(pairs, minlength=K * K).reshape(K, K)
    hit = np.diag(counts)
    iou = np.where(counts.sum(1) > 0, 100 * hit / np.maximum(counts.sum(0) + counts.sum(1) - hit, 1), np.nan)
    return float(np.nanmean(iou)), iou.tolist()


def nearest(query: Tensor, bank: Tensor, labels: Tensor) -> Tensor:
    """Label of the most similar labelled token."""
    keep = labels < K
    bank, labels = bank[keep], labels[keep]
    return torch.cat([labels[(part @ bank.T).argmax(1)] for part in query.split(2048)])


def probe(features: Tensor, labels: Tensor, hidden: int, epochs: int = 12):
    """A linear (hidden = 0) or one-layer classifier on standardised tokens, AdamW with one learning-rate cycle."""
    torch.manual_seed(0)
    keep = labels < K
    features, labels = features[keep], labels[keep]
    mean, deviation = features.mean(0), features.std(0) + 1e-4
    width = features.shape[1]
    net = nn.Linear(width, K)
    if hidden:
        net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, K))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * -(-len(features) // 256)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(features)).split(256):
            loss = nn.functional.cross_entropy(net((features[batch] - mean) / deviation), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return lambda query: net((query - mean) / deviation).argmax(1).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("backbone", choices=["filterbank", "mobile-sam"])
    parser.add_argument("--weights")
    parser.add_argument("--height", type=int, default=504)
    parser.add_argument("--train", type=int, default=24)
    parser.add_argument("--val", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    step = 14 if arguments.backbone == "filterbank" else 16
    size = (arguments.height // step * step, 2 * arguments.height // step * step)
    options = {} if arguments.backbone == "filterbank" else {"pad": False}
    backbone = load_backbone(arguments.backbone, arguments.weights, size=size, **options)
    begin = time.process_time()
    game, game_labels, _ = tokens(backbone, "game", "train", arguments.train, arguments.height)
    street, street_labels, _ = tokens(backbone, "street", "train", arguments.train, arguments.height)
    target, target_labels, masks = tokens(backbone, "street", "val", arguments.val, arguments.height)
    found = {
        "nearest neighbour, game labels": nearest(target, game, game_labels),
        "linear probe, game labels": probe(game, game_labels, 0)(target),
        "nearest neighbour, street labels": nearest(target, street, street_labels),
        "linear probe, street labels": probe(street, street_labels, 0)(target),
        "mlp probe, street labels": probe(street, street_labels, 256)(target),
        "true patch labels": target_labels,
    }
    rows = {}
    for name, predicted in found.items():
        miou, iou = score(predicted, masks)
        rows[name] = {"miou": round(miou, 1), "iou": [round(v, 1) for v in iou]}
    print(json.dumps({"version": SCENES_VERSION, **vars(arguments), "methods": rows}))
    print(f"{time.process_time() - begin:.0f} s of one core")


if __name__ == "__main__":
    main()
