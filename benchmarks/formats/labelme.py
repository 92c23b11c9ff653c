"""labelme's own reader and shapes, both ways."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path = [one for one in sys.path if Path(one or ".").resolve() != here]  # else this file would be the package
import labelme.utils  # noqa: E402
from labelme._label_file import read_label_file  # noqa: E402

sys.path.insert(0, str(here))
import json  # noqa: E402

import numpy as np  # noqa: E402
from common import Folder, answer  # noqa: E402

folder = Folder()
values, found = {name: number + 1 for number, name in enumerate(folder.classes)}, {}
for path in sorted((folder.ours / "labelme").rglob("*.json")):
    name = folder.by_stem()[path.relative_to(folder.ours / "labelme").with_suffix("").as_posix()]
    data = read_label_file(str(path))
    labels, _ = labelme.utils.shapes_to_label(folder.masks[name].shape, data.shapes, values)
    found[name] = np.where(labels == 0, 255, labels - 1).astype(np.uint8)

for name in folder.masks:
    place = folder.theirs(f"labelme/{Path(name).with_suffix('.json')}")
    shapes = []
    for label, pixels in folder.parts(name):
        top, left, bottom, right = labelme.utils.shape.masks_to_bboxes(pixels[None])[0].astype(int).tolist()
        cut = pixels[top:bottom, left:right]
        mask = labelme.utils.img_arr_to_b64(cut.astype(np.uint8))
        points = [[left, top], [right - 1, bottom - 1]]
        about = {"label": folder.classes[label], "shape_type": "mask", "points": points, "mask": mask}
        shapes.append({**about, "group_id": None, "flags": {}, "description": ""})
    height, width = folder.masks[name].shape
    document = {"version": "", "flags": {}, "shapes": shapes, "imagePath": Path(name).name, "imageData": None}
    place.write_text(json.dumps({**document, "imageHeight": height, "imageWidth": width}))
answer(folder, {"labelme": (found, "read_label_file, shapes_to_label")}, tool="labelme")
