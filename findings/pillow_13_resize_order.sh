#!/usr/bin/env bash
# Pillow 13.0.0 beside 12.0.0: `Image.resize` of a tall picture to a square, as published pre-processing of ViTs does.
#
# One would expect: a filter of two passes that rounds to 8 bits between them runs them in one order (horizontal first,
#   as up to 12.0.0), so that the same picture, size and filter give the same pixels, and features that were extracted
#   under one release can be compared with those of the next.
# What happens: 13.0.0 chooses the order by the sizes. These three are vertical first, so pixels differ, even where
#   both sides are halved; a smaller picture (56 x 84 to 28 x 42) is still horizontal first, and the same.
# Seen (on noise, the worst of pictures):
#   200x480 to 224x224, bicubic: 0.283 of values differ, by up to 11
#   200x480 to 112x224, bicubic: 0.215 of values differ, by up to 5
#   200x480 to 100x240, bicubic: 0.211 of values differ, by up to 6
#   12.0.0 is horizontal first: yes; 13.0.0 is vertical first: yes
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
for version in 12.0.0 13.0.0; do
  python3 -m venv "pillow-$version"
  "pillow-$version/bin/pip" install --quiet --disable-pip-version-check "pillow==$version" numpy==2.4.6 2>/dev/null
done
cat > resize.py <<'PY'
import sys

import numpy as np
from PIL import Image

pixels = np.random.default_rng(0).integers(0, 256, (480, 200, 3), dtype=np.uint8)
picture = Image.fromarray(pixels)


def through(*sizes):
    found = picture
    for size in sizes:
        found = found.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(found)


np.savez(
    sys.argv[1], square=through((224, 224)), smaller=through((112, 224)), alike=through((100, 240)),
    horizontal=through((224, 480), (224, 224)), vertical=through((200, 224), (224, 224)),
)
PY
for version in 12.0.0 13.0.0; do "pillow-$version/bin/python" resize.py "$version.npz"; done
cat > compare.py <<'PY'
import sys

import numpy as np

old, new = np.load("12.0.0.npz"), np.load("13.0.0.npz")
changed = {}
for name, words in (("square", "224x224"), ("smaller", "112x224"), ("alike", "100x240")):
    away = np.abs(old[name].astype(int) - new[name].astype(int))
    changed[name] = away.max()
    print(f"200x480 to {words}, bicubic: {(away > 0).mean():.3f} of values differ, by up to {away.max()}")
first = (old["square"] == old["horizontal"]).all(), (new["square"] == new["vertical"]).all()
words = ["yes" if one else "no" for one in first]
print("12.0.0 is horizontal first: {}; 13.0.0 is vertical first: {}".format(*words))
sys.exit(not (changed["square"] > 0 and changed["smaller"] > 0 and changed["alike"] > 0 and all(first)))
PY
pillow-13.0.0/bin/python compare.py || { echo "CHANGED: not as described above"; exit 1; }
