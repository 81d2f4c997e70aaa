import json

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from photographs import voc_xml
from PIL import Image

from ohem_d2.tools.data.datasets import (
    FORMS,
    file_faults,
    is_own,
    name_of_negatives,
    register_datasets,
)
from ohem_d2.tools.data.evaluation import evaluation_faults
from ohem_d2.tools.data.records import training_records
from ohem_d2.tools.errors import InputError


def write_coco(folder, name="train", classes=("cat", "dog")):
    (folder / "images").mkdir(exist_ok=True)
    # Ids out of order and with gaps, as in COCO itself.
    categories = [{"id": 7 * (i + 1), "name": c} for i, c in enumerate(classes)][::-1]
    images = [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}]
    box = {"id": 1, "image_id": 1, "category_id": 14, "bbox": [1, 2, 3, 4], "area": 12}
    data = {
        "images": images,
        "categories": categories,
        "annotations": [{**box, "iscrowd": 0}],
    }
    (folder / f"{name}.json").write_text(json.dumps(data))
    return f"coco:{folder / name}.json:{folder / 'images'}"


def write_voc(folder, split="train", names=("dog",), images=("000001", "000002")):
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    xml = voc_xml(20, 10, [(name, 1, 2, 5, 9) for name in names])
    for image in images:
        (folder / f"Annotations/{image}.xml").write_text(xml)
    (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(images))
    return f"voc:{folder}:{split}"


def test_coco(tmp_path):
    names = [write_coco(tmp_path), write_coco(tmp_path, "test")]
    assert register_datasets(names) == ["cat", "dog"]
    assert register_datasets(names) == ["cat", "dog"]  # again does no harm
    (record,) = DatasetCatalog.get(names[0])
    assert record["annotations"][0]["category_id"] == 1  # dog
    assert MetadataCatalog.get(names[0]).evaluator_type == "coco"


def test_voc_classes_of_training_and_test_together(tmp_path):
    names = [
        write_voc(tmp_path, "train", ["dog", "ant"], "12"),
        write_voc(tmp_path, "test", ["cat"], "34"),
    ]
    # The classes are those of the folder, so that a split alone has them in the same order.
    assert register_datasets(names[1:]) == ["ant", "cat", "dog"]
    assert register_datasets(names) == ["ant", "cat", "dog"]
    assert len(DatasetCatalog.get(names[0])) == 2
    assert MetadataCatalog.get(names[1]).evaluator_type == "pascal_voc"
    assert MetadataCatalog.get(names[0]).thing_classes == ["ant", "cat", "dog"]


def test_classes_that_are_not_all_in_the_data(tmp_path):
    name = write_voc(tmp_path, "test", ["dog"], "12")
    assert register_datasets([name], ["ant", "dog"]) == ["ant", "dog"]
    records = DatasetCatalog.get(name)
    assert records[0]["annotations"][0]["category_id"] == 1
    (fault,) = evaluation_faults(get_cfg(), name, records)
    assert str(fault) == "1 classes without an object, such as ant. They have no AP"
    with pytest.raises(ValueError, match=r"name \['dog'\], which is not among .* \['ant'\]"):
        register_datasets([name], ["ant"])


def test_other_names_are_left_alone():
    assert register_datasets(["coco_2017_val", "voc_2007_test"]) == []


@pytest.mark.parametrize(
    "name",
    [
        *("coco:a.json", "voc:x:y:z", "coco::images", "coco:", "voc0:x", "voc::train"),
        *("coco:a.json:images:difficult", "voc:x:y:difficult:z", "voc0:x:y:"),
    ],
)
def test_malformed_names(name):
    with pytest.raises(ValueError, match="is not of the form"):
        register_datasets([name])


def test_missing_and_broken_files_are_named(tmp_path):
    good = write_coco(tmp_path)
    with pytest.raises(InputError, match="nowhere.json does not exist"):
        register_datasets([f"coco:{tmp_path}/nowhere.json:{tmp_path}"])
    with pytest.raises(InputError, match="no_images does not exist.*folder of images"):
        register_datasets([f"coco:{tmp_path}/train.json:{tmp_path}/no_images"])
    assert "voc:FOLDER:SPLIT" in FORMS
    for content in ("not json", "[]", '{"images": []}', '{"categories": 3}'):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(ValueError, match="broken.json is not in COCO format"):
            register_datasets([f"coco:{tmp_path}/broken.json:{tmp_path}"])
    for name, said in (
        (5, r"named.json is not in COCO format: .*categories\[0\].name"),
        (None, r"named.json is not in COCO format: .*categories\[0\].name"),
        ("\ud800", r"named.json: a class is called '.ud800'; it sh"),
    ):
        with pytest.raises(ValueError, match=said):
            register_datasets([write_coco(tmp_path, "named", ("cat", name))])
    with pytest.raises(ValueError, match="must share their classes"):
        register_datasets([good, write_coco(tmp_path, "other", ("cat", "cow"))])
    with pytest.raises(InputError, match="Annotations does not exist"):
        register_datasets([f"voc:{tmp_path}:val"])
    voc = write_voc(tmp_path)
    with pytest.raises(InputError, match="Main/val.txt does not exist"):
        register_datasets([f"voc:{tmp_path}:val"])
    (tmp_path / "ImageSets/Main/none.txt").touch()
    with pytest.raises(InputError, match="none.txt lists no image"):
        register_datasets([f"voc:{tmp_path}:none"])
    (tmp_path / "Annotations/000001.xml").write_text("<annotation>")
    register_datasets([voc])  # Another split may do without it.
    with pytest.raises(InputError, match="000001.xml is not XML"):
        DatasetCatalog.get(voc)
    (tmp_path / "Annotations/000001.xml").unlink()
    with pytest.raises(InputError, match="000001.xml does not exist; .* annotation of 000001"):
        DatasetCatalog.get(voc)


