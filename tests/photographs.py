"""The demo's photographs as data of a user."""

import json


def crowded_tile(tree_crowns):
    """The training tile with the most crowns, and its annotations."""
    full = json.loads((tree_crowns / "train.json").read_text())
    of_image = {image["id"]: [] for image in full["images"]}
    for annotation in full["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    image = max(full["images"], key=lambda image: len(of_image[image["id"]]))
    return image, of_image[image["id"]]


def voc_corners(box):
    """Of COCO's x, y, width, height: VOC counts pixels from 1, and its last is inside."""
    x, y, w, h = box
    return round(x + 1), round(y + 1), round(x + w), round(y + h)


def voc_xml(width, height, objects):
    """An annotation file. Objects: name, xmin, ymin, xmax, ymax and, if it is so, difficult."""
    parts = [f"<size><width>{width}</width><height>{height}</height></size>"]
    for name, *corners, difficult in ((*o, 0) if len(o) == 5 else o for o in objects):
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        parts.append(
            f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{int(difficult)}</difficult><bndbox>{box}</bndbox></object>"
        )
    return f"<annotation>{''.join(parts)}</annotation>"
