"""COCO by pycocotools, both ways, and by supervision."""

import json

import numpy as np
import supervision
from common import Folder, answer
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

folder = Folder()
document = COCO(str(folder.ours / "instances_default.json"))
by_coco, by_supervision = {}, {}
for number, image in document.imgs.items():
    mask = folder.empty(image["file_name"])
    for one in document.loadAnns(document.getAnnIds(imgIds=[number], iscrowd=False)):
        mask[document.annToMask(one).astype(bool)] = folder.classes.index(document.cats[one["category_id"]]["name"])
    by_coco[image["file_name"]] = mask

data = supervision.DetectionDataset.from_coco(
    str(folder.pictures), str(folder.ours / "instances_default.json"), force_masks=True
)
for path, _, detections in data:
    name = str(path).removeprefix(str(folder.pictures)).lstrip("/")
    mask = folder.empty(name)
    for pixels, label in zip([] if detections.mask is None else detections.mask, detections.class_id, strict=False):
        mask[np.asarray(pixels).astype(bool)] = folder.classes.index(data.classes[int(label)])
    by_supervision[name] = mask

theirs = {"images": [], "annotations": [], "categories": []}
theirs["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(folder.classes)]
for number, name in enumerate(folder.masks):
    height, width = folder.masks[name].shape
    theirs["images"].append({"id": number, "file_name": name, "height": height, "width": width})
    for label, pixels in folder.parts(name):
        coded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        shape = {"size": [int(length) for length in coded["size"]], "counts": coded["counts"].decode()}
        one = {"id": len(theirs["annotations"]), "image_id": number, "category_id": label + 1, "segmentation": shape}
        theirs["annotations"].append(one)
folder.theirs("coco.json").write_text(json.dumps(theirs))
answer(
    folder,
    {"coco": (by_coco, "COCO.annToMask"), "coco, supervision": (by_supervision, "DetectionDataset.from_coco")},
    coco="pycocotools",
    supervision="supervision",
)
