"""Files that are there whole or not at all."""

import pytest
import torch

from ohem_d2.files import write_atomically


@pytest.mark.parametrize("content", ["ä", "ä".encode(), lambda file: file.write("ä".encode())])
def test_contents(content, tmp_path):
    path = tmp_path / "new/folder/file"
    write_atomically(path, content)
    write_atomically(str(path), content)
    assert path.read_bytes() == "ä".encode()
    assert list(path.parent.iterdir()) == [path]


def test_tensors(tmp_path):
    write_atomically(tmp_path / "x.pth", lambda file: torch.save({"x": torch.ones(3)}, file))
    assert torch.load(tmp_path / "x.pth", weights_only=True)["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_on_the_way_leaves_the_old_file(error, tmp_path):
    def half(file):
        file.write(b"ha")
        raise error

    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(error):
        write_atomically(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/x cannot be written: "):
        write_atomically(tmp_path / "file/x", "")
