"""Pickles of strangers: what is read as ever, and what is refused."""

import copyreg
import os
import pickle
import resource
import struct
import sys
from collections import OrderedDict

import numpy as np
import pytest
from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode
from hostile import Payload

from ohem_d2.tools.data.unpickling import checked, read_pickle
from ohem_d2.tools.errors import InputError, UntrustedFile
from ohem_d2.tools.trust import trusting

SOUND = {
    "blobs": {
        "conv1_w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "double": np.linspace(0, 1, 5),
        "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "turned": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        "empty": np.zeros((0, 4), np.float16),
        "one number": np.array(3, np.int64),
        "truth": np.array([True, False]),
        "big end first": np.arange(3, dtype=">i4"),
        "complex": np.ones(2, np.complex64),
    },
    "scalars": [np.float32(2.5), np.int64(-3), np.str_("häuser"), np.bool_(True)],
    "plain": ({"a": [1, 2.5, None, True, "ü", 2**70]}, b"\xff\x00", b"", (), []),
    "ordered": OrderedDict(a=1, b=2),
    "bbox_mode": BoxMode.XYWH_ABS,
}


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_and_containers_are_read(protocol, tmp_path):
    file = tmp_path / "sound.pkl"
    file.write_bytes(pickle.dumps(SOUND, protocol=protocol))
    found = read_pickle(file)
    for name, array in SOUND["blobs"].items():
        loaded = found["blobs"].pop(name)
        np.testing.assert_array_equal(loaded, array)
        kinds = [x.dtype.newbyteorder("=") for x in (loaded, array)]
        assert loaded.shape == array.shape and kinds[0] == kinds[1]
    expected = {key: value for key, value in SOUND.items() if key != "blobs"}
    assert found == {**expected, "blobs": {}}
    assert [type(x) for x in found["scalars"]] == [type(x) for x in SOUND["scalars"]]


NEW = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DATA = b"U\x08" + bytes([0, 0, 128, 63, 0, 0, 0, 192])  # 1 and -2


def integers(*numbers):
    return b"".join(b"J" + struct.pack("<i", n) for n in numbers)


SIZES = integers(-1, -1)  # as NumPy writes them for numbers


def state(shape=b"K\x02\x85", code=b"f4", copy=1, sizes=SIZES, data=DATA):
    """Of an array, as it is built from."""
    dtype = b"cnumpy\ndtype\nU\x02%sK\x00K%c\x87R(K\x03U\x01<NNN%sK\x00tb" % (code, copy, sizes)
    return b"(K\x01" + shape + dtype + b"\x89" + data + b"t"


def python2(new=NEW, again=b"", **parts):
    """A pickle of {"w": array} by Python 2, as of Caffe2's weights, or a twisted one."""
    return b"\x80\x02}U\x01w" + new + state(**parts) + b"b" + again + b"s."


def test_caffe2s_weights_of_python_2(tmp_path):
    (tmp_path / "old.pkl").write_bytes(python2())
    assert read_pickle(tmp_path / "old.pkl")["w"].tolist() == [1, -2]


SCALAR, BUFFER = "numpy.core.multiarray.scalar", "numpy.core.numeric._frombuffer"


def call(name, *args):
    """A pickle of one call of a function, whatever it is."""
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode() + pickle.dumps(args)[2:-1] + b"R."