def test_one_image_is_a_data_set(tmp_path):
    name = write_voc(tmp_path, images=("000001",))
    register_datasets([name])
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == ["000001"]


def test_forms_of_voc_data(tmp_path):
    """They share their classes, and differ in what their annotations mean."""
    plain = write_voc(tmp_path, "train", ["dog"], ("000001",))
    xml = voc_xml(20, 10, [("dog", 1, 2, 5, 9, True)])
    (tmp_path / "Annotations/000001.xml").write_text(xml)
    names = [plain, f"{plain}:difficult", plain.replace("voc:", "voc0:")]
    names.append(f"{names[2]}:difficult")
    assert register_datasets(names) == ["dog"]
    found = [DatasetCatalog.get(name)[0]["annotations"][0] for name in names]
    assert [a["bbox"] for a in found] == [[0, 1, 5, 9]] * 2 + [[1, 2, 5, 9]] * 2
    assert [a["iscrowd"] for a in found] == [1, 0, 1, 0]
    assert [len(file_faults(name)) for name in names] == [1, 0, 1, 0]
    assert all(is_own(name) and name_of_negatives(name) == name for name in names)
    assert {MetadataCatalog.get(name).evaluator_type for name in names} == {"pascal_voc"}


@pytest.mark.parametrize("name", ["\x1b[31ma", "a\n", "a\rb", "\x9bcat", "\u202ecat", "a\u2028b"])
def test_names_of_classes_that_a_terminal_would_obey(name, tmp_path):
    with pytest.raises(ValueError, match="train.json: a class is called ") as error:
        register_datasets([write_coco(tmp_path, classes=("dog", name))])
    assert repr(name) in str(error.value) and str(error.value).isprintable()
    if name[0] != "\x1b" and name[-1] != "\n":  # which XML cannot have, or does not count
        with pytest.raises(ValueError, match=f"{tmp_path}: a class is called .*; it should be"):
            register_datasets([write_voc(tmp_path, names=["dog", name.replace("\r", "&#13;")])])
    with pytest.raises(ValueError, match="that were given: a class is called "):
        register_datasets([write_voc(tmp_path)], ["dog", name])


def test_names_of_classes_in_any_script(tmp_path):
    names = ["大型\u3000トラック", "می\u200cشود", "👩\u200d🚒", "café", "traffic light"]
    assert register_datasets([write_coco(tmp_path, classes=names)]) == names


def test_a_folder_of_images_without_objects(tmp_path):
    folder = tmp_path / "none"
    with pytest.raises(InputError, match="none does not exist; it should be a folder"):
        register_datasets([f"images:{folder}"])
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="none has no images"):
        register_datasets([f"images:{folder}"])
    for name in ("b.png", "a.JPG"):
        (folder / name).write_bytes(b"read later")
    names = [write_coco(tmp_path), f"images:{folder}"]
    assert register_datasets(names) == ["cat", "dog"] == register_datasets(names)
    records = DatasetCatalog.get(names[1])
    assert [r["file_name"] for r in records] == [str(folder / "a.JPG"), str(folder / "b.png")]
    assert all(r["annotations"] == [] for r in records)


def test_negatives_are_named_by_their_folder(tmp_path):
    name = write_coco(tmp_path)
    register_datasets([name])
    for known in (name, "voc:folder:train", "images:folder", "coco_2017_train"):
        assert name_of_negatives(known) == known
    # a folder whose name begins like that of a data set
    assert name_of_negatives("coco_2017_train_empty") == "images:coco_2017_train_empty"


def test_classes_have_to_agree_with_images_without_objects_among_them(tmp_path):
    """Which have no classes themselves."""
    Image.new("RGB", (20, 10)).save(tmp_path / "empty.png")
    cfg = get_cfg()
    for place, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        (tmp_path / place).mkdir()
        name = write_coco(tmp_path / place, classes=classes)
        Image.new("RGB", (20, 10)).save(tmp_path / place / "images/a.jpg")
        register_datasets([name])
        cfg.DATASETS.TRAIN = (*cfg.DATASETS.TRAIN, name)
    first, second = cfg.DATASETS.TRAIN[-2:]
    negatives = f"images:{tmp_path}"
    register_datasets([negatives])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATASETS.TRAIN = (first, negatives)
    records, left_out = training_records(cfg)
    assert [len(record["annotations"]) for record in records] == [1, 0] and left_out == []
    cfg.DATASETS.TRAIN = (first, second, negatives)
    with pytest.raises(InputError, match="thing_classes"):
        training_records(cfg)
