import os

import pytest

from ohem_d2.files import write_atomically


def test_content_folders_and_what_was_there(tmp_path):
    path = tmp_path / "a/b.txt"
    for content in ("ä", b"\0"):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["b.txt"]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path, tmp_path / "file/x"):
        with pytest.raises(OSError, match=f"{path} cannot be written: "):
            write_atomically(path, "new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"
    assert not tmp_path.with_name(f"{tmp_path.name}.part").exists()
