"""Pascal VOC as it is found: what is read, what may be missing, and what is wrong."""

import pytest
from models import config
from photographs import voc_xml
from PIL import Image
from scenes import by_rule, voc_scene

from ohem_d2.tools.data.mapper import TrainingMapper, map_record
from ohem_d2.tools.data.voc import (
    VOCImage,
    VOCObject,
    image_ids,
    read_voc,
    voc_classes,
    voc_faults,
    voc_records,
)
from ohem_d2.tools.errors import InputError

XML = voc_xml(20, 10, [("dog", 1, 2, 5, 9), ("cat", 3, 3, 4, 4, True)])
BARE = (
    "<annotation><object><name>dog</name><bndbox><xmin>1.5</xmin><ymin> 2 </ymin>"
    "<xmax>3</xmax><ymax>4</ymax></bndbox></object></annotation>"
)
# As in VOC 2012, where persons have parts
PARTS = (
    "<annotation><size><width>20</width><height>10</height><depth>3</depth></size><object>"
    "<name>person</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    "<part><name>head</name><bndbox><xmin>3.25</xmin><ymin>2</ymin><xmax>5</xmax><ymax>3</ymax>"
    "</bndbox></part><difficult>0</difficult></object></annotation>"
)


def test_objects_of_a_file_or_its_content(tmp_path):
    (tmp_path / "a.xml").write_text(XML)
    objects = [VOCObject("dog", (1, 2, 5, 9)), VOCObject("cat", (3, 3, 4, 4), True)]
    for source in (tmp_path / "a.xml", str(tmp_path / "a.xml"), XML.encode()):
        assert read_voc(source) == VOCImage(objects, (20, 10))


def test_what_a_training_does_not_need_may_be_missing():
    assert read_voc(BARE.encode()) == VOCImage([VOCObject("dog", (1.5, 2, 3, 4))])
    assert read_voc(b"<annotation/>") == VOCImage([])
    assert read_voc(PARTS.encode()) == VOCImage([VOCObject("person", (1, 2, 9, 8))], (20, 10))
    for size in ("<size/>", "<size><width>0</width><height>0</height></size>"):
        assert read_voc(f"<annotation>{size}</annotation>".encode()).size is None
    spaced = XML.replace(">dog<", ">\n  dog\n<").replace(">1<", "> 1\n<")
    assert read_voc(spaced.encode()) == read_voc(XML.encode())
    empty = XML.replace("<difficult>0</difficult>", "<difficult/>")
    assert [o.difficult for o in read_voc(empty.encode()).objects] == [False, True]


@pytest.mark.parametrize(
    "old, new, said",
    [
        (">1<", ">nan<", "<bndbox/xmin> is 'nan'; a number is needed"),
        (">1<", "><", "<bndbox/xmin> is ''"),
        (">1<", ">1,5<", "<bndbox/xmin> is '1,5'"),
        ("<xmin>1</xmin>", "", "<bndbox/xmin> is ''"),
        (">20<", ">x<", "<size/width> is 'x'"),
        (">dog<", "> <", "the <name> of an <object> is empty"),
        ("</annotation>", "", "is not XML"),
        ("annotation>", "annotations>", "it is <annotations>, no <annotation>"),
    ],
)
def test_what_is_wrong_is_said_of_the_file(old, new, said, tmp_path):
    (tmp_path / "a.xml").write_text(XML.replace(old, new))
    with pytest.raises(InputError, match=f"{tmp_path / 'a.xml'} .*{said}"):
        read_voc(tmp_path / "a.xml")
    with pytest.raises(InputError, match=f"the wheel's .*{said}"):
        read_voc(XML.replace(old, new).encode(), what="the wheel's")


def lists(folder, content, ids=("000001", "000002"), encoding="utf-8"):
    voc_scene(folder, ids)
    (folder / "ImageSets/Main/some.txt").write_text(content, encoding)
    return image_ids(str(folder), "some")


@pytest.mark.parametrize(
    "content, ids, flagged",
    [
        ("000001\n000002\n", ["000001", "000002"], False),
        (" 000002 \r\n\r\n000001", ["000002", "000001"], False),
        ("000001  1\n000002 -1\n", ["000001", "000002"], True),
        ("000001\n000002 0", ["000001", "000002"], True),
        ("000001\n000001\n", ["000001"], False),  # Once is enough.
        ("gone\n000001 7\n", ["gone", "000001 7"], False),
        ("000001.jpg\n000002.XML\n", ["000001", "000002"], True),
        ("000001.v2\n", ["000001.v2"], False),
    ],
)
def test_lists_of_images(content, ids, flagged, tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):  # the latter by Windows
        found, faults = lists(tmp_path, content, encoding=encoding)
        assert found == ids and set(by_rule(faults)) == ({"odd list"} if flagged else set())