MKDIR = b"U\x07mkdired"
OBJECTS = np.array([None, 1], dtype=object)
HARMFUL = {
    "a function": (b"\x80\x02cos\nmkdir\n" + MKDIR + b"\x85R.", "os.mkdir"),
    "by the stack": (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x07mkdired\x85R.", "os.mkdir"),
    "as an instance": (b"(" + MKDIR + b"ios\nmkdir\n.", "os.mkdir"),
    "as an object": (b"(cos\nmkdir\n" + MKDIR + b"o.", "os.mkdir"),
    "a new object": (b"\x80\x02csubprocess\nPopen\n" + MKDIR + b"\x85\x81.", "subprocess.Popen"),
    "text to run": (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", "__builtin__.eval"),
    "part of NumPy": (b"\x80\x04cnumpy.f2py\ncompile\n.", "numpy.f2py.compile"),
    "a name that a terminal obeys": (b"cos\x1b[31m\nx\n.", r"os\\x1b\[31m.x"),
    "objects": (pickle.dumps(OBJECTS), r"numpy.dtype\('O8'\)"),
    "fields": (pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "O")])), r"numpy.dtype\('V12'\)"),
    "another class of array": (python2(new=NEW.replace(b"ndarray", b"dtype")), "not sound"),
    "an array with a size": (python2(new=NEW.replace(b"K\x00", b"K\x09")), "not sound"),
    "more shape than data": (python2(shape=b"M\xff\xff\x85"), "not sound"),
    "less shape than data": (python2(shape=b"K\x01\x85"), "not sound"),
    "a negative shape": (python2(shape=integers(-1, -2) + b"\x86"), "not sound"),
    "a shape that overflows": (python2(shape=b"\x8a\x09" + bytes(8) + b"\x01\x85"), "not sound"),
    "a list for data": (python2(data=b"]"), "not sound"),
    "numbers of another size": (python2(sizes=integers(999, 1)), "not sound"),
    "a dtype that is none": (python2(code=b"O8"), r"numpy.dtype\('O8'\)"),
    "a scalar of an object": (call(SCALAR, np.dtype("O"), b"x" * 8), "O8"),
    "a scalar that is too short": (call(SCALAR, np.dtype("f8"), b"x"), "not sound"),
    "a buffer of objects": (call(BUFFER, b"x" * 8, np.dtype("O"), (1,), "C"), "O8"),
    "a buffer that is too short": (call(BUFFER, b"x", np.dtype("f8"), (99,), "C"), "not sound"),
    "a buffer of an array": (call(BUFFER, np.zeros(1), np.dtype("f8"), (1,), "C"), "not sound"),
    "another encoding": (call("_codecs.encode", "x", "rot13"), "_codecs.encode"),
    "a changed function": (b"\x80\x02cnumpy\ndtype\nN}U\x0c__defaults__)s\x86b.", "no array"),
    "a changed BoxMode": (
        b"\x80\x02cdetectron2.structures.boxes\nBoxMode\nK\x00\x85R}U\x07_value_K\x01sb.",
        "no array",
    ),
    "a filled array that is filled again": (python2(again=state() + b"b"), "no array"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_what_may_run_code_or_crash_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, said = HARMFUL[name]
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UntrustedFile, match=f"x.pkl holds .*{said}.*, add --trust") as error:
        read_pickle(tmp_path / "x.pkl")
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no pickle", pickle.dumps(SOUND)[:-20], b"\x80\x04\x8e" + bytes([0] * 6 + [1, 0])),
        *(b"\x80\x04\x95" + bytes([255] * 7 + [1]) + b".", b"\x82\x01.", b"\x80\x02K\x01Q."),
        b"\x80\x02cnumpy\nndarray\nK\x01\x85\x85\x81.",  # a new one
        *(b"\x80\x02c__builtin__\nbytes\n\x8a\x05" + bytes(4) + b"\x7f\x85R.", b"PK\x03\x04"),
    ],
)
def test_what_is_no_pickle_is_named(content, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match="x.pkl is no pickle that can be read: "):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "program",
    [
        call("numpy.ndarray", (1,))[:-1],
        NEW + state() + b"bK\x00K\x01s",  # an entry of an array
        b"\x96\x01" + bytes(8) + b"K\x00K\x01s",  # and of a bytearray
        b"\x8f}N}s\x90",
        b"U\x01xU\x01xU\x01xs",
        b"C\x01x\x98",  # a view of memory
        b"\x82\xf0\x8c\x07mkdired\x85R",  # a function by a number
        b"K\x01)\x81",
    ],
)
def test_nothing_else_is_called_or_changed(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(copyreg._extension_cache, 240, os.mkdir)
    (tmp_path / "x.pkl").write_bytes(b"\x80\x05" + program + b".")
    with pytest.raises(InputError, match="x.pkl is no pickle that can be read: "):
        read_pickle(tmp_path / "x.pkl")
    assert os.listdir() == ["x.pkl"]


def test_an_order_of_bytes_is_that_of_the_file_alone(tmp_path):
    other = {"<": b">", ">": b"<"}[np.dtype("f4").str[0]]
    for copy in (0, 1):
        content = python2(copy=copy).replace(b"U\x01<", b"U\x01" + other)
        (tmp_path / "x.pkl").write_bytes(content)
        expected = np.float32([1, -2]).byteswap()
        np.testing.assert_array_equal(read_pickle(tmp_path / "x.pkl")["w"], expected)
        assert np.dtype("f4").isnative


def test_memory_that_a_pickle_asks_for_is_not_taken(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x05\x96" + (2**31).to_bytes(8, "little") + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="no pickle"):
        read_pickle(tmp_path / "x.pkl")
    # A place in the memo, up to which the unpickler in C would make room
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    assert read_pickle(tmp_path / "x.pkl") is None
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 2**20  # KiB


KEY = b")\x85\x85"  # a tuple in a tuple in a tuple


@pytest.mark.parametrize(
    "program",
    [
        b"}" + KEY + b"Ns",
        b"}(" + KEY + b"Nu",
        b"(" + KEY + b"Nd",
        b"\x8f(" + KEY + b"\x90",
        b"(" + KEY + b"\x91",
        b"ccollections\nOrderedDict\n](" + KEY + b"N\x86e\x85R",
    ],
)
def test_what_takes_a_stack_to_hash_is_refused(program, tmp_path):
    """With 200,000 of them Python itself ends in a segmentation fault."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + program + b".")
    with pytest.raises(UntrustedFile, match="x.pkl holds a key that is neither text nor a number"):
        read_pickle(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + program.replace(KEY, b"K\x07") + b".")
    assert 7 in read_pickle(tmp_path / "x.pkl")


def test_a_trusted_file_may_hold_anything(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([Payload(tmp_path / "made"), OBJECTS]))
    with trusting():
        assert read_pickle(tmp_path / "x.pkl")[1].tolist() == [None, 1]
    assert (tmp_path / "made").is_dir()
    with trusting(False), pytest.raises(UntrustedFile):
        read_pickle(tmp_path / "x.pkl")


def proposals(**more):
    boxes = np.array([[0, 0, 5, 5]], np.float32)
    data = {"ids": [1], "boxes": [boxes], "objectness_logits": [np.zeros(1)], "bbox_mode": 0}
    return {**data, **more}


def test_detectron2_reads_what_was_checked(tmp_path):
    (file,) = checked([str(tmp_path / "x.pkl")])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(proposals()))
    (record,) = load_proposals_into_dataset([{"image_id": 1}], file)
    np.testing.assert_array_equal(record["proposal_boxes"], [[0, 0, 5, 5]])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(proposals(more=Payload(tmp_path / "made"))))
    with pytest.raises(UntrustedFile, match="x.pkl holds posix.mkdir"):
        load_proposals_into_dataset([{"image_id": 1}], file)
    assert not (tmp_path / "made").exists()


def test_what_is_nested_too_deeply_for_detectron2(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(InputError, match="x.pkl is no pickle that can be read: it is nested too"):
        load_proposals_into_dataset([{"image_id": 1}], *checked([str(tmp_path / "x.pkl")]))


def of_another_numpy(content, core):
    """The pickle as NumPy 1 writes it, if ``core`` is "core", or NumPy 2, if it is "_core"."""
    for part in ("multiarray", "numeric"):
        new = f"numpy.{core}.{part}".encode()
        for old in (f"numpy.core.{part}".encode(), f"numpy._core.{part}".encode()):
            content = content.replace(b"c" + old, b"c" + new)
            content = content.replace(b"\x8c%c" % len(old) + old, b"\x8c%c" % len(new) + new)
    if content[2] == pickle.FRAME[0]:  # It tells its length.
        content = content[:3] + struct.pack("<Q", len(content) - 11) + content[11:]
    return content


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("trust", [False, True])
def test_arrays_of_numpy_1_and_2(core, protocol, trust, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy._core.numeric", raising=False)
    content = pickle.dumps(proposals(scalar=np.float32(7)), protocol)
    content = of_another_numpy(content, core)
    assert f"numpy.{core}.multiarray".encode() in content
    assert (f"numpy.{core}.numeric".encode() in content) == (protocol == 5)
    (tmp_path / "x.pkl").write_bytes(content)
    with trusting(trust):
        found = read_pickle(tmp_path / "x.pkl")
        (file,) = checked([str(tmp_path / "x.pkl")])
        (record,) = load_proposals_into_dataset([{"image_id": 1}], file)
    for boxes in (found["boxes"][0], record["proposal_boxes"]):
        np.testing.assert_array_equal(boxes, np.float32([[0, 0, 5, 5]]))
    assert found["scalar"] == 7 and type(found["scalar"]) is np.float32
