"""What two detectors find differently: boxes whose matches are known by hand."""

import numpy as np
import pytest
from pycocotools.coco import COCO

from ohem_d2.monitor.pictures import BACKGROUND, FOREGROUND, GROUND_TRUTH
from ohem_d2.tools.comparison.detections import found, most_different, score_that_finds
from ohem_d2.tools.comparison.page import draw

CROWN, OTHER, CROWD = [10, 10, 20, 20], [50, 10, 20, 20], [10, 60, 40, 30]


def coco_of(boxes, images=(1, 2, 3), categories=("tree",)):
    """Annotations of image, box, whether it is a crowd, in pycocotools."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 100, "height": 100} for i in images],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, start=1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": crowd}
            for i, (image, box, crowd) in enumerate(boxes, start=1)
        ],
    }
    coco.createIndex()
    return coco


@pytest.fixture
def truth():
    """Image 1 has two crowns and a crowd region, image 2 one crown, image 3 none."""
    return coco_of(((1, CROWN, 0), (1, OTHER, 0), (1, CROWD, 1), (2, CROWN, 0)))


def detection(image, box, score, category=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_found(truth):
    shifted, far = [12, 11, 20, 20], [80, 80, 10, 10]
    detections = [
        detection(1, shifted, 0.6),  # of a crown that the next one has already
        detection(1, CROWN, 0.9),
        detection(1, far, 0.8),
        detection(1, [12, 62, 20, 20], 0.7),  # in the crowd region: does not count
        detection(3, far, 0.5),
    ]
    images = found(truth, detections)
    assert images[1].objects == {1} and images[2].objects == images[3].objects == set()
    np.testing.assert_array_equal(images[1].right, [[10, 10, 30, 30]])
    np.testing.assert_array_equal(images[1].wrong, [[80, 80, 90, 90], [12, 11, 32, 31]])
    np.testing.assert_array_equal(images[1].missed, [[50, 10, 70, 30]])
    np.testing.assert_array_equal(images[2].missed, [[10, 10, 30, 30]])
    assert len(images[3].wrong) == 1 and images[3].missed.shape == (0, 4)


def test_nothing_is_found(truth):
    images = found(truth, [])
    assert [len(images[i].missed) for i in (1, 2, 3)] == [2, 1, 0]
    assert not any(len(f.right) or len(f.wrong) for f in images.values())


def test_most_different(truth):
    everything = [detection(1, CROWN, 0.9), detection(1, OTHER, 0.9), detection(2, CROWN, 0.9)]
    full, nothing = (found(truth, d) for d in (everything, []))
    part = found(truth, everything[:1])
    assert most_different(full, nothing, 5) == [1, 2]
    assert most_different(nothing, full, 1) == [1]
    assert most_different(full, part, 5) == [1, 2]
    assert most_different(part, part, 5) == []


def test_draw(truth):
    what = found(truth, [detection(1, CROWN, 0.9), detection(1, [80, 80, 10, 10], 0.8)])
    drawn = draw(np.zeros((100, 100, 3), np.uint8), what[1], 2.0)
    assert drawn.shape == (200, 200, 3)
    for (x, y), color in (
        ((20, 40), FOREGROUND),
        ((160, 170), BACKGROUND),
        ((100, 40), GROUND_TRUTH),
    ):
        assert tuple(drawn[y, x]) == color


@pytest.mark.parametrize("recall, score", [(0.5, 0.7), (0.75, 0.2), (1.0, 0.0)])
def test_the_score_that_finds_a_share_of_the_objects(recall, score):
    """Four objects; three are found, one of them as another class; two detections are wrong."""
    places = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [60, 0, 10, 10]]
    truth = coco_of([(1, box, 0) for box in places], [1], ("one", "two"))
    detections = [
        detection(1, places[0], 0.9),
        detection(1, [0, 50, 10, 10], 0.8),
        detection(1, places[1], 0.7, category=2),
        detection(1, [50, 50, 10, 10], 0.3),
        detection(1, places[2], 0.2),
    ]
    assert score_that_finds(truth, detections, recall) == pytest.approx(score)
    assert score_that_finds(truth, [], recall) == 0
