"""Pictures of what was mined. Pure drawing: arrays in, arrays out."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# RGB
FOREGROUND = (0, 158, 255)
BACKGROUND = (255, 64, 32)
GROUND_TRUTH = (120, 255, 60)
PROPOSAL = (200, 200, 200)
SURVIVOR = (255, 214, 0)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, color: tuple, thickness: int = 2, scale: float = 1.0
) -> np.ndarray:
    """
    Outlines of boxes (M, 4), in absolute XYXY pixels of the image, (H, W, 3) and uint8, on a copy
    of it that is ``scale`` times as large.
    """
    picture = _scaled(image, scale)
    _outline(picture, boxes * scale, color, thickness)
    return np.array(picture)


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
    The mined RoIs in colour over all proposals in thin grey, on a copy of the image that is
    ``scale`` times as large.

    Args:
        image: (H, W, 3), uint8, RGB.
        proposals: (R, 4), like all boxes in absolute XYXY pixels of the image.
        mined, is_foreground: (M, 4) and bool of shape (M,), hardest first.
        ground_truth: (G, 4).
        survivors: (S, 4), what the NMS by loss left; in thin yellow.
        labels: what to write at the first of the mined RoIs, which are then drawn in bold.
    """
    picture = _scaled(image, scale)
    # All proposals would hide the photograph, so they only tint it.
    veil = picture.copy()
    _outline(veil, proposals * scale, PROPOSAL, 1)
    if survivors is not None:
        _outline(veil, survivors * scale, SURVIVOR, 1)
    picture, mined = Image.blend(picture, veil, 0.35), mined * scale
    # Those with a label stand out.
    parts = ((slice(len(labels), None), 1 if labels else 2), (slice(len(labels)), 4))
    for part, thickness in parts:
        boxes, foreground = mined[part], is_foreground[part]
        _outline(picture, boxes[~foreground], BACKGROUND, thickness)
        _outline(picture, boxes[foreground], FOREGROUND, thickness)
    if ground_truth is not None:
        _outline(picture, ground_truth * scale, GROUND_TRUTH, 2)
    # The hardest last, so that its label is on top.
    for box, foreground, label in reversed(list(zip(mined, is_foreground, labels))):
        _write(picture, label, box[:2], FOREGROUND if foreground else BACKGROUND)
    return np.array(picture)


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
    banner = Image.new("RGB", (picture.shape[1], 26 * len(lines) + 8), "white")
    for i, line in enumerate(lines):
        ImageDraw.Draw(banner).text((8, 5 + 26 * i), line, fill="black", font=_font(17))
    return np.concatenate([np.array(banner), picture])


def encode(picture: np.ndarray, suffix: str) -> bytes:
    """An RGB picture as a file of that suffix, such as ".png"."""
    file = io.BytesIO()
    kind = Image.registered_extensions()[suffix]
    Image.fromarray(picture).save(file, kind, quality=92)  # PNG has no use for it
    return file.getvalue()


def _scaled(image: np.ndarray, scale: float) -> Image.Image:
    size = [round(length * scale) for length in image.shape[1::-1]]
    return Image.fromarray(image).resize(size, Image.BICUBIC)


def _outline(picture: Image.Image, boxes: np.ndarray, color: tuple, thickness: int) -> None:
    """Draws on the picture, in its pixels. A line has the edge of a box in its middle."""
    draw, half = ImageDraw.Draw(picture), thickness // 2
    for x0, y0, x1, y1 in np.round(boxes).astype(int).tolist():
        corners = (x0 - half, y0 - half, x1 + half, y1 + half)
        draw.rectangle(corners, outline=color, width=thickness)


def _write(picture: Image.Image, text: str, corner: np.ndarray, color: tuple) -> None:
    """Black text on a coloured ground, inside of a box at its upper left corner."""
    draw, font = ImageDraw.Draw(picture), _font(12)
    width, height = draw.textbbox((0, 0), text, font)[2:]
    x, y = np.clip(corner, 0, np.maximum(np.array(picture.size) - (width + 5, height + 5), 0))
    draw.rectangle((x, y, x + width + 4, y + height + 4), fill=color)
    draw.text((x + 2, y + 2), text, fill="black", font=font)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's, as Pillow before 10.1 has none that can be scaled
    fonts = Path(matplotlib.get_data_path(), "fonts/ttf")
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size)
