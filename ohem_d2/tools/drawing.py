"""Pictures with captions and boxes, for people to look at."""

import base64
import io
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..mining.record import Mining
from ..monitor.pictures import draw_mining


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, color: tuple, thickness: int = 2, scale: float = 1.0
) -> np.ndarray:
    """Draw XYXY boxes (M, 4), in pixels, on an image, uint8 (H, W, 3), and scale both first."""
    size = [round(length * scale) for length in image.shape[1::-1]]
    picture = Image.fromarray(image).resize(size, Image.BICUBIC)
    draw, half = ImageDraw.Draw(picture), thickness // 2  # lines are centered on the edges
    for x0, y0, x1, y1 in np.round(boxes * scale).astype(int).tolist():
        corners = (x0 - half, y0 - half, x1 + half, y1 + half)
        draw.rectangle(corners, outline=color, width=thickness)
    return np.array(picture)


def with_caption(picture: np.ndarray, *lines: str) -> np.ndarray:
    """The picture with lines of text above it, wrapped to its width."""
    text = "\n".join(textwrap.fill(line, max(picture.shape[1] // 11, 1)) for line in lines)
    banner = Image.new("RGB", (picture.shape[1], 26 * (text.count("\n") + 1) + 8), "white")
    # matplotlib's font, as Pillow before 10.1 has none that can be scaled
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 17)
    ImageDraw.Draw(banner).text((8, 5), text, "black", font, spacing=6)
    return np.concatenate([np.array(banner), picture])


def mined_picture(mining: Mining, image: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """:func:`ohem_d2.monitor.pictures.draw_mining` with a caption that says what is what."""
    hard, losses = mining.hard_of_image[0], mining.ranking[mining.hard].tolist()
    bounds = f", losses {losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
    foreground = int(mining.is_foreground[hard].sum())
    return with_caption(
        draw_mining(mining, image, labels),
        f"{len(mining.proposals[0])} proposals (grey), {len(mining.survivors)} of "
        f"{len(mining.ranking)} candidates left by NMS (yellow), {len(hard)} mined{bounds}: "
        f"{foreground} foreground (blue), {len(hard) - foreground} background (red). Ground truth: "
        "green",
    )


def encode(picture: np.ndarray, suffix: str) -> bytes:
    """An RGB picture as a file of that suffix, such as ".png"."""
    file = io.BytesIO()
    kind = Image.registered_extensions()[suffix]
    Image.fromarray(picture).save(file, kind, quality=92)  # PNG ignores quality
    return file.getvalue()


def data_uri(content: str | bytes, kind: str) -> str:
    """The content, of this MIME type, as a data URI."""
    content = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
