"""Ultralytics' data set of the task semantic: its checks of each pair, and the masks it loads."""

from common import Folder, answer
from ultralytics.data.dataset import SemanticDataset
from ultralytics.data.utils import check_det_dataset

folder = Folder()
data = check_det_dataset(str(folder.ours / "yolo" / "data.yaml"), autodownload=False)
assert list(data["names"].values()) == folder.classes, data["names"]
found, small = {}, [name for name, mask in folder.masks.items() if min(mask.shape) < 10]  # it refuses sides below 10
for name in small:
    (folder.ours / "yolo" / "images" / name).unlink()
made = SemanticDataset(img_path=data["train"], data=data, imgsz=32, augment=False, task="semantic")
for number, path in enumerate(made.im_files):
    found[str(path).split("/images/", 1)[1]] = made.load_mask(number)
for name in small:
    del folder.masks[name]
answer(folder, {"yolo": (found, "SemanticDataset")}, tool="ultralytics")
