from __future__ import annotations

from pathlib import Path

import pytest

from unetari.errors import ImageFileError, OutputExistsError
from unetari.storage.svg import save_svg


def test_a_drawing_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    written = save_svg("<svg>\N{MULTIPLICATION SIGN}</svg>", tmp_path / "net.v2.svg")
    assert written.read_text(encoding="utf-8") == "<svg>\N{MULTIPLICATION SIGN}</svg>"
    assert list(tmp_path.iterdir()) == [written]


def test_the_suffix_is_added(tmp_path: Path) -> None:
    assert save_svg("<svg/>", tmp_path / "net") == tmp_path / "net.svg"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = save_svg("<svg/>", tmp_path / "net.svg")
    for target in (path, path.with_suffix("")):
        with pytest.raises(OutputExistsError, match=r"net\.svg exists already.*overwrite"):
            save_svg("new", target)
    assert path.read_text() == "<svg/>"
    assert save_svg("new", path, overwrite=True).read_text() == "new"


@pytest.mark.parametrize("name", ["net.png", "missing/net.svg", "folder.svg"])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(ImageFileError, match=r"Use net\.svg|Create it first|name of a file"):
        save_svg("<svg/>", tmp_path / name, overwrite=True)
