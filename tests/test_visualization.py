import numpy as np

from ohem_d2.visualization import BACKGROUND, FOREGROUND, draw_boxes, draw_mined_rois, with_caption


def test_boxes_are_drawn_where_they_are():
    image = np.zeros((40, 60, 3), np.uint8)
    draw_boxes(image, np.array([[5.0, 6, 15, 26]]), (255, 0, 0), thickness=1, scale=2.0)
    ys, xs = np.nonzero(image[:, :, 0] > 127)
    assert (xs.min(), xs.max(), ys.min()) == (10, 30, 12) and image[30, 20].sum() == 0


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
