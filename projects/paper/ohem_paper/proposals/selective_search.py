"""
Selective search (Uijlings et al., IJCV 2013) with OpenCV's contributed modules, over the
images of a data set.

An image's proposals depend on the image and the settings alone, not on the number of threads.
"""

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import cv2
import numpy as np


def search_data_set(
    records: Sequence[dict], mode: str, width: int | None, seed: int, workers: int
) -> Iterator[tuple[dict, np.ndarray]]:
    """
    Yield each record of a data set, in Detectron2's format, with its boxes (see
    :func:`search_image`), in the order in which ``workers`` threads finish. Raises ImportError if
    OpenCV lacks its contributed modules, ValueError for an image that cannot be read, which it
    names, and RuntimeError if OpenCV fails.
    """
    if not hasattr(cv2, "ximgproc"):
        raise ImportError(
            f"OpenCV {cv2.__version__} has no cv2.ximgproc, which selective search is in: "
            "pip uninstall opencv-python opencv-python-headless, then "
            "pip install opencv-contrib-python"
        )
    # OpenCV releases Python's lock while it searches.
    with ThreadPoolExecutor(workers) as pool:
        tasks = {pool.submit(search_image, r, mode, width, seed): r for r in records}
        try:
            for task in as_completed(tasks):
                yield tasks.pop(task), task.result()
        except (MemoryError, cv2.error) as e:
            said = str(e).strip() or "no memory"
            remedy = "; go on with fewer --workers or a smaller --width" * ("memory" in said)
            raise RuntimeError(f"{said}. What is finished is kept{remedy}") from e
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def search_image(record: dict, mode: str, width: int | None, seed: int) -> np.ndarray:
    """
    float32 (n, 4), XYXY in pixels of the image on disk, the best first. Raises ValueError if the
    image cannot be read or has another size than the record, in Detectron2's format. ``mode`` is
    "fast", or "quality" with more colour spaces and similarities; the image is resized to
    ``width``, unless it is None, for the search; the seed is that of :func:`rank`.
    """
    image = cv2.imread(record["file_name"], cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{record['file_name']} does not exist or is no image that OpenCV reads")
    size = (image.shape[1], image.shape[0])
    if size != (record["width"], record["height"]):
        said = f"its annotation says {record['width']} x {record['height']}"
        raise ValueError(f"{record['file_name']} has {size[0]} x {size[1]} pixels, {said}")
    if width is not None:
        height = max(1, round(size[1] * width / size[0]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    boxes = regions(image, mode)
    boxes *= np.tile([size[0] / image.shape[1], size[1] / image.shape[0]], 2).astype(np.float32)
    # Ids of images may be anything; hash() of a string differs from process to process.
    own_seed = zlib.crc32(str(record["image_id"]).encode())
    return boxes[rank(boxes, np.random.default_rng([seed, own_seed]))]


def regions(image: np.ndarray, mode: str) -> np.ndarray:
    """
    The regions of an image, uint8 (height, width, 3), BGR: float32 (n, 4), XYXY in pixels, sorted
    by coordinates, without duplicates.
    """
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    fast, quality = search.switchToSelectiveSearchFast, search.switchToSelectiveSearchQuality
    fast() if mode == "fast" else quality()
    x, y, width, height = np.asarray(search.process(), np.float32).reshape(-1, 4).T
    # OpenCV's own order is random by C's rand(), which cv2.setRNGSeed does not seed.
    return np.unique(np.stack([x, y, x + width, y + height], axis=1), axis=0)


def rank(boxes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """
    An order of boxes (n, 4), as indices, the best first: by place times a random number, where
    places count from 1 for the largest box.

    The paper ("Combining Locations") takes the place in the hierarchy of regions, counted from the
    whole image. OpenCV does not expose the hierarchy, but area decreases down every branch of
    it. OpenCV's own order is the other way round: small regions come first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    place = np.empty(len(boxes))
    place[np.argsort(-areas, kind="stable")] = np.arange(1, len(boxes) + 1)
    return np.argsort(place * random.random(len(boxes)), kind="stable")
