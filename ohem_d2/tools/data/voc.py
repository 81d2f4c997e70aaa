"""Read annotations in Pascal VOC format, as XML: the one reader of this repository."""

import dataclasses
import math
from pathlib import Path
from xml.etree import ElementTree

from ..errors import InputError
from ..files import must_be_file
from .faults import Fault, faults_if_any


@dataclasses.dataclass(frozen=True)
class VOCObject:
    """An ``<object>``."""

    name: str  #: of its class
    box: tuple[float, float, float, float]  #: XYXY pixels as in the file, where VOC counts from 1
    difficult: bool = False  #: as marked; such objects are left out of VOC's evaluation


def read_voc(source: str | Path | bytes, what: str = "", strict: bool = False) -> list[VOCObject]:
    """
    Read the objects of one image, in their order, from a file or its content, which InputError
    calls ``what`` and says what is wrong with it. ``strict`` requires all that Detectron2's
    evaluation reads as well, which is only after the training: the image's size, ``<pose>``,
    ``<truncated>``, and whole numbers.
    """
    what = what or ("annotations" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        must_be_file(source, "annotations in Pascal VOC format")
        try:
            source = Path(source).read_bytes()
        except OSError as e:
            raise InputError(f"{what} cannot be read: {e.strerror}") from e
    try:
        root = ElementTree.fromstring(source)
    except (ElementTree.ParseError, LookupError, ValueError) as e:  # the latter of its encoding
        raise InputError(f"{what} is not XML: {e}") from e
    for tag in ("size/width", "size/height") if strict else ():
        _number(root, tag, what, strict)
    return [_read_object(found, what, strict) for found in root.iter("object")]


def voc_faults(folder: str | Path) -> list[Fault]:
    """Read all files of annotations in a folder of data strictly, and find those at fault."""

    def fault(file: Path) -> str:
        try:
            read_voc(file, strict=True)
        except InputError as e:
            return str(e)
        return ""

    files = sorted(Path(folder, "Annotations").glob("*.xml"))
    return faults_if_any("files that cannot be read", filter(None, map(fault, files)))


def _read_object(found: ElementTree.Element, what: str, strict: bool) -> VOCObject:
    name = found.findtext("name")
    if not name:
        raise InputError(f"{what} is not in Pascal VOC format: the <name> of an <object> is empty")
    absent = None if strict else "0"
    if strict and found.find("pose") is None:
        raise InputError(f"{what} is not in Pascal VOC format: an <object> has no <pose>")
    _number(found, "truncated", what, strict, absent)
    difficult = bool(_number(found, "difficult", what, strict, absent))
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = tuple(_number(found, f"bndbox/{side}", what, strict) for side in sides)
    return VOCObject(name, box, difficult)


def _number(
    element: ElementTree.Element, tag: str, what: str, whole: bool, absent: str | None = None
) -> float:
    text = element.findtext(tag, absent)
    try:
        number = (int if whole else float)(text)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError):
        pass
    expected = "Detectron2 reads whole numbers there" if whole else "it should be a number"
    raise InputError(f"{what} is not in Pascal VOC format: <{tag}> is {text!r}, and {expected}")
