#!/usr/bin/env bash
# rasterio 1.4.4 with its own GDAL: a compressed GeoTIFF written in square windows, as a network labels a large raster.
#
# One would expect: the size of the file hangs on pixels, compression and layout, not on the order of the windows.
# What happens: a GeoTIFF has strips of whole rows unless tiles are asked for. Each window compresses its strips anew, and
#   once they have left GDAL's cache the longer ones are written behind the last, with the old ones left as dead bytes.
#   The pixels are right and nothing is said. Tiles that the windows fill do not grow.
# Seen (2,048 x 2,048 labels of six classes, windows of 256, a cache of 1 MB as for a raster that is larger than it):
#   strips, windows of whole rows: 51,979 bytes
#   strips, windows of squares: 231,494 bytes
#   tiles, windows of whole rows: 20,928 bytes
#   tiles, windows of squares: 20,928 bytes
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 rasterio==1.4.4 2>/dev/null
cat > write.py <<'PY'
import os
import warnings

import numpy as np
import rasterio
from rasterio.windows import Window

warnings.simplefilter("ignore")  # rasters without a place on Earth
side, step, sizes = 2048, 256, {}
y, x = np.mgrid[:side, :side]
labels = ((x // 97 + y // 61) % 6).astype(np.uint8)
about = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "compress": "deflate"}
for layout, more in (("strips", {}), ("tiles", {"tiled": True, "blockxsize": step, "blockysize": step})):
    for windows, width in (("whole rows", side), ("squares", step)):
        path = f"{layout}-{width}.tif"
        with rasterio.Env(GDAL_CACHEMAX=1), rasterio.open(path, "w", **about, **more) as file:
            for top in range(0, side, step):
                for left in range(0, side, width):
                    part = labels[top : top + step, left : left + width]
                    file.write(part, 1, window=Window(left, top, width, step))
        with rasterio.open(path) as file:
            assert np.array_equal(file.read(1), labels)
        sizes[layout, windows] = os.path.getsize(path)
        print(f"{layout}, windows of {windows}: {sizes[layout, windows]:,} bytes")
grown = [sizes[layout, "squares"] / sizes[layout, "whole rows"] for layout in ("strips", "tiles")]
print("grows" if grown[0] > 2 and grown[1] < 1.1 else "as expected")
PY
env/bin/python write.py | tee seen.txt
grep -qx grows seen.txt || { echo "CHANGED: not as described above"; exit 1; }
