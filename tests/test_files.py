import os

import pytest
import torch

from ohem_d2.tools.files import write_atomically


def test_content_folders_and_what_was_there(tmp_path):
    path = tmp_path / "a/b.txt"
    for content in ("ä", b"\0"):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["b.txt"]


def test_content_that_a_function_writes(tmp_path):
    write_atomically(tmp_path / "x.pth", lambda file: torch.save({"x": torch.ones(3)}, file))
    assert torch.load(tmp_path / "x.pth", weights_only=True)["x"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_function_that_fails_on_the_way_leaves_the_old_file(error, tmp_path):
    def half(file):
        file.write(b"ha")
        raise error

    (tmp_path / "file").write_text("old")
    with pytest.raises(error):
        write_atomically(tmp_path / "file", half)
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path, tmp_path / "file/x"):
        with pytest.raises(OSError, match=f"{path} cannot be written: "):
            write_atomically(path, "new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"
    assert not tmp_path.with_name(f"{tmp_path.name}.part").exists()
