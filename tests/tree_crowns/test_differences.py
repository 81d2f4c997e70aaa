"""What two detectors find differently: boxes whose matches are known by hand."""

import numpy as np
import pytest
from pycocotools.coco import COCO

from ohem_d2.monitor.pictures import BACKGROUND, FOREGROUND, GROUND_TRUTH
from projects.tree_crowns import differences

CROWN, OTHER, CROWD = [10, 10, 20, 20], [50, 10, 20, 20], [10, 60, 40, 30]


@pytest.fixture
def truth():
    """Image 1 has two crowns and a crowd region, image 2 one crown, image 3 none."""
    boxes = ((1, CROWN, 0), (1, OTHER, 0), (1, CROWD, 1), (2, CROWN, 0))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 100, "height": 100} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "tree"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": crowd}
            for i, (image, box, crowd) in enumerate(boxes, start=1)
        ],
    }
    coco.createIndex()
    return coco


def detection(image, box, score):
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


def test_found(truth):
    shifted, far = [12, 11, 20, 20], [80, 80, 10, 10]
    detections = [
        detection(1, shifted, 0.6),  # of a crown that the next one has already
        detection(1, CROWN, 0.9),
        detection(1, far, 0.8),
        detection(1, [12, 62, 20, 20], 0.7),  # in the crowd region: does not count
        detection(3, far, 0.5),
    ]
    images = differences.found(truth, detections)
    assert images[1].objects == {1} and images[2].objects == images[3].objects == set()
    np.testing.assert_array_equal(images[1].right, [[10, 10, 30, 30]])
    np.testing.assert_array_equal(images[1].wrong, [[80, 80, 90, 90], [12, 11, 32, 31]])
    np.testing.assert_array_equal(images[1].missed, [[50, 10, 70, 30]])
    np.testing.assert_array_equal(images[2].missed, [[10, 10, 30, 30]])
    assert len(images[3].wrong) == 1 and images[3].missed.shape == (0, 4)


def test_nothing_is_found(truth):
    images = differences.found(truth, [])
    assert [len(images[i].missed) for i in (1, 2, 3)] == [2, 1, 0]
    assert not any(len(f.right) or len(f.wrong) for f in images.values())


def test_as_many_of_each():
    scores = [0.3, 0.9, 0.1, 0.5]
    best = differences.best_detections([detection(1, CROWN, s) for s in scores], 2)
    assert [d["score"] for d in best] == [0.9, 0.5]


def test_most_different(truth):
    everything = [detection(1, CROWN, 0.9), detection(1, OTHER, 0.9), detection(2, CROWN, 0.9)]
    full, nothing = (differences.found(truth, d) for d in (everything, []))
    part = differences.found(truth, everything[:1])
    assert differences.most_different(full, nothing, 5) == [1, 2]
    assert differences.most_different(nothing, full, 1) == [1]
    assert differences.most_different(full, part, 5) == [1, 2]
    assert differences.most_different(part, part, 5) == []


def test_draw(truth):
    what = differences.found(truth, [detection(1, CROWN, 0.9), detection(1, [80, 80, 10, 10], 0.8)])
    picture = differences.draw(np.zeros((100, 100, 3), np.uint8), "OHEM", what[1], 2.0)
    drawn = picture[-200:]  # below the caption
    for (x, y), color in (
        ((20, 40), FOREGROUND),
        ((160, 170), BACKGROUND),
        ((100, 40), GROUND_TRUTH),
    ):
        assert tuple(drawn[y, x]) == color


def test_beside_each_other_with_captions_of_different_length():
    short, long = np.zeros((100, 80, 3), np.uint8), np.full((126, 80, 3), 7, np.uint8)
    picture = differences.beside([short, long])
    gap = differences.GAP
    assert picture.shape == (126, 160 + gap, 3)
    assert (picture[:26, :80] == 255).all() and (picture[26:, :80] == 0).all()
    assert (picture[:, 80 : 80 + gap] == 255).all() and (picture[:, 80 + gap :] == 7).all()
