"""Pickles that run code, and weights that cannot be."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file

TOUCH = 'touch "$CANARY"'
PYTHON = "import os; open(os.environ['CANARY'], 'w').close()"
RUNS = "would run code|cannot read it|plain weights never do"


class Call:
    """Is unpickled by calling a function."""

    def __init__(self, function: str, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return _Name(self.function), self.arguments


class _Name:
    """Is pickled as an import, whether or not it is there."""

    def __init__(self, function: str) -> None:
        self.function = function

    def __call__(self) -> None:
        """Pickle asks for something that can be called."""


_InPython: Any = pickle._Pickler  # whose parts can be replaced


class _Pickler(_InPython):  # type: ignore[misc]
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Name):
            module, _, name = obj.function.rpartition(".")
            self.write(b"c" + f"{module}\n{name}\n".encode())
        elif isinstance(obj, Raw):
            self.write(obj.content)
        else:
            super().save(obj, save_persistent_id)


class Raw:
    """Opcodes that stand for a value."""

    def __init__(self, content: bytes) -> None:
        self.content = content


def pickled(value: object, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def archive(content: bytes, data: Mapping[str, bytes] | None = None, **more: bytes) -> bytes:
    """What torch.save would write, of any pickle and any values of tensors."""
    files = {"data.pkl": content, "version": b"3\n", "byteorder": b"little", **more}
    files |= {f"data/{key}": value for key, value in (data or {}).items()}
    return material.zipped({f"m/{n}": c for n, c in files.items()}, zipfile.ZIP_STORED)


def _archived(value: object) -> bytes:
    return archive(pickled(value))


CALLS: dict[str, Call] = {
    "os.system": Call("os.system", TOUCH),
    "posix.system": Call("posix.system", TOUCH),
    "subprocess": Call("subprocess.Popen", ["touch", "canary"]),
    "subprocess.call": Call("subprocess.call", TOUCH),
    "pty": Call("pty.spawn", ["touch", "canary"]),
    "eval": Call("builtins.eval", f"exec({PYTHON!r})"),
    "exec": Call("builtins.exec", PYTHON),
    "exec of Python 2": Call("__builtin__.exec", PYTHON),
    "compile": Call("builtins.compile", PYTHON, "x", "exec"),
    "open": Call("builtins.open", "canary", "w"),
    "open of io": Call("io.open", "canary", "w"),
    "getattr": Call("builtins.getattr", Call("builtins.__import__", "os"), "system"),
    "import": Call("importlib.import_module", "antigravity"),
    "runpy": Call("runpy._run_code", PYTHON, {}),
    "code": Call("code.InteractiveInterpreter.runcode", PYTHON),
    "operator": Call("operator.methodcaller", "system", TOUCH),
    "functools": Call("functools.partial", Call("os.system", TOUCH)),
    "webbrowser": Call("webbrowser.open", "http://localhost:1"),
    "urllib": Call("urllib.request.urlopen", "http://localhost:1"),
    "shutil": Call("shutil.rmtree", "canary"),
    "ctypes": Call("ctypes.CDLL", "libevil.so"),
    "pathlib": Call("pathlib.Path.touch", "canary"),
    "pickle": Call("pickle.loads", pickle.dumps(0)),
    "numpy": Call("numpy.load", "canary.npy", None, True),
    "numpy.testing": Call("numpy.testing._private.utils.runstring", PYTHON, {}),
    "torch.load": Call("torch.load", "m.pt"),
    "torch.jit.load": Call("torch.jit.load", "m.pt"),
    "torch.hub": Call("torch.hub.load", "a/b", "c"),
    "torch.utils.cpp_extension": Call("torch.utils.cpp_extension.load", "x", []),
    "torch private": Call("torch._C._jit_set_profiling_mode", True),
    "torch module": Call("torch.nn.modules.module.Module"),
    "copyreg": Call("copyreg._reconstructor", Call("os.system", TOUCH), object, None),
    "types": Call("types.FunctionType", Call("builtins.compile", PYTHON, "x", "exec"), {}),
    "pandas": Call("pandas.read_pickle", "canary"),
    "dill": Call("dill._dill._create_code", PYTHON),
    "a name of a megabyte": Call("os." + "x" * 2**20),
}


def cases() -> Iterator[Case]:
    for name, call in CALLS.items():
        yield file(f"{name} in an archive", "m.pt", _archived, {"weights": call}, says=RUNS)
        yield file(f"{name} alone", "m.pth", pickled, call, says=RUNS)
    system = CALLS["os.system"]
    for protocol in range(6):
        yield file(f"protocol {protocol}", "m.pt", pickled, system, protocol, says=RUNS)
    for name, content in OPCODES.items():
        yield file(f"{name}, alone", "m.pt", content)
        yield file(f"{name}, in an archive", "m.pt", lambda old: archive(value(old)), content)
    for name, make in STORAGES.items():
        yield file(f"tensor, {name}", "m.pt", make)
    for name, make in LEGACY.items():
        yield file(f"legacy, {name}", "m.pt", make)
    for name, make in HARMLESS.items():
        like = "pickle: untouched"
        yield file(name, "m.pt", make, loads=True, like="" if name == "untouched" else like)


# --- opcodes ------------------------------------------------------------------------------------


def value(content: bytes | Callable[[], bytes]) -> bytes:
    return content if isinstance(content, bytes) else content()


def _laughs() -> bytes:
    found: Any = ["ha"] * 10
    for _ in range(60):
        found = [found] * 10
    return pickle.dumps({"a": found}, 2)


def _tuples() -> bytes:
    return b"\x80\x02)" + b"\x85" * 200_000 + b"."


def _itself() -> bytes:
    found: dict[str, Any] = {}
    found["state_dict"] = found
    return pickle.dumps(found, 2)


OPCODES: dict[str, bytes | Callable[[], bytes]] = {
    "start alone": b"\x80\x02",
    "protocol 255": b"\x80\xff}.",
    "no stop": b"\x80\x02}",
    "empty stack": b"\x80\x02.",
    "mark missing": b"\x80\x02}u.",
    "memo missing": b"\x80\x02h\x05.",
    "memo of 2**31": b"\x80\x02}r\xff\xff\xff\x7f.",
    "laughs": _laughs,
    "tuples in tuples": _tuples,
    "lists in lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "holds itself": _itself,
    "text of terabytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**42) + b"x.",
    "text of 2**63": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "text of 4 GB": b"\x80\x02X" + struct.pack("<L", 2**32 - 1) + b"x.",
    "bytes of terabytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**42) + b"x.",
    "array of terabytes": b"\x80\x05\x96" + struct.pack("<Q", 2**42) + b"x.",
    "frame of terabytes": b"\x80\x04\x95" + struct.pack("<Q", 2**42) + b"}.",
    "number of 2 GB": b"\x80\x02\x8b" + struct.pack("<l", 2**31 - 1) + b"\x01.",
    "number of negative length": b"\x80\x02\x8b" + struct.pack("<l", -1) + b"\x01.",
    "number as text": b"\x80\x02I" + b"9" * 100_000 + b"\n.",
    "old instance": b"\x80\x02(S'" + TOUCH.encode() + b"'\nios\nsystem\n.",
    "old object": b"\x80\x02(cos\nsystem\nS'" + TOUCH.encode() + b"'\no.",
    "import by stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent text": b"\x80\x02Pos.system\n.",
    "persistent number": b"\x80\x02K\x05Q.",
    "persistent list": b"\x80\x02]Q.",
    "persistent module": b"\x80\x02(X\x06\x00\x00\x00moduleccollections\nOrderedDict\n"
    b"X\x01\x00\x00\x00aX\x01\x00\x00\x00btQ.",
    "new object": b"\x80\x02cos\nsystem\nS'true'\n\x85\x81.",
    "build of a dictionary": b"\x80\x02}}X\x01\x00\x00\x00aX\x01\x00\x00\x00bsb.",
    "name with dots": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.",
    "not hashable": b"\x80\x02}]K\x01s.",
    "unknown opcode": b"\x80\x02\xff.",
    "two pickles": b"\x80\x02}.\x80\x02}.",
    "none": b"\x80\x02N.",
    "a number": b"\x80\x02K\x05.",
    "an empty dictionary": b"\x80\x02}.",
    "dictionary of numbers": b"\x80\x02}K\x01K\x02s.",
    "broken text": b"\x80\x02}X\x02\x00\x00\x00\xff\xfeK\x02s.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "deleted values": b"\x80\x02}0.",
    "a pickle within": pickle.dumps({"a": pickle.dumps(1)}, 2),
}


# --- tensors that lie ---------------------------------------------------------------------------


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<L", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


def tensor(
    size: tuple[int, ...] = (4, 1, 3, 3),
    stride: tuple[int, ...] = (9, 9, 3, 1),
    *,
    count: int = 36,
    offset: int = 0,
    key: str = "0",
    kind: str = "torch\nFloatStorage",
    place: str = "cpu",
) -> Raw:
    """A tensor as torch.save writes it."""
    storage = b"(" + _text("storage") + f"c{kind}\n".encode() + _text(key) + _text(place)
    storage += _number(count) + b"tQ"
    numbers = b"(" + b"".join(map(_number, size)) + b"t(" + b"".join(map(_number, stride)) + b"t"
    content = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(offset) + numbers
    return Raw(content + b"\x89ccollections\nOrderedDict\n)RtR")


def lying(data: bytes | None = None, **changes: Any) -> Callable[[], bytes]:
    """Weights of which the first tensor is not what it says."""
    values = {"0": bytes(144) if data is None else data}
    return lambda: archive(
        pickled({"down_blocks.0.conv1.weight": tensor(**changes)}), values | _padding()
    )


def _padding() -> dict[str, bytes]:
    return {"padding": bytes(100_000)}  # so that the file is larger than what is claimed


STORAGES: dict[str, Callable[[], bytes]] = {
    "more values than are stored": lying(count=20_000, size=(20_000,), stride=(1,)),
    "one value too many": lying(count=37),
    "terabytes": lying(count=2**40, size=(2**40,), stride=(1,)),
    "2**62 values": lying(count=2**62),
    "values whose bytes overflow": lying(count=2**64 + 36),
    "negative values": lying(count=-36),
    "no values stored": lying(data=b""),
    "half of the values": lying(data=bytes(72)),
    "a file that is not there": lying(key="9"),
    "a file that climbs": lying(key="../../version"),
    "a file outside": lying(key="/etc/passwd"),
    "a folder": lambda: archive(pickled({"w": tensor(key="0/")}), {"0/": bytes(144)}),
    "a shape beyond its values": lying(size=(400, 1, 3, 3)),
    "a shape of terabytes": lying(size=(2**20, 2**20, 1, 1), stride=(0, 0, 0, 0)),
    "a shape whose product overflows": lying(size=(2**31, 2**31, 2**31, 1)),
    "negative sizes": lying(size=(-4, 1, 3, 3)),
    "negative strides": lying(stride=(-9, 9, 3, 1)),
    "strides beyond its values": lying(stride=(10**12, 9, 3, 1)),
    "an offset beyond its values": lying(offset=36),
    "a negative offset": lying(offset=-36),
    "a huge offset": lying(offset=2**62),
    "more strides than sizes": lying(stride=(9, 9, 3, 1, 1)),
    "a thousand axes": lying(size=(1,) * 1000, stride=(1,) * 1000),
    "an unknown type": lying(kind="torch\nEvilStorage"),
    "a type that is code": lying(kind="os\nsystem"),
    "a type from elsewhere": lying(kind="collections\nOrderedDict"),
    "bytes without type": lying(kind="torch.storage\nUntypedStorage"),
    "numbers of 16 bytes": lying(kind="torch\nComplexDoubleStorage"),
    "byte order that is unknown": lambda: archive(
        pickled({"w": tensor()}), {"0": bytes(144)}, byteorder=b"middle"
    ),
    "byte order of big machines, and more values than are stored": lambda: archive(
        pickled({"w": tensor(count=20_000)}), {"0": bytes(144)} | _padding(), byteorder=b"big"
    ),
    "alignment that is no number": lambda: archive(
        pickled({"w": tensor()}), {"0": bytes(144)}, **{".storage_alignment": b"x" * 100}
    ),
    "version that is no number": lambda: archive(
        pickled({"w": tensor()}), {"0": bytes(144)}, version=b"x"
    ),
    "version from the future": lambda: archive(
        pickled({"w": tensor()}), {"0": bytes(144)}, version=b"999999999999999"
    ),
    "a pickle of nothing": lambda: archive(b""),
    "no pickle": lambda: material.replaced(material.state_dict(), "data.pkl", None),
    "no values": lambda: material.replaced(material.state_dict(), "data/0", None),
    "values by a list of one": lambda: archive(
        b"\x80\x02}" + _text("w") + b"](" + tensor().content.split(b"(", 2)[2] + b"."
    ),
}


# --- the format before archives -----------------------------------------------------------------


def _legacy(content: bytes, rest: bytes = b"") -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return magic + pickle.dumps({"little_endian": True}, 2) + content + rest


def _legacy_tensor(count: int, keys: object = ("0",), values: bytes = b"") -> bytes:
    """A tensor whose storage is stated with six values, the last of them a view."""
    made = tensor(count=count).content.replace(_number(count) + b"tQ", _number(count) + b"NtQ")
    return _legacy(pickled({"w": Raw(made)}), pickle.dumps(list(keys), 2) + values)  # type: ignore[call-overload]


def _unlisted(names: list[str]) -> bytes:
    """Weights of which torch fills none, or other ones, and many bytes that are not used."""
    content = material.legacy()
    stream = io.BytesIO(content)
    for _ in range(4):
        pickletools.dis(stream, out=io.StringIO())
    return content[: stream.tell()] + pickle.dumps(names, 2) + bytes(100_000)


LEGACY: dict[str, Callable[[], bytes]] = {
    "magic number alone": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2),
    "wrong protocol": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2),
    "no content": lambda: _legacy(b""),
    "values that are not listed": lambda: _unlisted([]),
    "values of other names": lambda: _unlisted(["0", "1"]),
    "code": lambda: _legacy(pickled({"a": CALLS["os.system"]})),
    "code in the machine's options": lambda: (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickled(CALLS["exec"])
    ),
    "no values": lambda: _legacy_tensor(36),
    "values of terabytes": lambda: _legacy_tensor(2**40, values=struct.pack("<q", 2**40)),
    "fewer values than claimed": lambda: _legacy_tensor(
        2**28, values=struct.pack("<q", 2**28) + bytes(100)
    ),
    "negative values": lambda: _legacy_tensor(-36),
    "values of another tensor": lambda: _legacy_tensor(36, keys=("7",)),
    "keys that are code": lambda: _legacy(pickled({"w": 1}), pickled(CALLS["os.system"])),
    "source of a module": lambda: _legacy(
        b"\x80\x02("
        + _text("module")
        + b"ccollections\nOrderedDict\n"
        + _text(os.devnull)
        + _text("x = 1")
        + b"tQ."
    ),
    "half of it": lambda: material.legacy()[: len(material.legacy()) // 2],
    "without its last byte": lambda: material.legacy()[:-1],
}


def _view() -> Any:
    import torch

    return torch.zeros(10)[2:4]


def _checkpoint() -> Any:
    return {"epoch": 3, "state_dict": OrderedDict(material.weights()), "loss": 0.5}


HARMLESS: dict[str, Callable[[], bytes]] = {
    "untouched": material.state_dict,
    "untouched, legacy": material.legacy,
    "bytes after the end, legacy": lambda: material.legacy() + b"more",
    "a checkpoint": lambda: material.torch_file(_checkpoint()),
    "a tensor beside that is a view": lambda: material.torch_file(
        {"state_dict": material.weights(), "optimizer": {"step": _view()}}
    ),
}
