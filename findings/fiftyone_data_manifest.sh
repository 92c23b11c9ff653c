#!/usr/bin/env bash
# fiftyone 1.22.1, the importer of ImageSegmentationDirectory alone: no database is started.
#
# One would expect: a folder with `data.json` (a manifest of the pictures) and `labels/` is imported without further words.
#   The importer's own documentation says that data_path defaults to whichever of data/ or data.json exists.
# What happens: the default is joined as "data/", with its slash, and ".json" is hung on to that: it looks for
#   "data/.json", and ends with an error. Only data_path="data.json" finds the manifest.
# Seen:
#   without data_path: ValueError, Data directory 'FOLDER/data/' does not exist
#   with data_path="data.json": 1 picture, mask [[1, 2]]
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check --no-deps \
  aiofiles==25.1.0 anyio==4.16.0 argcomplete==3.7.2 async-lru==2.4.0 attrs==26.1.0 backports.zstd==1.8.0 \
  beautifulsoup4==4.15.0 boto3==1.44.8 botocore==1.44.8 brotli==1.2.1 cachetools==8.0.2 certifi==2026.10.19.post1 \
  charset-normalizer==3.5.3 cloudpickle==3.1.3 contourpy==1.3.3 cross-web==0.9.0 cycler==0.12.1 dacite==1.9.2 \
  Deprecated==1.3.1 dill==0.4.1 dnspython==2.9.2 exceptiongroup==1.3.2 fiftyone==1.22.1 fiftyone-brain==0.27.0 \
  fonttools==4.68.0 ftfy==6.3.1 glob2==0.7 graphql-core==3.3.2 h11==0.16.0 h2==4.4.1 hpack==4.2.0 httpcore==1.0.9 \
  httpx==0.28.1 humanize==4.17.0 Hypercorn==0.18.0 hyperframe==6.1.0 idna==3.20 ImageIO==2.38.1 inflate64==1.0.4 \
  Jinja2==3.1.6 jmespath==1.1.0 joblib==1.6.0 jsonlines==4.0.0 jsonpatch==1.48 jsonpointer==3.12 kiwisolver==1.5.1 \
  lazy-loader==0.6 MarkupSafe==3.0.4 matplotlib==3.11.2 mongoengine==0.29.3 motor==3.6.1 multivolumefile==0.2.3 \
  narwhals==2.29.0 networkx==3.6.1 numpy==2.4.6 opencv-python-headless==5.0.0.93 packaging==26.4 pandas==3.1.1 \
  pillow==13.0.0 plotly==7.1.0 pprintpp==0.4.0 priority==2.0.0 psutil==7.2.2 py7zr==1.1.4 pybcj==1.0.8 \
  pycryptodomex==3.24.2 pydash==8.1.0 pymongo==4.9.2 pyparsing==3.3.3 pyppmd==1.3.1 python-dateutil==2.9.0.post0 \
  pytz==2026.6 PyYAML==6.0.4 rarfile==4.5 regex==2026.11.19 requests==2.34.2 retrying==1.4.2 rtree==1.4.1 \
  s3transfer==0.19.3 scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 six==1.17.0 sortedcontainers==2.4.0 \
  soupsieve==4.1.3 sse-starlette==3.7.0 sseclient-py==1.9.0 starlette==1.10.0 strawberry-graphql==0.341.2 \
  tabulate==0.10.0 texttable==1.7.2 threadpoolctl==3.8.0 tifffile==2026.3.3 tqdm==4.70.1 typing_extensions==4.16.0 \
  universal-analytics-python3==1.1.1 urllib3==2.8.0 voxel51-eta==0.17.0 wcwidth==0.9.4 wrapt==2.5.2 wsproto==1.3.2 \
  xmltodict==1.0.4 2>/dev/null
cat > load.py <<'PY'
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

os.environ |= {"FIFTYONE_DO_NOT_TRACK": "1", "FIFTYONE_DISABLE_SERVICES": "1"}
from fiftyone.utils.data.importers import ImageSegmentationDirectoryImporter

folder = Path("set").resolve()
for part in (folder / "labels", Path("pictures")):
    part.mkdir(parents=True)
Image.fromarray(np.zeros((1, 2, 3), np.uint8)).save("pictures/a.png")
Image.fromarray(np.array([[1, 2]], np.uint8)).save(folder / "labels" / "a.png")
(folder / "data.json").write_text(json.dumps({"a": "../pictures/a.png"}))
try:
    with ImageSegmentationDirectoryImporter(str(folder), load_masks=True) as importer:
        print("without data_path:", len(list(importer)), "pictures")
except ValueError as error:
    print("without data_path: ValueError,", str(error).replace(str(folder), "FOLDER"))
with ImageSegmentationDirectoryImporter(str(folder), data_path="data.json", load_masks=True) as importer:
    found = list(importer)
    print('with data_path="data.json":', len(found), "picture, mask", found[0][2].mask.tolist())
PY
env/bin/python load.py > seen.txt
cat seen.txt
grep -qx "without data_path: ValueError, Data directory 'FOLDER/data/' does not exist" seen.txt \
  && grep -qx 'with data_path="data.json": 1 picture, mask \[\[1, 2\]\]' seen.txt \
  || { echo "CHANGED: not as described above"; exit 1; }
