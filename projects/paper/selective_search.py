"""
Selective search (Uijlings et al., IJCV 2013) by OpenCV, over a data set and several processes.

Every image's proposals are appended to a journal as they are found, so that a run that is killed
goes on where it was. They depend on the image and the settings alone, not on the number of
processes or their order.
"""

import io
import multiprocessing
import os
import pickle
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np


@dataclass(frozen=True)
class Settings:
    mode: str = "fast"  # or "quality": more colour spaces and similarities, about 4 times as long
    width: int = 0  # to which images are resized for the search; 0: as they are
    min_size: float = 2  # of a box's shorter side, in pixels of the image
    max_proposals: int = 2000  # per image
    seed: int = 0  # of the ranks


def check_opencv() -> None:
    if not hasattr(cv2, "ximgproc"):
        raise ImportError(
            f"OpenCV {cv2.__version__} has no selective search (cv2.ximgproc). It is in the "
            "contributed modules: pip uninstall opencv-python opencv-python-headless; "
            "pip install opencv-contrib-python"
        )


def search(image: np.ndarray, mode: str) -> np.ndarray:
    """
    Args:
        image: uint8 (height, width, 3), BGR.
        mode: "fast" or "quality".

    Returns:
        float32 (n, 4), XYXY in pixels of the image, without duplicates, in order of coordinates.
    """
    segmentation = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    segmentation.setBaseImage(image)
    if mode == "fast":
        segmentation.switchToSelectiveSearchFast()
    else:
        segmentation.switchToSelectiveSearchQuality()
    x, y, width, height = np.asarray(segmentation.process(), np.float32).reshape(-1, 4).T
    # OpenCV's order is random in a way that it offers no seed for.
    return np.unique(np.stack([x, y, x + width, y + height], axis=1), axis=0)


def rank(boxes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """
    An order of boxes (n, 4), as indices: position by area, largest first, times a random number.

    As in the paper (section 4.4), where the position is that in the hierarchy of merged regions,
    from the whole image down. OpenCV keeps the hierarchy to itself and has small regions first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    position = np.empty(len(boxes))
    position[np.argsort(-areas, kind="stable")] = np.arange(1, len(boxes) + 1)
    return np.argsort(position * random.random(len(boxes)), kind="stable")


def proposals_of_image(record: dict, settings: Settings) -> np.ndarray:
    """
    Args:
        record: of a data set in Detectron2's format.

    Returns:
        float32 (n, 4), XYXY in pixels of the image, the best first.

    Raises:
        ValueError: names the image that cannot be read or has another size than the record says.
    """
    from proposal_files import filter_small_boxes, unique_boxes

    image = cv2.imread(record["file_name"], cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{record['file_name']} does not exist or is no image that OpenCV reads")
    height, width = image.shape[:2]
    scale = 1.0
    if settings.width:
        scale = width / settings.width
        size = (settings.width, max(1, round(height / scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    boxes = search(image, settings.mode)
    boxes *= np.tile([width / image.shape[1], height / image.shape[0]], 2).astype(np.float32)
    np.clip(boxes, 0, [width, height, width, height], out=boxes)
    seed = zlib.crc32(str(record["image_id"]).encode())
    boxes = boxes[rank(boxes, np.random.default_rng([settings.seed, seed]))]
    boxes = boxes[unique_boxes(boxes)]
    boxes = boxes[filter_small_boxes(boxes, settings.min_size)]
    return boxes[: settings.max_proposals]


def _task(image_id: str, record: dict, settings: Settings) -> tuple[str, np.ndarray]:
    return image_id, proposals_of_image(record, settings)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A parent that is killed cannot tell; its workers would wait for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


class Journal:
    """
    A file that records are appended to, pickles one after the other, of which a killed process
    loses at most the last one. The first tells what the others belong to.
    """

    def __init__(self, path: Path, head: dict):
        """Raises ValueError if the file has another head."""
        self.path = path
        self.entries: dict[str, np.ndarray] = {}
        end = 0
        if path.exists():
            end = self._read(head)
        self.file = open(path, "r+b" if path.exists() else "wb")
        self.file.seek(end)
        self.file.truncate()
        if end == 0:
            self._append(head)

    def _read(self, head: dict) -> int:
        from convert_weights import ArrayUnpickler

        end = 0
        with open(self.path, "rb") as file:
            while True:
                try:
                    record = ArrayUnpickler(file).load()
                except (EOFError, pickle.UnpicklingError):
                    return end  # cut off within a record
                if end == 0 and record != head:
                    raise ValueError(
                        f"{self.path} was begun with {record}, not {head}: go on with these or "
                        "remove the file"
                    )
                if end:
                    self.entries[record[0]] = record[1]
                end = file.tell()

    def append(self, key: str, value: np.ndarray) -> None:
        self._append((key, value))
        self.entries[key] = value

    def _append(self, record: object) -> None:
        buffer = io.BytesIO()
        pickle.dump(record, buffer, protocol=4)
        self.file.write(buffer.getvalue())
        self.file.flush()


def search_all(
    records: Sequence[dict], settings: Settings, journal: Journal, workers: int
) -> Iterator[int]:
    """Search the images that the journal lacks; yields the number of images done."""
    check_opencv()
    todo = [r for r in records if str(r["image_id"]) not in journal.entries]
    yield len(records) - len(todo)
    context = multiprocessing.get_context("spawn")  # forks of OpenCV's threads may hang
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        tasks = [
            pool.submit(
                _task,
                str(r["image_id"]),
                {"file_name": r["file_name"], "image_id": str(r["image_id"])},
                settings,
            )
            for r in todo
        ]
        try:
            for task in as_completed(tasks):
                journal.append(*task.result())
                yield len(journal.entries)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def head_of(name: str, settings: Settings) -> dict:
    return {"data": name, **asdict(settings)}
