"""CVAT's own run lengths, both ways, in the XML of "CVAT for images 1.1"."""

from xml.etree import ElementTree

from common import Folder, answer
from cvat_sdk.masks import decode_mask, encode_mask

folder = Folder()
found = {}
for image in ElementTree.parse(folder.ours / "cvat.xml").getroot().iter("image"):
    mask = folder.empty(image.get("name"))
    for one in image.iter("mask"):
        runs = [float(part) for part in one.get("rle").split(",")]
        left, top, width, height = (int(one.get(name)) for name in ("left", "top", "width", "height"))
        box = [left, top, left + width - 1, top + height - 1]
        pixels = decode_mask([*runs, *box], image_width=mask.shape[1], image_height=mask.shape[0])
        mask[pixels] = folder.classes.index(one.get("label"))
    found[image.get("name")] = mask

root = ElementTree.Element("annotations")
for number, name in enumerate(folder.masks):
    height, width = folder.masks[name].shape
    image = ElementTree.SubElement(root, "image", id=str(number), name=name, width=str(width), height=str(height))
    for label, pixels in folder.parts(name):
        *runs, left, top, right, bottom = (int(value) for value in encode_mask(pixels))
        about = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1, "z_order": 0}
        about |= {"label": folder.classes[label], "source": "manual", "rle": ", ".join(map(str, runs))}
        ElementTree.SubElement(image, "mask", {key: str(value) for key, value in about.items()})
ElementTree.ElementTree(root).write(folder.theirs("cvat.xml"))
answer(folder, {"cvat": (found, "decode_mask")}, sdk="cvat-sdk")
