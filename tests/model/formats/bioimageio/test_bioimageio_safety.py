"""Packages made to do harm, or damaged: refused before anything is spent, and nothing is left."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetari import load_model
from unetari.errors import ModelFileError
from unetari.model.formats import archives
from unetari.model.formats.bioimageio.yaml_text import MAX_NODES, read_yaml


def refused(path: Path, match: str) -> None:
    """Expect an error of our own, which names the file, and little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=match) as caught:
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


def pack(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


# Archives


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "a/../../evil.txt", "/etc/evil.txt", "C:/evil.txt", "..\\evil.txt", "a\\b.txt"],
)
def test_names_that_lead_out(draft: Any, tmp_path: Path, name: str) -> None:
    draft.extra[name] = b"evil"
    refused(draft.zip(tmp_path / "package.zip"), "leads out of the package|is not the name of")
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("source", ["../weights.onnx", "/etc/passwd", "a/../../b", "..\\b"])
def test_names_in_the_description_that_lead_out(draft: Any, tmp_path: Path, source: str) -> None:
    draft.fields["weights"]["onnx"]["source"] = source
    reason = "leads out of the package|is not the name of|not valid"
    refused(draft.zip(tmp_path / "package.zip"), reason)
    refused(draft.folder(tmp_path / "folder"), reason)


