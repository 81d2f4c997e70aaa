import io

import numpy as np
import pytest
from PIL import Image

from ohem_d2.tools.drawing import draw_boxes, encode, with_caption


def test_boxes_are_drawn_where_they_are():
    image = np.zeros((40, 60, 3), np.uint8)
    picture = draw_boxes(image, np.array([[5.0, 6, 15, 16]]), (255, 0, 0), 1, scale=2.0)
    assert picture.shape == (80, 120, 3) and not image.any()
    ys, xs = np.nonzero(picture[:, :, 0])
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (10, 30, 12, 32)
    assert picture[22, 20].sum() == 0


@pytest.mark.parametrize("thickness", [2, 3, 4])
def test_lines_have_the_edge_in_their_middle(thickness):
    image = np.zeros((60, 60, 3), np.uint8)
    picture = draw_boxes(image, np.array([[20.0, 20, 40, 40]]), (255, 0, 0), thickness)
    (columns,) = np.nonzero(picture[30, :, 0])
    assert len(columns) == 2 * thickness
    for edge, line in ((20, columns[:thickness]), (40, columns[thickness:])):
        assert abs(line.mean() - edge) <= 0.5


@pytest.mark.parametrize("suffix, most", [(".png", 0), (".jpg", 20)])
def test_files(suffix, most):
    column = np.arange(0, 256, 4, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(column[:, None], column[None], np.uint8(70)), axis=2)
    file = io.BytesIO(encode(picture, suffix))
    read = np.array(Image.open(file))
    assert np.abs(read.astype(int) - picture).max() <= most


def test_caption():
    picture = with_caption(np.zeros((10, 300, 3), np.uint8), "one", "two")
    assert (
        picture.shape == (70, 300, 3) and (picture[:60] < 128).any() and (picture[60:] == 0).all()
    )


def test_long_captions_are_wrapped():
    lines = ["word " * 40]
    narrow, wide = (
        with_caption(np.zeros((10, width, 3), np.uint8), *lines) for width in (300, 900)
    )
    assert narrow.shape[0] > wide.shape[0] > 10 + 26
    assert (narrow[:-10, -8:] == 255).all()  # no letter is cut
