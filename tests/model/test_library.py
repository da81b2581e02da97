"""Models are kept and found again; nothing of the user's is lost, and damage is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import unetari
from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization
from unetari.errors import LibraryError, ModelFileError, UntrustedModelError
from unetari.model import bundled, keep, trust
from unetari.model.checkpoint import Model, load_model, save_model
from unetari.model.export import export_model
from unetari.model.keep import Opened, keep_model, open_file, remember
from unetari.model.library import MOST_RECENT, Library
from unetari.model.library_entry import Entry, check_name, could_be_name, propose_name
from unetari.model.listing import list_models

CONFIG = UNetConfig(n_blocks=2, start_filters=4)


@pytest.fixture
def library(library_folder: Path) -> Library:
    return Library(library_folder)


def write(path: Path, seed: int = 0, **card: str) -> Path:
    path.unlink(missing_ok=True)
    return save_model(Model.build(CONFIG, seed=seed).replace(**card), path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.safetensors", name="my nuclei")


@pytest.fixture
def opened(file: Path) -> Opened:
    return open_file(file, {})


def entry_of(opened: Opened) -> Entry:
    assert opened.entry is not None
    return opened.entry


# kept models


def test_a_kept_model_is_loaded_by_name_when_its_file_is_gone(file: Path) -> None:
    entry = keep_model(file)
    assert entry.name == "my nuclei"
    expected = load_model(file)
    file.unlink()
    model = load_model("my nuclei")
    assert model.sha256 == expected.sha256 == entry.sha256
    assert model.spec == expected.spec
    assert (model.source, model.kind) == ("my nuclei", "safetensors")


def test_what_was_said_of_a_file_is_kept_with_it(tmp_path: Path) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=4, activation="elu")
    torch.save(network.state_dict(), tmp_path / "a.pt")
    given = Normalization(method="range", low=0, high=255)
    keep_model(tmp_path / "a.pt", "told", activation="elu", normalization=given)
    model = load_model("told")
    assert isinstance(model.config, UNetConfig)
    assert model.config.activation == "elu"
    assert model.spec.normalization == given
    assert not any("Intensity" in note for note in model.notes)
    again = load_model("told", activation="leaky", normalization=Normalization(method="zscore"))
    assert isinstance(again.config, UNetConfig)
    assert (again.config.activation, again.spec.normalization.method) == ("leaky", "zscore")


def test_both_normalizations_are_kept(tmp_path: Path, library: Library) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=8, normalization="group4")
    torch.save(network.state_dict(), tmp_path / "a.pt")
    given = Normalization(method="minmax")
    opened = open_file(tmp_path / "a.pt", {"normalization": "group4"}, given)
    keep.keep(opened, library, "both")
    model = load_model("both")
    assert isinstance(model.config, UNetConfig)
    assert (model.config.normalization, model.spec.normalization) == ("group4", given)


def test_the_same_file_is_kept_once(file: Path, library: Library, tmp_path: Path) -> None:
    first = keep_model(file)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    assert keep_model(copy, "another name").name == first.name
    assert [entry.name for entry in library.read().kept] == [first.name]


def test_the_same_file_with_other_options_is_refused(tmp_path: Path, library: Library) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=4)
    file = tmp_path / "a.pt"
    torch.save(network.state_dict(), file)
    names = ("background", "cell")
    first = keep_model(file, "told", activation="relu", class_names=names)
    again = keep_model(file, activation="relu", class_names=names, up_mode=None)
    assert again.name == first.name
    with pytest.raises(
        LibraryError, match=r"as 'told', with.*activation was relu, and is elu\. Re"
    ):
        keep_model(file, activation="elu", class_names=names)
    with pytest.raises(LibraryError, match="activation was relu, and is not given"):
        keep_model(file, class_names=names)
    given = {"activation": "relu", "class_names": names}
    opened = open_file(file, given, Normalization(method="minmax"))
    with pytest.raises(LibraryError, match=r"intensities was not given, and is .*minmax"):
        keep.keep(opened, library)
    (kept,) = library.read().kept
    assert kept.options == {"activation": "relu", "class_names": ["background", "cell"]}


def test_what_was_removed_meanwhile_is_not_renamed(file: Path, library: Library) -> None:
    entry = keep_model(file)
    library.remove(entry)
    with pytest.raises(LibraryError, match="not in the library any more"):
        library.rename(entry, "other")
    assert library.read().kept == ()


def test_a_taken_name_is_said_and_a_free_one_found(
    file: Path, library: Library, tmp_path: Path
) -> None:
    keep_model(file)
    other = write(tmp_path / "other.safetensors", seed=1, name="my nuclei")
    with pytest.raises(LibraryError, match="Another kept model is called 'my nuclei'"):
        keep_model(other, "My Nuclei")
    assert keep_model(other).name == "my nuclei 2"
    with pytest.raises(LibraryError, match="Another kept model"):
        library.rename(library.read().kept[1], "my nuclei")
    library.rename(library.read().kept[1], "other")
    assert load_model("other").sha256 == load_model(other).sha256


@pytest.mark.parametrize("name", ["nuclei-2d", "NUCLEI-2D"])
def test_bundled_names_cannot_be_taken(file: Path, name: str) -> None:
    with pytest.raises(LibraryError, match="comes with unetari"):
        keep_model(file, name)


@pytest.mark.parametrize("name", ["", " ", "../up", "a/b", "a\\b", "x" * 81, ".hidden", "-v", "a "])
def test_names_cannot_be_paths(name: str) -> None:
    with pytest.raises(LibraryError, match="cannot be a name"):
        check_name(name)


def test_a_name_cannot_be_taken_for_a_file() -> None:
    with pytest.raises(LibraryError, match="Leave the ending out"):
        check_name("best.PT")
    assert not could_be_name("best.pt")
    assert could_be_name("best 2.0")


@pytest.mark.parametrize(
    "words", ["../../etc/passwd", "", "....", "x" * 500, "a\nb.onnx", "Zellen ä"]
)
def test_proposed_names_are_names(words: str) -> None:
    name = propose_name(words, [])
    check_name(name)
    assert propose_name(words, [name]) != name


def test_names_come_before_files_and_bundled_ones_first(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_model(file, "same")
    other = write(tmp_path / "other.safetensors", seed=1)
    monkeypatch.chdir(tmp_path)
    other.rename("same")
    assert load_model("same").sha256 == load_model(file).sha256
    assert load_model("./same").sha256 != load_model(file).sha256
    monkeypatch.setattr(bundled, "_files", lambda: {"same": tmp_path / "same"})
    assert load_model("same").sha256 == load_model("./same").sha256


def test_an_unknown_name_lists_the_kept_ones(file: Path) -> None:
    keep_model(file)
    with pytest.raises(ModelFileError, match="kept models: my nuclei"):
        load_model("my nucleus")


def test_removing_deletes_the_copy_alone(file: Path, library: Library) -> None:
    entry = keep_model(file)
    library.put_picture(entry.sha256, b"png", is_cover=False)
    library.remove(entry)
    assert file.exists()
    assert [path for path in library.folder.rglob("*") if path.is_file()] == []
    with pytest.raises(ModelFileError, match="no such file"):
        load_model("my nuclei")


def test_a_damaged_copy_is_refused_and_can_be_kept_anew(file: Path, library: Library) -> None:
    entry = keep_model(file)
    copy = library.file_of(entry)
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFileError, match=r"damaged or changed.*Remove the model.*mine\.safe"):
        load_model("my nuclei")
    copy.unlink()
    with pytest.raises(ModelFileError, match="is gone"):
        load_model("my nuclei")
    assert keep_model(file) == library.read().kept[0]
    assert load_model("my nuclei").sha256 == entry.sha256


def test_several_files_are_refused_with_a_way_out(tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "package").mkdir()
    with pytest.raises(LibraryError, match="Pack them as a zip archive"):
        keep_model(tmp_path / "package")
    with pytest.raises(LibraryError, match="Pack them as a zip archive"):
        keep_model(tmp_path / "package" / "rdf.yaml")


def test_a_file_that_changed_meanwhile_is_not_kept(
    file: Path, opened: Opened, library: Library
) -> None:
    file.write_bytes(b"something else")
    with pytest.raises(LibraryError, match="changed since it was opened"):
        keep.keep(opened, library)
    assert library.read().kept == ()
    assert [path for path in library.folder.rglob("*") if path.is_file()] == []


def test_keeping_a_program_does_not_trust_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    monkeypatch.setattr(trust, "_trusted", set())
    program = export_model(Model.build(CONFIG, seed=0), tmp_path / "program.ts")
    entry = keep_model(program, "program", trust=True)
    trust._trusted.clear()
    with pytest.raises(UntrustedModelError):
        load_model("program")
    # Nor does an entry that somebody wrote.
    forged = entry.replace(options={"trust": True})
    path = library.folder / "kept" / f"{entry.sha256}.json"
    path.write_text(forged.model_dump_json())
    with pytest.raises(UntrustedModelError):
        load_model("program")


# recent files


def test_recent_files_are_remembered_newest_first(tmp_path: Path, library: Library) -> None:
    for seed in range(3):
        path = write(tmp_path / f"m{seed}.safetensors", seed)
        remember(open_file(path, {}), library)
    remember(open_file(tmp_path / "m0.safetensors", {}), library)
    names = [entry.name for entry in library.read().recent]
    assert names == ["m0", "m2", "m1"]


def test_only_the_newest_are_remembered(opened: Opened, library: Library) -> None:
    entry = entry_of(opened)
    for number in range(MOST_RECENT + 3):
        library.remember(entry.replace(path=f"/nowhere/{number}.pt", name=str(number)))
    recent = library.read().recent
    assert [entry.name for entry in recent] == [str(n) for n in range(MOST_RECENT + 2, 2, -1)]
    assert len(list((library.folder / "recent").iterdir())) == MOST_RECENT


def test_a_file_that_changed_is_said_once(file: Path, library: Library) -> None:
    assert remember(open_file(file, {}), library).remarks == ()
    write(file, seed=1)
    (remark,) = remember(open_file(file, {}), library).remarks
    assert "has changed since it was opened on 20" in remark
    assert remember(open_file(file, {}), library).remarks == ()


def test_a_moved_file_is_listed_as_missing_and_located(
    file: Path, tmp_path: Path, opened: Opened, library: Library
) -> None:
    remember(opened, library)
    moved = file.rename(tmp_path / "moved.safetensors")
    with pytest.raises(LibraryError, match=r"mine\.safetensors: It cannot be read"):
        keep.keep(opened, library)  # the source is to blame, not the library
    (listed,) = [m for m in list_models(library).models if m.origin == "recent"]
    assert listed.is_missing
    entry = entry_of(opened)
    other = write(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(LibraryError, match="is another model"):
        library.relocate(entry, other, load_model(other).sha256)
    library.relocate(entry, moved, entry.sha256)
    (listed,) = [m for m in list_models(library).models if m.origin == "recent"]
    assert not listed.is_missing
    assert listed.source == str(moved)


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(116, "stale handle")])
def test_a_file_that_cannot_be_looked_at_is_missing_and_hides_no_other(
    file: Path,
    opened: Opened,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
) -> None:
    keep_model(write(file.with_name("other.safetensors"), seed=1, name="other"))
    remember(opened, library)
    look = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == file:
            raise error
        return look(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    models = {model.name: model for model in list_models(library).models}
    assert models["my nuclei"].is_missing
    assert not models["other"].is_missing


def test_a_kept_file_is_not_listed_twice(file: Path, opened: Opened, library: Library) -> None:
    remember(opened, library)
    keep.keep(opened, library)
    origins = [model.origin for model in list_models(library).models]
    assert origins.count("kept") == 1
    assert "recent" not in origins


def test_names_are_no_recent_files(library: Library) -> None:
    opened = remember(open_file("nuclei-2d", {}), library)
    assert opened.entry is None
    assert library.read().recent == ()
    with pytest.raises(LibraryError, match="has a name already"):
        keep.keep(opened, library)


# the folder


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"version": 2}', "\0" * 10, "{" * 100_000, '{"a": 1e999}']
)
def test_a_damaged_entry_hides_no_other(
    file: Path, opened: Opened, library: Library, damage: str
) -> None:
    keep_model(file)
    broken = library.folder / "kept" / f"{'0' * 64}.json"
    broken.write_text(damage)
    contents = library.read()
    assert [entry.name for entry in contents.kept] == ["my nuclei"]
    (problem,) = contents.problems
    assert str(broken) in problem
    assert "Delete it" in problem
    assert load_model("my nuclei")


def test_an_entry_cannot_point_elsewhere(file: Path, library: Library) -> None:
    entry = keep_model(file)
    path = library.folder / "kept" / f"{entry.sha256}.json"
    for name, value in (("sha256", "../../mine"), ("suffix", "/../../x"), ("sha256", "0" * 64)):
        text = json.loads(entry.model_dump_json()) | {name: value}
        path.write_text(json.dumps(text))
        contents = library.read()
        assert contents.kept == ()
        assert len(contents.problems) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="folders can always be written")
def test_a_folder_without_permission_is_said(tmp_path: Path, opened: Opened) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(LibraryError, match="UNETARI_LIBRARY"):
        keep.keep(opened, Library(folder / "library"))


def test_a_folder_that_cannot_be_made_is_said_and_models_load(
    tmp_path: Path, opened: Opened
) -> None:
    (tmp_path / "file").write_text("no folder")
    library = Library(tmp_path / "file" / "library")
    with pytest.raises(LibraryError, match=r"cannot be written.*UNETARI_LIBRARY"):
        keep.keep(opened, library)
    (remark,) = remember(opened, library).remarks
    assert "not listed among the recent ones" in remark
    assert list_models(library).models[0].origin == "bundled"


def test_windows_at_once_lose_nothing(opened: Opened, library: Library) -> None:
    entry = entry_of(opened)

    def note(number: int) -> None:
        Library(library.folder).remember(entry.replace(path=f"/nowhere/{number}.pt"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(MOST_RECENT)))
    contents = library.read()
    assert len(contents.recent) == MOST_RECENT
    assert contents.problems == ()
    assert not [path for path in library.folder.rglob("*") if path.suffix == ".part"]


@pytest.mark.skipif(os.name == "nt", reason="a file that is being replaced is locked")
def test_the_same_file_can_be_remembered_at_once(opened: Opened, library: Library) -> None:
    entry = entry_of(opened)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(library.remember, [entry] * 100))
    assert [recent.path for recent in library.read().recent] == [entry.path]


def test_old_entries_go_first(opened: Opened, library: Library) -> None:
    entry = entry_of(opened)
    library.remember(entry)
    before = library.remember(entry)
    assert before is not None
    assert timedelta(0) <= library.read().recent[0].added - before.added < timedelta(minutes=1)


def test_the_library_needs_no_torch(file: Path) -> None:
    keep_model(file)
    code = (
        "import sys; from unetari.model.listing import list_models;"
        "from unetari.model.library import Library;"
        "models = list_models(Library.default()).models;"
        "print([m.name for m in models], [len(m.card()) > 5 for m in models]);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'nuclei-2d', 'nuclei-3d', 'my nuclei'" in done.stdout


def test_bundled_models_have_a_card_and_a_picture() -> None:
    library = Library.default()
    for model in list_models(library).models:
        assert model.spec == load_model(model.name).spec
        assert model.picture(library).startswith(b"\x89PNG")
        assert len(model.picture(library)) < 30_000
        assert model.matches(f"NUCLEUS {model.spec.config.dim}d")
        assert not model.matches("nucleus elephant")


def test_the_cover_of_a_package_is_its_picture(tmp_path: Path, library: Library) -> None:
    pytest.importorskip("bioimageio.spec")
    card = {"name": "covered", "description": "D", "authors": ("A",), "license": "CC0-1.0"}
    model = Model.build(CONFIG, seed=0).replace(**card)
    image = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()
    drawn: bytes = iio.imwrite("<bytes>", np.zeros((300, 600, 3), np.uint8), extension=".png")
    package = export_model(model, tmp_path / "package.zip", image=image, cover=drawn)
    entry = keep_model(package)
    cover = library.picture(entry.sha256)
    assert cover.startswith(b"\x89PNG")
    library.put_picture(entry.sha256, b"of a prediction", is_cover=False)
    assert library.picture(entry.sha256) == cover
    assert load_model("covered").sha256 == entry.sha256
    library.remove(entry)
    assert library.picture(entry.sha256) == b""
