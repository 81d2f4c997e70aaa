import io

import numpy as np
import pytest
from PIL import Image

from ohem_d2.tools.drawing import (
    BACKGROUND,
    FOREGROUND,
    draw_boxes,
    draw_mined_rois,
    encode,
    with_caption,
    zoom_for,
)


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


def test_mined_rois_have_the_colour_of_their_kind_and_the_photograph_is_not_touched():
    image = np.full((50, 50, 3), 90, np.uint8)
    mined = np.array([[5.0, 5, 15, 15], [30, 30, 45, 45]])
    picture = draw_mined_rois(image, mined, mined, np.array([True, False]), scale=2.0)
    assert picture.shape == (100, 100, 3) and (image == 90).all()
    assert tuple(picture[10, 20]) == FOREGROUND and tuple(picture[60, 75]) == BACKGROUND
    none = np.zeros((0, 4))
    draw_mined_rois(image, none, none, np.zeros(0, bool), none)


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


def test_survivors_are_drawn_between_proposals_and_mined_rois():
    image = np.full((60, 60, 3), 90, np.uint8)
    boxes = np.array([[2.0, 2, 12, 12], [20, 20, 32, 32], [40, 40, 54, 54]])
    picture = draw_mined_rois(image, boxes, boxes[2:], np.array([True]), survivors=boxes[1:])
    proposal, survivor, mined = picture[2, 7], picture[20, 26], picture[40, 47]
    assert proposal[0] == proposal[1] == proposal[2] > 90  # grey
    assert survivor[0] > 130 and survivor[2] < 90  # yellow
    assert tuple(mined) == FOREGROUND


def test_labels_are_at_their_boxes_and_inside_of_the_picture():
    image = np.full((100, 200, 3), 90, np.uint8)
    mined = np.array([[60.0, 40, 150, 90], [190, 95, 199, 99], [5, 5, 25, 25]])
    kinds = np.array([True, False, True])
    picture = draw_mined_rois(image, mined, mined, kinds, labels=["1.23", "0.45"])
    # The ground of a label is as wide as its text; nowhere else is a box filled.
    assert (picture[43, 61:64] == FOREGROUND).all()
    assert (picture[-8:, -12:] == BACKGROUND).all(axis=2).mean() > 0.3
    assert (picture[9:21, 9:21] == 90).all()
    # Those with a label are drawn in bold.
    assert (picture[60, 59:62] == FOREGROUND).all() and (picture[15, 3:5] != FOREGROUND).any()


def test_zoom():
    assert zoom_for(400, 500) == 2.0
    assert zoom_for(900, 1000) == 1.0
    assert zoom_for(100, 1000) == 1.6  # no more than 1600 pixels wide
    assert zoom_for(3200, 2000) == 0.5