def test_links_in_an_archive(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.npy")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refused(path, "'link.npy' is a link")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_out_of_a_folder(draft: Any, tmp_path: Path) -> None:
    folder = draft.folder(tmp_path / "package")
    outside = tmp_path / "outside.npy"
    outside.write_bytes((folder / "test_input.npy").read_bytes())
    (folder / "test_input.npy").unlink()
    (folder / "test_input.npy").symlink_to(outside)
    refused(folder, "'test_input.npy' is a link that leads out of the package")


def test_a_file_twice(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("rdf.yaml", "type: model")
    refused(path, "'rdf.yaml' is there twice")


def test_an_encrypted_file(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    refused(path, "is encrypted")


def test_a_bomb_that_says_so(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.bin", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    refused(path, "claims to unpack from")


def test_a_bomb_that_lies(draft: Any, tmp_path: Path) -> None:
    """The table of contents states one kilobyte, and far more comes out."""
    draft.files["test_input.npy"] = bytes(50 * 2**20)
    draft.hashed = False
    path = draft.zip(tmp_path / "package.zip")
    content = path.read_bytes().replace(struct.pack("<L", 50 * 2**20), struct.pack("<L", 1024))
    path.write_bytes(content)
    refused(path, "cannot be unpacked|is no array")


def test_a_table_of_contents_that_fills_memory(tmp_path: Path) -> None:
    path = tmp_path / "package.zip"
    pack(path, {"rdf.yaml": b"type: model"})
    content = bytearray(path.read_bytes())
    content[-10:-6] = struct.pack("<L", 2**31)
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="table of contents of 2,147,483,648 bytes"):
        archives.check_table(path)
    assert archives.list_names(path) == ()


def test_a_large_table_in_zip64(tmp_path: Path) -> None:
    path = tmp_path / "package.zip"
    end = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 4, 1)
    last = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 1, 1, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(b"PK\x03\x04" + end + locator + last)
    with pytest.raises(ModelFileError, match="table of contents of 1,099,511,627,776 bytes"):
        archives.check_table(path)


def test_many_entries(monkeypatch: pytest.MonkeyPatch, draft: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    refused(draft.zip(tmp_path / "package.zip"), "has 4 entries, and at most 3")


@pytest.mark.parametrize("cut", [30, 200, 1000])
def test_truncated_archives(draft: Any, tmp_path: Path, cut: int) -> None:
    path = draft.zip(tmp_path / "package.zip")
    path.write_bytes(path.read_bytes()[:-cut])
    refused(path, "damaged|truncated")


def test_every_flipped_byte_gives_an_error_of_our_own(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(whole), 40):
        content = bytearray(whole)
        content[at] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
        with contextlib.suppress(ModelFileError):
            load_model(path)


def test_a_file_of_another_hash(draft: Any, tmp_path: Path) -> None:
    draft.fields["weights"]["onnx"]["sha256"] = "0" * 64
    refused(draft.zip(tmp_path / "package.zip"), r"'weights.onnx' is not the file .* SHA-256")


# Descriptions


def bomb(levels: int) -> bytes:
    """The "billion laughs": every line repeats the one before nine times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(12), f"aliases repeat values to more than {MAX_NODES:,}"),
        (b"a: &a [*a]", "a value holds itself"),
        (b"a: &a {b: &b [*a, *b]}", "a value holds itself"),
        (b"[" * 100_000, "nested more than"),
        (b"a: " + b"{b: " * 50 + b"1" + b"}" * 50, "nested more than"),
        (b"- x\n" * 200_000, "holds more than|and at most"),
        (b"a" * (2**20 + 1), "and at most"),
        (b"a: !!python/object/apply:os.system [echo]", "no valid YAML"),
        (b"!!python/name:os.system x", "no valid YAML"),
        (b"a: 1" + b"0" * 10_000, "no valid YAML"),
        (b"a: [1, 2", "no valid YAML"),
        (b"\xff\xfe\x00", "no valid YAML|holds a"),
        (b"a: 1\n---\nb: 2", "no valid YAML"),
        (b"- 1\n- 2", "holds a list"),
        (b"{[1]: 2}", "no valid YAML|fields by name"),
        (b"1: 2", "fields by name"),
        (b"", "holds a NoneType"),
        (b"a: \x00", "no valid YAML"),
    ],
)
def test_yaml_that_is_refused(text: bytes, reason: str) -> None:
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=reason):
        read_yaml(text)
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


def test_yaml_means_what_version_1_2_says() -> None:
    text = b"a: 1e-6\nb: no\nc: 2020-01-01\nd: 010\ne: y\nf: .inf\ng: 12:30\nh: ~\ni: True\n<<: 1"
    assert read_yaml(text) == {
        "a": 1e-6,
        "b": "no",
        "c": "2020-01-01",
        "d": 10,
        "e": "y",
        "f": float("inf"),
        "g": "12:30",
        "h": None,
        "i": True,
        "<<": 1,
    }


def test_aliases_are_fine_within_limits() -> None:
    assert read_yaml(b"a: &x [1, 2]\nb: *x\nc: *x") == {k: [1, 2] for k in "abc"}


def finer(draft: Any) -> dict[str, Any]:
    axis = {**draft.output["axes"][2], "scale": 0.5}
    del axis["halo"]
    return axis


def scaled(draft: Any, scale: float, unit: str) -> None:
    for tensor in (draft.input, draft.output):
        for axis in tensor["axes"][2:]:
            axis |= {"scale": scale, "unit": unit}


def linear(draft: Any, gain: float) -> None:
    draft.input["preprocessing"] = [{"id": "scale_linear", "kwargs": {"gain": gain}}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.fields.update(type="dataset"), "describes a dataset"),
        (lambda d: d.fields.pop("inputs"), "description is not valid: inputs"),
        (lambda d: d.fields.update(inputs=[]), "description is not valid: inputs"),
        (lambda d: d.fields.update(inputs="x"), "description is not valid: inputs"),
        (lambda d: d.fields.update(format_version="9.9.9"), "not valid|version"),
        (lambda d: d.fields.update(weights={}), "Missing weights"),
        (lambda d: d.input.update(output_of="other-model"), "output of another model"),
        (lambda d: d.input["axes"][2].update(size={"min": 10**18, "step": 1}), "at most 1048576"),
        (lambda d: d.input["axes"][2].update(size={"min": 8, "step": 10**18}), "at most 1048576"),
        (lambda d: d.output["axes"][2].update(halo=10**18), "not valid|at most 1048576"),
        (lambda d: d.output["axes"][2]["size"].update(offset=3), "3 voxels more than the image"),
        (lambda d: d.output["axes"][2]["size"].update(offset=-3), "3 voxels less than the image"),
        (lambda d: d.output["axes"].__setitem__(2, finer(d)), "2 times the resolution"),
        (lambda d: d.output["axes"][1].update(channel_names=["a", "b"]), "1 in and 1 out"),
        (lambda d: d.input["axes"].insert(2, {"type": "time", "size": 5}), "axis 'time'"),
        (lambda d: d.input["axes"].pop(3), "not valid|y, x or z, y, x are needed"),
        (lambda d: scaled(d, 5e-324, "nanometer"), "says something of the model that cannot be"),
        (lambda d: linear(d, 1e-310), "says something of the model that cannot be"),
    ],
)  # fmt: skip
def test_descriptions_that_are_refused(
    draft: Any, tmp_path: Path, change: Any, reason: str
) -> None:
    change(draft)
    refused(draft.zip(tmp_path / "package.zip"), reason)


def test_an_address_is_never_fetched(draft: Any, tmp_path: Path) -> None:
    """The fixture `no_network` fails where one is."""
    address = "https://example.com/file"
    draft.fields |= {"documentation": f"{address}.md", "covers": [f"{address}.png"]}
    draft.fields |= {"attachments": [{"source": address}], "git_repo": address}
    draft.input["test_tensor"] = {"source": f"{address}.npy"}
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert any("lies on a server" in note for note in model.notes)


def test_nothing_describes_a_package(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "It is an empty folder")
    (tmp_path / "other.yaml").write_text("type: model")
    refused(tmp_path / "other.yaml", "Nothing in it describes a BioImage.IO package")


# Test tensors


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        header("{'descr': '<c8', 'fortran_order': False, 'shape': (0,)}"),
        header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}"),
        header("(" * 5000),
        b"\x93NUMPY\x09\x00" + b"\x00" * 20,
        b"PK\x03\x04 an npz perhaps",
        b"",
    ],
)
def test_arrays_that_are_refused(draft: Any, tmp_path: Path, content: bytes) -> None:
    draft.files["test_input.npy"] = content
    refused(draft.zip(tmp_path / "package.zip"), "'test_input.npy' is no array of numbers")


def test_pickles_in_arrays_are_refused(draft: Any, tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    draft.files["test_output.npy"] = stream.getvalue()
    refused(draft.zip(tmp_path / "package.zip"), "'test_output.npy' is no array of numbers")


def test_a_wrong_checksum_in_the_archive(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    crc = zlib.crc32(draft.files["weights.onnx"])
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", crc), b"\1\2\3\4"))
    refused(path, "'weights.onnx' cannot be unpacked")
