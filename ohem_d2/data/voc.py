"""Annotations in Pascal VOC format, as XML: the one reader of this repository."""

import dataclasses
import math
from pathlib import Path
from xml.etree import ElementTree

# of a <bndbox>
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class VOCObject:
    """
    An ``<object>``.

    Attributes:
        name: of its class.
        box: its corners in pixels as they stand in the file, where VOC counts from 1.
        difficult: as marked; such objects are left out of VOC's evaluation.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool = False


def read_voc(source: str | Path | bytes, what: str = "", strict: bool = False) -> list[VOCObject]:
    """
    The objects of one image, in their order.

    Args:
        source: the file, or its content.
        what: to call it in errors; the file's path unless given.
        strict: require all that Detectron2's evaluation reads as well, which is only after the
            training: the image's size, ``<pose>``, ``<truncated>``, and whole numbers.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    what = what or ("annotations" if isinstance(source, bytes) else str(source))
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as e:
        raise ValueError(f"{what} is not XML: {e}") from e
    if strict:
        for tag in ("size/width", "size/height"):
            _number(root, tag, what, strict)
    return [_read_object(found, what, strict) for found in root.iter("object")]


def _read_object(found: ElementTree.Element, what: str, strict: bool) -> VOCObject:
    for tag in ("name", *(("pose", "truncated", "difficult") if strict else ()), "bndbox"):
        if found.find(tag) is None:
            raise ValueError(f"{what} is not in Pascal VOC format: an <object> has no <{tag}>")
    name = found.findtext("name")
    if not name:
        raise ValueError(f"{what} is not in Pascal VOC format: the <name> of an <object> is empty")
    # Absent ones, which strict refuses, are 0.
    marks = [tag for tag in ("truncated", "difficult") if found.find(tag) is not None]
    marked = {tag: bool(_number(found, tag, what, strict)) for tag in marks}
    box = tuple(_number(found, f"bndbox/{side}", what, strict) for side in SIDES)
    return VOCObject(name, box, marked.get("difficult", False))


def _number(element: ElementTree.Element, tag: str, what: str, whole: bool) -> float:
    text = element.findtext(tag)
    try:
        number = (int if whole else float)(text)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError):
        pass
    expected = "Detectron2 reads whole numbers there" if whole else "it should be a number"
    raise ValueError(f"{what} is not in Pascal VOC format: <{tag}> is {text!r}, and {expected}")
