"""What stops a file from being written is said of the file that is to blame."""

from __future__ import annotations

from pathlib import Path

import pytest

from unetari.errors import ModelFileError
from unetari.model.files import whole_file


def write_from(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        temporary.write_bytes(source.read_bytes())


def test_the_file_that_is_to_blame_is_named(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "source.bin"
    with pytest.raises(ModelFileError, match=r"because .*source\.bin cannot be used \(No such"):
        write_from(source, tmp_path / "target.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"x")
    with pytest.raises(
        ModelFileError, match=r"target\.bin: It cannot be written .*Check the folder"
    ):
        write_from(source, tmp_path / "missing" / "target.bin")
