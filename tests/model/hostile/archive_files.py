"""Zip archives that are damaged, climb, lie or fill memory: the same tricks in every format."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file, with_trust

CARRIERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "state_dict": ("m.pt", material.state_dict),
    "TorchScript": ("m.ts", material.script),
    "export": ("m.pt2", material.export),
    "package": ("m.zip", material.package),
}
PROGRAMS = ("TorchScript", "export")
_CENTRAL, _LOCAL, _END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def cases() -> Iterator[Case]:
    for carrier, (filename, make) in CARRIERS.items():
        for name, trick in TRICKS.items():
            case = file(f"{carrier}, {name}", filename, functools.partial(_played, trick, make))
            yield from with_trust([case]) if carrier in PROGRAMS else [case]
    for name, content in ALONE.items():
        yield file(name, "m.pt", content)
        yield file(f"{name}, as a package", "m.zip", content)


def _played(trick: Callable[[bytes], bytes], make: Callable[[], bytes]) -> bytes:
    return trick(make())


def names_of(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.namelist()


def main_file(content: bytes) -> str:
    """The file in an archive that every reader reads."""
    names = names_of(content)
    return next(name for name in names if name.endswith(("data.pkl", "rdf.yaml", "model.json")))


def appended(name: str, content: bytes = b"evil", **fields: int) -> Callable[[bytes], bytes]:
    def play(archive: bytes) -> bytes:
        stream = io.BytesIO(archive)
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        for field, value in fields.items():
            setattr(entry, field, value)
        with zipfile.ZipFile(stream, "a") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there already
            opened.writestr(entry, content, compress_type=entry.compress_type)
        return stream.getvalue()

    return play


def _renamed(name: str) -> Callable[[bytes], bytes]:
    """A name that zipfile would not write: put in place of one of the same length."""
    return lambda archive: appended("x" * len(name))(archive).replace(
        b"x" * len(name), name.encode("latin-1")
    )


def _twice(archive: bytes) -> bytes:
    return appended(main_file(archive))(archive)


def patched(at: int, form: str, value: int, which: bytes = _CENTRAL, *, last: bool = True
            ) -> Callable[[bytes], bytes]:  # fmt: skip
    """Another number in a record of the archive; the records are those of `zipfile`."""

    def play(archive: bytes) -> bytes:
        archive = rewritten(archive)
        found = archive.rfind(which) if last else archive.find(which)
        content = bytearray(archive)
        struct.pack_into(form, content, found + at, value)
        return bytes(content)

    return play


@functools.cache
def rewritten(archive: bytes) -> bytes:
    """The archive as zipfile writes it, without the fields for large ones."""
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        files = {name: old.read(name) for name in old.namelist()}
    return material.zipped(files)


def _overlapping(archive: bytes) -> bytes:
    """Two entries share the same compressed bytes."""
    content = bytearray(rewritten(appended("zeros", bytes(10**6))(archive)))
    last = content.rfind(_CENTRAL)
    before = content.rfind(_CENTRAL, 0, last)
    (offset,) = struct.unpack_from("<L", content, last + 42)
    struct.pack_into("<L", content, before + 42, offset)
    return bytes(content)


def _concatenated(archive: bytes) -> bytes:
    """Two archives in one file: which is read depends on who reads."""
    return material.zipped({"m/data.pkl": b"\x80\x02}."}) + archive


def _as_folders(archive: bytes) -> bytes:
    """Files say that they are folders: torch's reader leaves the memory for them as it is."""
    content, at = bytearray(archive), archive.find(_CENTRAL)
    while at >= 0:
        struct.pack_into("<L", content, at + 38, 0x10)
        at = archive.find(_CENTRAL, at + 4)
    return bytes(content)


def _in_comment(archive: bytes) -> bytes:
    """The comment holds the end of another archive."""
    other = material.zipped({"m/data.pkl": b"\x80\x02}."})
    content = bytearray(rewritten(archive))
    struct.pack_into("<H", content, len(content) - 2, len(other))
    return bytes(content) + other


def _many(archive: bytes) -> bytes:
    stream = io.BytesIO(rewritten(archive))
    with zipfile.ZipFile(stream, "a") as opened:
        for number in range(10_001):
            opened.writestr(f"m/{number}", b"")
    return stream.getvalue()


def _large_end(archive: bytes, size: int) -> bytes:
    """The end of large archives, which says another size of the table."""
    content = rewritten(archive)
    at = content.rfind(_END)
    entries, table_size, table = struct.unpack_from("<HLL", content, at + 10)
    end = b"PK\x06\x06" + struct.pack(
        "<QHHLLQQQQ", 44, 45, 45, 0, 0, entries, entries, table_size + size, table
    )
    return content[:at] + end + b"PK\x06\x07" + struct.pack("<LQL", 0, at, 1) + content[at:]


