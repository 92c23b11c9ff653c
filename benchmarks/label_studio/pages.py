"""Predictions imported into a Label Studio server, its page of them, a correction read back: `make test-label-studio`.

    python benchmarks/label_studio/pages.py RUN --program ENV/bin/label-studio --browser ENV/bin/python [--out FOLDER]

Imports what `saot predict --format label-studio` wrote, opens a task in headless Chromium, has a person draw a box
(through the API, beside regions that nobody touched), and gives the export to `saot import`. Only the box may be a
label. Ends with 1 where a pixel differs, or the page does not show the masks.
"""

import argparse
import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from check import PICTURES, TOKEN, asked, label_studio, project
from PIL import Image

from saot.annotate import labelling_config, read_label_studio
from saot.data import ClassSet
from saot.label import open_run
from saot.tables import ALL_WINGS

SAOT = [sys.executable, "-m", "saot.cli"]
SHOT = Path(__file__).with_name("shot.py")
LEAST_SHOWN = 0.8  # edges are blurred, and the page lays its tools over a corner


def with_boxes(classes: ClassSet) -> str:
    """The configuration of the predictions, and boxes for a person."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in classes.names)
    tag = f'  <RectangleLabels name="box" toName="image">{labels}</RectangleLabels>\n'
    return labelling_config(classes).replace("</View>", f"{tag}</View>")


def share_shown(out: Path, mask: np.ndarray, classes: ClassSet) -> float:
    """The share of pixels that the page has tinted more like their class than like any other that the mask shows."""
    size = mask.shape[1], mask.shape[0]
    shown, picture = (
        np.asarray(Image.open(place).convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float64)
        for place in (out / "canvas.png", out / "pictures" / "new" / "0.png")
    )
    labels, colors = np.unique(mask), np.array(classes.colors, dtype=np.float64)
    away = np.linalg.norm(colors[mask] - picture, axis=-1).clip(1)
    strength = np.median(np.linalg.norm(shown - picture, axis=-1) / away)
    tinted = picture[..., None, :] + strength * (colors[labels] - picture[..., None, :])
    found = labels[np.linalg.norm(tinted - shown[..., None, :], axis=-1).argmin(-1)]
    return float((found == mask).mean())


def corrected(server: str, number: int, task: dict, classes: ClassSet) -> np.ndarray:
    """The mask of a box that a person draws beside what was predicted; 255 elsewhere."""
    result = [{**one, "origin": "prediction"} for one in task["predictions"][0]["result"]]  # as the page says of them
    height, width = (result[0][f"original_{side}"] for side in ("height", "width"))
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    value = {"x": 25.0, "y": 25.0, "width": 50.0, "height": 25.0, "rotation": 0, "rectanglelabels": [classes.names[1]]}
    box = {"id": "drawn", "type": "rectanglelabels", "from_name": "box", "to_name": "image", "origin": "manual", **size}
    result.append({**box, "value": value})
    status, answer = asked(f"{server}/api/tasks/{task['id']}/annotations", {"result": result})
    assert status == 201, answer
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 4 : height // 2, width // 4 : 3 * width // 4] = 1
    return mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--program", type=Path, required=True, help="label-studio of an environment of its own")
    parser.add_argument("--browser", type=Path, required=True, help="Python of an environment that has playwright")
    parser.add_argument("--out", type=Path, default=Path("runs/label-studio-pages"))
    given = parser.parse_args()
    out, wrong = given.out.resolve(), 0
    shutil.rmtree(out, ignore_errors=True)
    new = out / "pictures" / "new"  # below the root of local files, which may be no storage itself
    new.mkdir(parents=True)
    images, classes = ALL_WINGS.images(PICTURES), open_run(given.run, ALL_WINGS).classes
    for number in range(len(images)):
        Image.fromarray(np.asarray(images.image(number))).save(new / f"{number}.png")
    words = ["predict", str(given.run), str(new), "--out", str(out / "masks"), "--format"]
    subprocess.run([*SAOT, *words, "png,label-studio"], check=True)
    written = json.loads((out / "masks" / "annotations" / "label-studio.json").read_text())
    for task in written:
        task["data"]["image"] = f"/data/local-files/?d=new/{task['data']['image']}"
    with ExitStack() as running:
        server = label_studio(given.program, out, running)
        number = project(server, with_boxes(classes))
        storage = {"project": number, "path": str(new), "use_blob_urls": True}  # without, no page gets a local file
        status, answer = asked(f"{server}/api/storages/localfiles", storage)
        assert status == 201, answer
        status, answer = asked(f"{server}/api/projects/{number}/import", written)
        assert status == 201, answer
        status, found = asked(f"{server}/api/tasks?project={number}&fields=all&page_size=100")
        assert status == 200, found
        tasks = sorted(found["tasks"], key=lambda task: task["data"]["image"])
        done = [{"data": task["data"], "annotations": task["predictions"]} for task in tasks]
        (out / "imported.json").write_text(json.dumps(done))
        masks, equal = [np.asarray(Image.open(place)) for place in sorted((out / "masks").glob("*.png"))], 0
        for one, mask in zip(read_label_studio(out / "imported.json"), masks, strict=True):
            equal += bool(np.array_equal(one.mask(classes), mask))
        wrong += len(images) - equal
        print(f"imported: {equal} of {len(images)} masks in Label Studio are those that were written")
        page = f"{server}/projects/{number}/data?task={tasks[0]['id']}"
        shot = [str(given.browser), str(SHOT), page, "somebody@example.org", TOKEN, str(out / "page.png")]
        regions = int(subprocess.run(shot, capture_output=True, text=True, check=True).stdout)
        wanted, shown = len(tasks[0]["predictions"][0]["result"]), share_shown(out, masks[0], classes)
        wrong += regions != wanted or shown < LEAST_SHOWN
        print(f"page: {regions} of {wanted} regions listed, {100 * shown:.1f} % of pixels tinted as their class: {out}")
        drawn = corrected(server, number, tasks[0], classes)
        status, exported = asked(f"{server}/api/projects/{number}/export?exportType=JSON")
        assert status == 200, exported
    (out / "export.json").write_text(json.dumps(exported))
    words = ["import", str(out / "export.json"), "--from", "label-studio", "--images", str(new)]
    subprocess.run([*SAOT, *words, "--classes", str(given.run), "--out", str(out / "corrected")], check=True)
    found = sorted((out / "corrected" / "masks").glob("*.png"))
    same = len(found) == 1 and bool(np.array_equal(np.asarray(Image.open(found[0])), drawn))
    wrong += not same
    print(f"export: what was drawn, and it alone, is a label after `saot import`: {same}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
