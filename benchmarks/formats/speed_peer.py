"""Seconds and memory a picture of a tool's own encoder: called by speed.py in the tool's environment."""

import argparse
import json
import time
from pathlib import Path

import numpy as np


def coco(mask, label):
    """As pycocotools has it."""
    from pycocotools import mask as coder

    packed = coder.encode(np.asfortranarray(mask == label, dtype=np.uint8))
    box, area = coder.toBbox(packed).tolist(), int(coder.area(packed))
    return {"segmentation": {**packed, "counts": packed["counts"].decode()}, "bbox": box, "area": area, "iscrowd": 0}


def label_studio(mask, label):
    """As label-studio-sdk has it."""
    from label_studio_sdk.converter.brush import mask2rle

    return {"value": {"format": "rle", "rle": [int(one) for one in mask2rle((mask == label).astype(np.uint8) * 255)]}}


parser = argparse.ArgumentParser()
parser.add_argument("tool", choices=("coco", "label_studio"))
parser.add_argument("--out", type=Path)
parser.add_argument("--count", type=int)
given = parser.parse_args()
encode = {"coco": coco, "label_studio": label_studio}[given.tool]
encode(np.eye(4, dtype=np.uint8), 1)  # imports are not counted
begin = time.perf_counter()
with open(given.out / f"theirs-{given.tool}", "w") as file:
    for number in range(given.count):
        mask = np.load(given.out / f"{number}.npy")
        for label in np.unique(mask).tolist():
            json.dump(encode(mask, label), file)
            file.write("\n")
seconds = (time.perf_counter() - begin) / given.count
status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the process that started this one
print(json.dumps({"seconds": seconds, "memory": int(status.split("VmHWM:")[1].split()[0]) / 1024}))
