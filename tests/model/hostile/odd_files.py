"""What is no model at all, and names that no file should have."""

from __future__ import annotations

import functools
import gzip
import io
import os
import random
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file

REFUSED = ("that is no UTF-8",)
"""Names of files that are refused whatever is in them."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pytorch", ".ts", ".pt2", ".onnx", ".zip",
            ".yaml", ".bin", "")  # fmt: skip


def cases() -> Iterator[Case]:
    for number, suffix in enumerate(SUFFIXES):
        kind = suffix or "no suffix"
        yield file(f"nothing, {kind}", f"m{suffix}", b"", says="empty")
        yield file(f"a byte, {kind}", f"m{suffix}", bytes([number]))
        noise = random.Random(number).randbytes(3000)
        yield file(f"noise, {kind}", f"m{suffix}", noise)
    for name, content in CONTENTS.items():
        yield file(f"{name}", "m.pt", content)
        yield file(f"{name}, by itself", "m.dat", content)
    for suffix in (".safetensors", ".pt", ".onnx", ".zip", ".yaml"):
        yield Case(f"folder, {suffix}", functools.partial(_folder, f"m{suffix}"))
    for name, make in SPECIAL.items():
        yield Case(name, make)
    for name, filename in NAMES.items():
        yield Case(f"name {name}", functools.partial(_named, filename, lambda: b"no model"))
        yield Case(
            f"name {name}, intact",
            functools.partial(_named, filename, material.native),
            loads=name not in REFUSED,
            like="safetensors: untouched",
        )
        yield Case(
            f"name {name}, weights",
            functools.partial(_named, filename, material.state_dict),
            loads=name not in REFUSED,
            like="pickle: untouched",
        )


def _folder(name: str, folder: Path) -> Path:
    (folder / name).mkdir()
    return folder / name


def named(folder: Path, name: bytes, content: bytes) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    path.write_bytes(content)
    return path


def _named(name: bytes, make: Callable[[], bytes], folder: Path) -> Path:
    return named(folder, name, make())


def _png() -> bytes:
    import imageio.v3 as imageio
    import numpy as np

    written: bytes = imageio.imwrite("<bytes>", np.zeros((8, 8), np.uint8), extension=".png")
    return written


def _tiff() -> bytes:
    import numpy as np
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((8, 8), np.uint16))
    return stream.getvalue()


def _tar(names: tuple[str, ...]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"\x80\x02K."))
    return stream.getvalue()


def _npz() -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.savez(stream, a=np.array([{"a": 1}], dtype=object), b=np.zeros(3))
    return stream.getvalue()


def _objects() -> bytes:
    import numpy as np

    return material.npy(np.array([print], dtype=object))


CONTENTS: dict[str, bytes | Callable[[], bytes]] = {
    "text": b"This is no model.\n" * 100,
    "JSON": b'{"a": 1}' * 10,
    "a web page": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "a script": b"#!/bin/sh\ntouch $CANARY\n",
    "Python": b"import os\nos.system('touch $CANARY')\n",
    "a program": b"\x7fELF\x02\x01\x01" + bytes(200),
    "gzip": gzip.compress(b"x" * 1000),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "PNG": _png,
    "TIFF": _tiff,
    "a tar archive": lambda: _tar(("storages", "tensors", "pickle")),
    "a tar archive that climbs": lambda: _tar(("../../storages", "/tmp/x", "pickle")),
    "numpy archive with objects": _npz,
    "numpy objects": _objects,
    "zeros": bytes(10_000),
    "ones": b"\xff" * 10_000,
}


def _link(folder: Path, target: str | Path) -> Path:
    path = folder / "m.pt"
    path.symlink_to(target)
    return path


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "m.pt")
    return folder / "m.pt"


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(folder)  # paths of sockets are short
        end.bind("m.pt")
        os.chdir(here)
    return folder / "m.pt"


def _locked(folder: Path) -> Path:
    path = folder / "m.pt"
    path.write_bytes(b"no model")
    path.chmod(0)
    return path


def _ring(folder: Path) -> Path:
    (folder / "a.pt").symlink_to("m.pt")
    return _link(folder, "a.pt")


SPECIAL: dict[str, Callable[[Path], Path]] = {
    "link to nothing": lambda folder: _link(folder, "nowhere"),
    "link in a ring": _ring,
    "link to a device": lambda folder: _link(folder, "/dev/zero"),
    "link to a folder": lambda folder: _link(folder, folder),
    "pipe": _pipe,
    "socket": _socket,
    "nothing there": lambda folder: folder / "m.pt",
    "within a file": lambda folder: named(folder, b"m.pt", b"x") / "inner.pt",
    "name that is too long": lambda folder: folder / ("x" * 300 + ".pt"),
    "path that is too long": lambda folder: folder.joinpath(*["x" * 200] * 30, "m.pt"),
    "name with a zero": lambda folder: folder / "m\0.pt",
    "nobody may read it": _locked,
}

NAMES = {
    "that is no UTF-8": b"m\xff\xfe.safetensors",
    "with line breaks": b"m\nTraceback.safetensors",
    "with control characters": b"m\x1b[31m\x07.safetensors",
    "of 255 bytes": b"m" * 243 + b".safetensors",
    "in other scripts": "模型 модель\u202e.safetensors".encode(),
    "with quotes": b"m'\"{0}%s$(touch x)`.safetensors",
    "that begins with a dash": b"--trust.safetensors",
}
