"""BioImage.IO packages whose network is code: run only when it is trusted, and then with care."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file
from tests.model.hostile.package_files import Files, described
from tests.model.hostile.pickle_files import CALLS, archive, pickled

UNTRUSTED = "only if you trust it"


def cases() -> Iterator[Case]:
    for name, (entry, files, trust) in CODE.items():
        says = "" if trust else UNTRUSTED
        full_name = name + " (trusted)" * trust
        yield file(full_name, "m.zip", _package, entry, files, trust=trust, says=says)


def _package(entry: Callable[[], dict[str, Any]], files: Callable[[], Files]) -> bytes:
    return described(lambda d: d.update(weights=entry()), files())


def _source(code: bytes, name: str = "Network") -> Callable[[], dict[str, Any]]:
    digest = hashlib.sha256(code).hexdigest()
    architecture = {"callable": name, "source": "network.py", "sha256": digest, "kwargs": {}}
    return lambda: _state_dict(architecture)


def _state_dict(architecture: dict[str, Any]) -> dict[str, Any]:
    entry = {"source": "weights.pt", "pytorch_version": "2.0", "architecture": architecture}
    return {"pytorch_state_dict": entry}


def _library(name: str, function: str = "Network") -> Callable[[], dict[str, Any]]:
    return lambda: _state_dict({"callable": function, "import_from": name, "kwargs": {}})


def _convolution() -> bytes:
    return material.torch_file(dict(material.network().state_dict()))


def _files(code: bytes, weights: Callable[[], bytes] = _convolution) -> Callable[[], Files]:
    return lambda: {"network.py": code, "weights.pt": weights()}


_TOUCH = b"open(__import__('os').environ['CANARY'], 'w').close()\n"
_GOOD = b"from torch import nn\ndef Network():\n    return nn.Conv2d(1, 2, 3, padding=1)\n"
_PIECES: dict[str, tuple[bytes, Callable[[], bytes]]] = {
    "that fails": (b"raise ValueError('\x1b[2J')\n", _convolution),
    "that exits": (b"raise SystemExit(3)\n", _convolution),
    "that exits when it is called": (b"import sys\ndef Network():\n    sys.exit()\n", _convolution),
    "that is no Python": (b"def Network(:\n", _convolution),
    "that is no text": (b"\xff\xfe\x00", _convolution),
    "of brackets": (b"x = " + b"(" * 5000, _convolution),
    "without the network": (b"x = 1\n", _convolution),
    "that makes nothing": (b"def Network():\n    return None\n", _convolution),
    "that makes a class": (b"from torch import nn\nNetwork = lambda: nn.Conv2d\n", _convolution),
    "that wants arguments": (b"def Network(a, b):\n    return a\n", _convolution),
    "that has no end of itself": (b"def Network():\n    return Network()\n", _convolution),
    "of other weights": (_GOOD, material.state_dict),
    "of weights that are code": (_GOOD, lambda: archive(pickled({"w": CALLS["os.system"]}))),
    "of weights that are cut": (_GOOD, lambda: _convolution()[:300]),
    "that imports what is missing": (b"import no_such_library\n", _convolution),
}
CODE: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], Files], bool]] = {
    "that is not trusted": (_source(_TOUCH + _GOOD), _files(_TOUCH + _GOOD), False),
    "of a library that is not trusted": (_library("antigravity"), _files(b""), False),
    "of a library with dots": (_library("os.path", "system"), _files(b""), False),
    "of a library that is missing": (_library("no_such_library"), _files(b""), True),
    "of a function that is missing": (_library("torch.nn", "Evil"), _files(b""), True),
    "of a function that makes no network": (_library("os", "getcwd"), _files(b""), True),
    "TorchScript that is not trusted": (
        lambda: {"torchscript": {"source": "m.pt", "pytorch_version": "2.0"}},
        lambda: {"m.pt": material.script()},
        False,
    ),
    "TorchScript that is cut": (
        lambda: {"torchscript": {"source": "m.pt", "pytorch_version": "2.0"}},
        lambda: {"m.pt": material.script()[:-700]},
        True,
    ),
    **{
        name: (_source(code), _files(code, weights), True)
        for name, (code, weights) in _PIECES.items()
    },
}
