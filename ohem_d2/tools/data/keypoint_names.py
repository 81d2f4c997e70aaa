"""Names of keypoints, and which trade places in a mirrored image, as Detectron2 needs them."""

import re
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog

from ..errors import InputError
from .coco import Category

_SIDES = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
_SIDES |= {right: left for left, right in _SIDES.items()}
_SIDE = re.compile("|".join(_SIDES))


def keypoint_metadata(categories: Sequence[Category]) -> dict[str, Any]:
    """
    Make metadata from the categories of a COCO file, as Detectron2 has them for COCO:
    ``keypoint_names``, if all categories with keypoints agree, and ``keypoint_flip_map``, if each
    name with a side, such as left_eye, has its partner.
    """
    of_all = [category.keypoints for category in categories if category.keypoints]
    if not of_all or any(names != of_all[0] for names in of_all) or not _are_names(of_all[0]):
        return {}
    names = tuple(of_all[0])
    metadata = {"keypoint_names": names}
    if not _unpaired(names):
        pairs = [(name, _mirrored(name)) for name in names]
        metadata["keypoint_flip_map"] = tuple(
            (name, other) for i, (name, other) in enumerate(pairs) if other in names[i + 1 :]
        )
    return metadata


def check_keypoints(data_sets: Sequence[str]) -> None:
    """Raises InputError for a data set to train on whose keypoints Detectron2 does not know."""
    for name in data_sets:
        meta = MetadataCatalog.get(name)
        if meta.get("keypoint_names") is not None and meta.get("keypoint_flip_map") is not None:
            continue
        file = meta.get("json_file")
        if not name.startswith("coco:"):
            lack = "its metadata need keypoint_names and keypoint_flip_map"
        elif unpaired := _unpaired(meta.get("keypoint_names", ())):
            lack = f"keypoint {unpaired[0]!r} has no partner {_mirrored(unpaired[0])!r} in {file}"
        else:
            lack = (
                f"add their names to the categories in {file}, in order and the same to each: "
                '"keypoints": ["nose", "left_eye", "right_eye"]'
            )
        raise InputError(f"{name}: MODEL.KEYPOINT_ON is True; {lack}")


def _are_names(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return texts and len(value) == len(set(value))


def _mirrored(name: str) -> str:
    return _SIDE.sub(lambda side: _SIDES[side[0]], name)


def _unpaired(names: Sequence[str]) -> list[str]:
    """The names with a side whose partner is missing."""
    return [name for name in names if _mirrored(name) not in names]