def test_blanks_in_names_are_no_flags(tmp_path):
    names = ["photo 1", "photo 0", "my  photo -1"]
    content = "photo 1\nphoto 0\nmy  photo -1\n"
    assert lists(tmp_path, content, names) == (names, [])
    found, faults = lists(tmp_path, "photo 1  -1\nphoto 0 1\n", names)
    assert found == ["photo 1", "photo 0"] and len(faults) == 1
    records = voc_records(str(tmp_path), "some", ["cat", "dog"])
    assert [r["image_id"] for r in records] == ["photo 1", "photo 0"]


def test_lists_that_are_none(tmp_path):
    with pytest.raises(InputError, match="some.txt lists no image"):
        lists(tmp_path, "\n \n")
    with pytest.raises(InputError, match="all.txt does not exist; it should be the list of images"):
        image_ids(str(tmp_path), "all")


@pytest.mark.parametrize("images", [".jpg", ".png", ".JPEG", ".tif"])
def test_images_of_any_format(images, tmp_path):
    folder = voc_scene(tmp_path, images=images)
    records = voc_records(str(folder), "train", ["cat", "dog"])
    assert [r["file_name"] for r in records] == [
        str(folder / f"JPEGImages/{i}{images}") for i in ("000001", "000002")
    ]
    mapper = TrainingMapper(config("fpn"), is_train=True, augmentations=[])
    assert map_record(mapper, records[0])["instances"].gt_boxes.tensor.tolist() == [
        [4, 6, 25, 23],
        [34, 6, 55, 23],
    ]
    # where there is none it is named as VOC has it
    for record in records:
        (tmp_path / record["file_name"]).unlink()
    again = voc_records(str(folder), "train", ["cat", "dog"])
    assert [r["file_name"][-10:] for r in again] == ["000001.jpg", "000002.jpg"]


def test_the_size_is_that_of_the_file_or_of_the_image(tmp_path):
    folder = voc_scene(tmp_path)
    (folder / "Annotations/000002.xml").write_text(BARE)
    Image.new("RGB", (33, 22)).save(folder / "JPEGImages/000002.jpg")
    records = voc_records(str(folder), "train", ["cat", "dog"])
    assert [(r["width"], r["height"]) for r in records] == [(64, 48), (33, 22)]


@pytest.mark.parametrize("first, difficult", [(1, False), (0, False), (1, True)])
def test_records(first, difficult, tmp_path):
    objects = [("cat", 1, 2, 9, 8), ("dog", 3.5, 4, 7, 8, True), ("cat", 20, 9, 10, 20)]
    folder = voc_scene(tmp_path, objects={"000002": objects})
    how = {"first": first, "difficult": difficult}
    record = voc_records(str(folder), "train", ["cat", "dog"], **how)[1]
    assert record["image_id"] == "000002" and [
        (a["bbox"], a["category_id"], a["iscrowd"]) for a in record["annotations"]
    ] == [
        ([1 - first, 2 - first, 9, 8], 0, 0),
        ([3.5 - first, 4 - first, 7, 8], 1, int(not difficult)),
        ([20 - first, 9 - first, 10, 20], 0, 0),  # turned round, which is looked at later
    ]


def test_difficult_objects_are_regions_to_ignore(tmp_path):
    objects = [("cat", 1, 1, 9, 8), ("dog", 31, 11, 40, 20, True)]
    folder = voc_scene(tmp_path, objects={"000001": objects})
    mapper = TrainingMapper(config("fpn"), is_train=True, augmentations=[])
    record = voc_records(str(folder), "train", ["cat", "dog"])[0]
    instances = map_record(mapper, record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 9, 8]]
    assert instances.ignore_regions.boxes.tensor.tolist() == [[30, 10, 40, 20]]


def test_files_outside_of_the_split_do_no_harm(tmp_path):
    folder = voc_scene(tmp_path, ids=("a", "b", "c"))
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (folder / "Annotations/c.xml").write_text("<torn")
    (folder / "Annotations/._a.xml").write_bytes(b"\0\5\x16\7")
    assert voc_classes(str(folder)) == {"cat", "dog"}
    assert len(voc_records(str(folder), "train", ["cat", "dog"])) == 2
    assert voc_faults(str(folder), "train", 1, False) == []
    with pytest.raises(InputError, match="c.xml is not XML"):
        voc_records(str(folder), "test", ["cat", "dog"])


def test_all_files_that_are_broken_are_found(tmp_path):
    folder = voc_scene(tmp_path, ids=("a", "b", "c"))
    (folder / "Annotations/a.xml").unlink()
    (folder / "Annotations/c.xml").write_text("<torn")
    (fault,) = voc_faults(str(folder), "train", 1, False)
    assert fault.stops and len(fault.where) == 2
    assert "a.xml does not exist; it should be the annotation of a, which" in fault.where[0]
    assert "c.xml is not XML" in fault.where[1]
