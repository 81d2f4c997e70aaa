"""Pictures of what was mined. Pure drawing: arrays in, arrays out."""

import cv2
import numpy as np

# RGB
FOREGROUND = (0, 158, 255)
BACKGROUND = (255, 64, 32)
GROUND_TRUTH = (120, 255, 60)
PROPOSAL = (200, 200, 200)


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

    Returns:
        (H * scale, W * scale, 3), uint8, RGB.
    """
    picture = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    # All proposals would hide the photograph, so they only tint it.
    veil = draw_boxes(picture.copy(), proposals, PROPOSAL, 1, scale)
    picture = cv2.addWeighted(veil, 0.35, picture, 0.65, 0)
    is_foreground = np.asarray(is_foreground, dtype=bool)
    draw_boxes(picture, mined[~is_foreground], BACKGROUND, 2, scale)
    draw_boxes(picture, mined[is_foreground], FOREGROUND, 2, scale)
    if ground_truth is not None:
        draw_boxes(picture, ground_truth, GROUND_TRUTH, 1, scale)
    return picture


def with_caption(picture: np.ndarray, *lines: str) -> np.ndarray:
    """The picture with lines of text above it."""
    height = 26 * len(lines) + 8
    banner = np.full((height, picture.shape[1], 3), 255, np.uint8)
    for i, line in enumerate(lines):
        place = (8, 24 + 26 * i)
        cv2.putText(banner, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([banner, picture])