def _flipped(part: str) -> Callable[[bytes], bytes]:
    """A bit of what is stored of the main file, or of the largest one, is another."""

    def play(archive: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
        name = main_file(archive)
        largest = max(entries, key=lambda entry: entry.compress_size)
        entry = largest if part == "largest" else next(e for e in entries if e.filename == name)
        start = entry.header_offset
        name_size, extra = struct.unpack_from("<HH", archive, start + 26)
        content = bytearray(archive)
        content[start + 30 + name_size + extra + entry.compress_size // 2] ^= 4
        return bytes(content)

    return play


_BOMB = bytes(2**20) * 300
TRICKS: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda archive: archive[: len(archive) // 2],
    "without its last byte": lambda archive: archive[:-1],
    "without its end": lambda archive: archive[: archive.rfind(_END)],
    "without its table": lambda archive: archive[: archive.find(_CENTRAL)] + archive[-22:],
    "bytes before it": lambda archive: bytes(64) + archive,
    "its start before it": lambda archive: archive[:64] + archive,
    "bytes after it": lambda archive: archive + bytes(64),
    "another archive before it": _concatenated,
    "another archive in its comment": _in_comment,
    "a file that climbs": appended("../../evil"),
    "a file that climbs within": appended("m/../../evil"),
    "a file of an absolute name": appended("/tmp/evil"),
    "a file of a drive": appended("C:/evil"),
    "a file of Windows' separators": _renamed("..\\..\\evil"),
    "a name with a zero": _renamed("m/x\0.pkl"),
    "a name of 60 kB": appended("m/" + "x" * 60_000),
    "a name of a hundred folders": appended("m/" * 100 + "x"),
    "a file twice": _twice,
    "a link": appended("m/link", b"/etc/passwd", external_attr=0o120777 << 16),
    "a device": appended("m/device", b"", external_attr=0o020666 << 16),
    "files that say they are folders": _as_folders,
    "a file with a folder's name": lambda archive: appended("m/data/0/")(rewritten(archive)),
    "an encrypted file": patched(8, "<H", 1),
    "an encrypted file, strongly": patched(8, "<H", 0x41),
    "a file by bzip2": appended("m/x", compress_type=zipfile.ZIP_BZIP2),
    "a file by LZMA": appended("m/x", compress_type=zipfile.ZIP_LZMA),
    "an unknown method": patched(10, "<H", 99),
    "a wrong checksum": patched(16, "<L", 0x1234, last=False),
    "a size that is too large": patched(24, "<L", 10**6),
    "a size of 4 GB": patched(24, "<L", 2**32 - 2),
    "a size that is too small": patched(24, "<L", 1, last=False),
    "a compressed size of 4 GB": patched(20, "<L", 2**32 - 2),
    "a place beyond the file": patched(42, "<L", 2**31),
    "a place in the table": lambda archive: patched(42, "<L", rewritten(archive).find(_CENTRAL))(
        archive
    ),
    "a long name in the file's own header": patched(26, "<H", 60_000, _LOCAL, last=False),
    "another name in the file's own header": lambda archive: rewritten(archive).replace(
        main_file(archive).encode(), b"y" * len(main_file(archive)), 1
    ),
    "more entries than it has": patched(10, "<H", 5000, _END),
    "fewer entries than it has": patched(10, "<H", 1, _END),
    "a table of 4 GB": patched(12, "<L", 2**32 - 2, _END),
    "a table beyond the file": patched(16, "<L", 2**32 - 2, _END),
    "many disks": patched(4, "<H", 3, _END),
    "a large end that claims terabytes": lambda archive: _large_end(archive, 2**42),
    "a large end that claims less": lambda archive: _large_end(archive, -40),
    "files on each other": _overlapping,
    "ten thousand files": _many,
    "a bomb": appended("m/zeros", _BOMB),
    "a bit of the main file": _flipped("main"),
    "a bit of the largest file": _flipped("largest"),
}


def _nested_bomb() -> bytes:
    inner = material.zipped({"zeros": bytes(10**7)})
    for _ in range(5):
        inner = material.zipped({f"{n}.zip": inner for n in range(10)})
    return inner


def _quine() -> bytes:
    """An entry that is the archive around it, as far as the table says."""
    content = bytearray(material.zipped({"m/data.pkl": bytes(50)}, zipfile.ZIP_STORED))
    struct.pack_into("<L", content, content.rfind(_CENTRAL) + 42, 0)
    struct.pack_into("<LL", content, content.rfind(_CENTRAL) + 20, len(content), len(content))
    return bytes(content)


def _lying_deflate() -> bytes:
    """A kilobyte is stated, and fifty megabytes come out."""
    zeros = bytes(50 * 2**20)
    content = material.zipped({"m/data.pkl": zeros})
    crc = struct.pack("<L", zlib.crc32(zeros))
    fixed = content.replace(struct.pack("<L", len(zeros)), struct.pack("<L", 1024))
    return fixed.replace(crc, struct.pack("<L", zlib.crc32(zeros[:1024])))


ALONE: dict[str, Callable[[], bytes]] = {
    "an empty archive": lambda: material.zipped({}),
    "an archive of text": lambda: material.zipped({"read.me": b"hello"}),
    "an archive of folders": lambda: material.zipped({"m/": b"", "m/data.pkl/": b""}),
    "archives in archives": _nested_bomb,
    "an archive in itself": _quine,
    "an archive that unpacks to more than it says": _lying_deflate,
    "an end alone": lambda: _END + bytes(18),
    "an end of a table of 4 GB": lambda: _LOCAL + bytes(100) + _END + b"\xff" * 16 + bytes(2),
    "a start alone": lambda: _LOCAL,
    "many starts": lambda: _LOCAL * 5000,
    "many ends": lambda: _LOCAL + _END * 5000,
    "a name that is no text": lambda: material.zipped({"m/xx": b""}).replace(
        b"m/xx", b"m/\xff\xfe"
    ),
    "both a network and a program": lambda: (
        material.edited(material.state_dict(), lambda _, content: content)[:0]
        + appended("m/constants.pkl")(material.state_dict())
    ),
    "both a network and an export": lambda: appended("m/archive_format")(
        appended("m/models/model.json")(material.state_dict())
    ),
    "both a package and a network": lambda: appended("rdf.yaml", b"type: model")(
        material.state_dict()
    ),
}
