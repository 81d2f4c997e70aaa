import pytest
from photographs import voc_xml

from ohem_d2.tools.data.voc import VOCObject, read_voc

XML = voc_xml(20, 10, [("dog", 1, 2, 5, 9), ("cat", 3, 3, 4, 4, True)])


def test_objects_of_a_file_or_its_content(tmp_path):
    (tmp_path / "a.xml").write_text(XML)
    expected = [VOCObject("dog", (1, 2, 5, 9)), VOCObject("cat", (3, 3, 4, 4), True)]
    for source in (tmp_path / "a.xml", str(tmp_path / "a.xml"), XML.encode()):
        assert read_voc(source) == read_voc(source, strict=True) == expected


def test_what_only_the_evaluation_reads_may_be_missing():
    bare = (
        "<annotation><object><name>dog</name><bndbox><xmin>1.5</xmin><ymin> 2 </ymin>"
        "<xmax>3</xmax><ymax>4</ymax></bndbox></object></annotation>"
    )
    assert read_voc(bare.encode()) == [VOCObject("dog", (1.5, 2, 3, 4))]
    with pytest.raises(ValueError, match="<size/width> is None"):
        read_voc(bare.encode(), strict=True)
    assert read_voc(b"<annotation/>") == []


@pytest.mark.parametrize(
    "old, new, said",
    [
        (">1<", ">nan<", "<bndbox/xmin> is 'nan', and it should be a number"),
        (">1<", "><", "<bndbox/xmin> is ''"),
        ("<xmin>1</xmin>", "", "<bndbox/xmin> is None"),
        (">dog<", "><", "the <name> of an <object> is empty"),
        ("</annotation>", "", "is not XML"),
    ],
)
def test_what_is_wrong_is_said_of_the_file(old, new, said, tmp_path):
    (tmp_path / "a.xml").write_text(XML.replace(old, new))
    with pytest.raises(ValueError, match=f"{tmp_path / 'a.xml'} .*{said}"):
        read_voc(tmp_path / "a.xml")
    with pytest.raises(ValueError, match=f"the wheel's .*{said}"):
        read_voc(XML.replace(old, new).encode(), what="the wheel's")
