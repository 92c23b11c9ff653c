"""Datumaro, on which CVAT's importers stand: its readers of CVAT's XML and of PASCAL VOC masks, and its own export."""

import shutil
import zipfile

import datumaro
import numpy as np
from common import Folder, answer

folder = Folder()


def masks_of(data) -> dict:
    names = data.categories()[datumaro.AnnotationType.label]
    found = {}
    for item in data:
        name = folder.by_stem()[item.id]
        mask = folder.empty(name)
        for one in sorted(item.annotations, key=lambda each: getattr(each, "z_order", 0)):
            if one.type == datumaro.AnnotationType.mask and names[one.label].name in folder.classes:
                mask[np.asarray(one.image).astype(bool)] = folder.classes.index(names[one.label].name)
        found[name] = mask
    return found


xml = folder.root / "work" / "cvat"
xml.mkdir(parents=True, exist_ok=True)
(xml / "annotations.xml").write_bytes((folder.ours / "cvat.xml").read_bytes())
shutil.copytree(folder.pictures, xml / "images", dirs_exist_ok=True)
data = datumaro.Dataset.import_from(str(xml), "cvat")
by_xml = masks_of(data)
data.export(str(folder.root / "work" / "export"), "cvat", save_media=False)
(written,) = (folder.root / "work" / "export").glob("*.xml")
folder.theirs("datumaro.xml").write_bytes(written.read_bytes())
voc = folder.root / "work" / "voc"
with zipfile.ZipFile(folder.ours / "cvat-mask.zip") as archive:
    archive.extractall(voc)
by_voc = masks_of(datumaro.Dataset.import_from(str(voc), "voc_segmentation"))
reads = {"cvat, datumaro": (by_xml, "import_from cvat"), "cvat-mask": (by_voc, "import_from voc_segmentation")}
answer(folder, reads, tool="datumaro")
