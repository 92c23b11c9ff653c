"""FiftyOne's importer and the masks it loads; no database is started."""

import os

os.environ |= {"FIFTYONE_DO_NOT_TRACK": "1", "FIFTYONE_DISABLE_SERVICES": "1"}
import json

import fiftyone.core.labels as labels
import numpy as np
from common import Folder, answer
from fiftyone.utils.data.importers import ImageSegmentationDirectoryImporter

folder = Folder()
targets = json.loads((folder.ours / "fiftyone" / "mask_targets.json").read_text())
index = {int(value): folder.classes.index(name) for value, name in targets.items()}
found = {}
with ImageSegmentationDirectoryImporter(str(folder.ours / "fiftyone"), load_masks=True) as importer:
    for path, _, label in importer:
        name = path.partition("/fiftyone/data/")[2]
        table = np.full(256, 255, np.uint8)
        table[list(index)] = list(index.values())
        found[name] = table[label.mask]

for stem, name in folder.by_stem().items():
    place = folder.theirs(f"fiftyone/labels/{stem}.png")
    values = np.where(folder.masks[name] == 255, 0, folder.masks[name].astype(int) + 1).astype(np.uint8)
    labels._write_mask(values, str(place))
answer(folder, {"fiftyone": (found, "ImageSegmentationDirectoryImporter")}, tool="fiftyone")
