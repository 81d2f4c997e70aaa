"""Pictures of what was mined. Pure drawing: arrays in, arrays out."""

import textwrap
from collections.abc import Sequence

import numpy as np

try:
    import cv2
except ImportError as error:
    raise ImportError(
        "Pictures take OpenCV: pip install opencv-python, or any other of its packages"
    ) from error

# RGB
FOREGROUND = (0, 158, 255)
BACKGROUND = (255, 64, 32)
GROUND_TRUTH = (120, 255, 60)
PROPOSAL = (200, 200, 200)
SURVIVOR = (255, 214, 0)

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, color: tuple, thickness: int = 2, scale: float = 1.0
) -> np.ndarray:
    """
    Args:
        image: (H, W, 3), uint8; drawn on in place.
        boxes: (M, 4), absolute XYXY pixels of the image before it was scaled by ``scale``.

    Returns:
        the image.
    """
    for x0, y0, x1, y1 in np.round(np.asarray(boxes, dtype=float) * scale).astype(int):
        cv2.rectangle(image, (int(x0), int(y0)), (int(x1), int(y1)), color, thickness, cv2.LINE_AA)
    return image


def draw_mined_rois(
    image: np.ndarray,
    proposals: np.ndarray,
    mined: np.ndarray,
    is_foreground: np.ndarray,
    ground_truth: np.ndarray | None = None,
    scale: float = 1.0,
    *,
    survivors: np.ndarray | None = None,
    labels: Sequence[str] = (),
) -> np.ndarray:
    """
    The mined RoIs in colour over all proposals in thin grey.

    Args:
        image: (H, W, 3), uint8, RGB; not changed.
        proposals: (R, 4), absolute XYXY pixels.
        mined: (M, 4), likewise, hardest first.
        is_foreground: bool of shape (M,).
        ground_truth: (G, 4).
        scale: the picture is so many times as large as the image.
        survivors: (S, 4), what the NMS by loss left; in thin yellow.
        labels: what to write at the first of the mined RoIs, which are then drawn in bold.

    Returns:
        (H * scale, W * scale, 3), uint8, RGB.
    """
    picture = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    # All proposals would hide the photograph, so they only tint it.
    veil = draw_boxes(picture.copy(), proposals, PROPOSAL, 1, scale)
    if survivors is not None:
        draw_boxes(veil, survivors, SURVIVOR, 1, scale)
    picture = cv2.addWeighted(veil, 0.35, picture, 0.65, 0)
    is_foreground = np.asarray(is_foreground, dtype=bool)
    # Those with a label stand out.
    parts = [(slice(len(labels), None), 1 if labels else 2), (slice(len(labels)), 3)]
    for part, thickness in parts:
        boxes, foreground = mined[part], is_foreground[part]
        draw_boxes(picture, boxes[~foreground], BACKGROUND, thickness, scale)
        draw_boxes(picture, boxes[foreground], FOREGROUND, thickness, scale)
    if ground_truth is not None:
        draw_boxes(picture, ground_truth, GROUND_TRUTH, 1, scale)
    # The hardest last, so that its label is on top.
    for box, foreground, label in reversed(list(zip(mined, is_foreground, labels))):
        _write(picture, label, box[:2] * scale, FOREGROUND if foreground else BACKGROUND)
    return picture


def _write(picture: np.ndarray, text: str, corner: np.ndarray, color: tuple) -> None:
    """Black text on a coloured ground, inside of a box at its upper left corner."""
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
    x = int(np.clip(corner[0], 0, max(picture.shape[1] - width - 4, 0)))
    y = int(np.clip(corner[1], 0, max(picture.shape[0] - height - 5, 0)))
    cv2.rectangle(picture, (x, y), (x + width + 3, y + height + 4), color, -1)
    place = (x + 2, y + height + 2)
    cv2.putText(picture, text, place, _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


def zoom_for(height: int, width: int, shortest: int = 800, longest: int = 1600) -> float:
    """
    By how much to scale an image so that boxes on it can be told apart: up until its shorter side
    has ``shortest`` pixels, but to no more than ``longest`` of the longer one.
    """
    return min(max(shortest / min(height, width), 1.0), longest / max(height, width))


def with_caption(picture: np.ndarray, *lines: str) -> np.ndarray:
    """The picture with lines of text above it, wrapped to its width."""
    most = max(picture.shape[1] // 11, 1)  # characters
    lines = [part for line in lines for part in textwrap.wrap(line, most)]
    height = 26 * len(lines) + 8
    banner = np.full((height, picture.shape[1], 3), 255, np.uint8)
    for i, line in enumerate(lines):
        cv2.putText(banner, line, (8, 24 + 26 * i), _FONT, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([banner, picture])


def encode(picture: np.ndarray, suffix: str) -> bytes:
    """An RGB picture as a file of that suffix, such as ".png"."""
    return cv2.imencode(suffix, picture[:, :, ::-1])[1].tobytes()
