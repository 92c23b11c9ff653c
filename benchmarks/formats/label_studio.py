"""Label Studio's brush by its SDK, both ways."""

import json

import numpy as np
from common import Folder, answer
from label_studio_sdk.converter.brush import decode_rle, mask2rle

folder = Folder()
found = {}
for task in json.loads((folder.ours / "label-studio.json").read_text()):
    name = task["data"]["image"]
    mask = folder.empty(name)
    for region in task["predictions"][0]["result"]:
        pixels = decode_rle(region["value"]["rle"]).reshape(*mask.shape, 4)[..., 3]
        mask[pixels > 127] = folder.classes.index(region["value"]["brushlabels"][0])
    found[name] = mask

tasks = []
for name in folder.masks:
    height, width = folder.masks[name].shape
    result = [
        {
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": [int(one) for one in mask2rle(pixels.astype(np.uint8) * 255)],
                "brushlabels": [folder.classes[label]],
            },
        }
        for label, pixels in folder.parts(name)
    ]
    tasks.append({"data": {"image": name}, "annotations": [{"result": result}]})
folder.theirs("label-studio.json").write_text(json.dumps(tasks))
answer(folder, {"label-studio": (found, "decode_rle")}, sdk="label-studio-sdk")
