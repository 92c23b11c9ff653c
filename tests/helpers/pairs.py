"""Files of the public sets of pairs, written small."""

import json

import numpy as np
from PIL import Image


def picture(path, size, value=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8)
    pixels[:, 0] = 255  # so that a mirror shows
    Image.fromarray(pixels).save(path)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
