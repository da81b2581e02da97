"""What pickles ask for, read off their opcodes without running any of them."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from unetari.errors import ModelFileError
from unetari.model.formats.archives import read_entry

_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "QUInt8Storage": 1,
    "QInt8Storage": 1,
    "QInt32Storage": 4,
    "UntypedStorage": 1,
}
_FOLDERS = {"data.pkl": "data", "constants.pkl": "constants"}
"""Pickles of torch's archives, and where the values of their tensors lie."""
_LONGEST_NAME = 200
_PICKLES, _CONTENT = 5, 3  # of which a file consists that is no archive; the one with the tensors
_UNUSUAL = (
    "It names its tensors in a way that torch does not write. Save the weights again with "
    "torch.save(model.state_dict(), path)."
)
_MOST_BYTES = 2**28  # of one pickle: weights of any network need far less


_SYSTEM = frozenset({
    "os", "posix", "nt", "subprocess", "_posixsubprocess", "pty", "shutil", "socket", "ctypes",
    "runpy", "importlib", "commands", "webbrowser", "code", "timeit", "pdb", "bdb",
})  # fmt: skip
_BUILTINS = frozenset({"builtins", "__builtin__"})
_RUNNERS = frozenset({"eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint"})


class Global(NamedTuple):
    """A name that a pickle imports."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def runs_code(name: str) -> bool:
    """Whether what a pickle imports is good for nothing but to run code, or to reach files.

    Examples
    --------
    >>> runs_code("posix.system"), runs_code("argparse.Namespace")
    (True, False)
    """
    root, _, rest = name.partition(".")
    if root in _BUILTINS:
        return rest.partition(".")[0] in _RUNNERS
    return root in _SYSTEM


def find_globals(stream: BinaryIO) -> Iterator[Global]:
    """Yield the names that pickles of any protocol import, as far as they can be read.

    torch's files from before it wrote archives are several pickles.
    """
    for _ in range(_PICKLES):
        for opcode, value in _steps(stream):
            if isinstance(value, Global) and opcode in _IMPORTS:
                yield value


def check_legacy(stream: BinaryIO) -> None:
    """Refuse a file of several pickles whose tensors are not all stored.

    torch makes room for every tensor that the fourth pickle names, and fills
    those that the fifth lists: what is not listed stays what the memory held.

    Raises
    ------
    ModelFileError
        Naming the tensor.
    """
    named: set[str] = set()
    stored: set[str] = set()
    for number in range(_PICKLES):
        for opcode, value in _steps(stream):
            _check_name(opcode, value)
            if number == _CONTENT and opcode == "BINPERSID":
                named |= _legacy_key(value)
            elif number > _CONTENT and isinstance(value, str):
                stored.add(value)
    if named - stored:
        raise ModelFileError(
            f"The values of its tensor {min(named - stored)[:80]!r} are not in the file. Copy or "
            "download it again."
        )


def _legacy_key(value: Any) -> set[str]:
    match value:
        case ("storage", Global(), str(key), _, int(), _):
            return {key}
        case ("module", *_):  # whose class torch refuses
            return set()
        case _:
            raise ModelFileError(_UNUSUAL)


def _check_name(opcode: str, value: Any) -> None:
    """Refuse names that nobody has: torch searches them with slow patterns."""
    if isinstance(value, Global) and opcode in _IMPORTS and len(str(value)) > _LONGEST_NAME:
        raise ModelFileError(
            f"It asks for {str(value)[:40]!r}..., a name of {len(str(value)):,} characters, as "
            "plain weights never do. Copy or download the file again."
        )


def check_storages(archive: zipfile.ZipFile) -> None:
    """Refuse an archive of torch whose tensors claim more values than are stored.

    Not every torch compares the two: what lies in memory behind the values
    would be taken for weights, or reading it end the process.

    Raises
    ------
    ModelFileError
        Naming the tensor's file.
    """
    sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
    for entry in archive.infolist():
        folder = _FOLDERS.get(entry.filename.partition("/")[2])
        if folder is None:
            continue
        if entry.file_size > _MOST_BYTES:
            raise ModelFileError(
                f"Its list of tensors has {entry.file_size:,} bytes, and at most {_MOST_BYTES:,} "
                "are read. Save the weights alone."
            )
        content = read_entry(archive, entry.filename)
        opcode = ""
        for opcode, value in _steps(io.BytesIO(content)):
            _check_name(opcode, value)
            if opcode == "BINPERSID":
                _check_storage(value, folder, sizes)
        if opcode != "STOP":
            raise ModelFileError(
                "Its list of tensors is damaged, or no pickle. Copy or download the file again."
            )


def _check_storage(value: Any, folder: str, sizes: Mapping[str, int]) -> None:
    match value:
        case ("storage", Global(_, kind), str(key), _, int(count)) if kind in _BYTES:
            name, claimed = f"{folder}/{key}", count * _BYTES[kind]
        case _:
            raise ModelFileError(_UNUSUAL)
    if claimed and not 0 <= claimed <= sizes.get(name, -1):
        stored = f"{sizes[name]:,} are stored" if name in sizes else "the file lacks them"
        raise ModelFileError(
            f"Its tensor {name[:80]!r} claims {claimed:,} bytes, and {stored}. Copy or download "
            "the file again."
        )


# --- a pickle's stack, without what it builds ---------------------------------------------------

_MARK, _UNKNOWN = object(), object()
_CONSTANTS = frozenset({
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING",
})  # fmt: skip
_TUPLES = frozenset({"TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST"})


def _steps(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield every opcode with the value that it takes or makes, up to what cannot be read."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode.name, _step(opcode, argument, stack, memo)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError):
        return  # damaged: whoever runs it reports that


def _step(opcode: Any, argument: Any, stack: list[Any], memo: dict[int, Any]) -> Any:
    """Do to the stack what an opcode does, with unknown values for all but texts and numbers."""
    name = opcode.name
    if name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
        return None
    if name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
        return None
    if name == "DUP":
        stack.append(stack[-1])
        return None
    taken = _take(opcode, stack)
    if opcode.stack_after:
        stack.append(_made(name, argument, taken, memo))
        return taken[0] if name == "BINPERSID" else stack[-1]
    return None


def _take(opcode: Any, stack: list[Any]) -> list[Any]:
    """Take what an opcode takes from the stack: some values, and those above the last mark."""
    before = [part.name for part in opcode.stack_before]
    taken: list[Any] = []
    if "mark" in before:
        while (value := stack.pop()) is not _MARK:
            taken.append(value)
        before = before[: before.index("mark")]
    for _ in before:
        taken.append(stack.pop())
    return taken[::-1]


def _made(name: str, argument: Any, taken: list[Any], memo: Mapping[int, Any]) -> Any:
    if name == "MARK":
        return _MARK
    if name in _CONSTANTS:
        return argument
    if name in ("GET", "BINGET", "LONG_BINGET"):
        return memo[argument]
    if name in _TUPLES:
        return tuple(taken)
    if name == "STACK_GLOBAL":
        return Global(*(part if isinstance(part, str) else "?" for part in taken))
    if name in _IMPORTS:
        return Global(*str(argument).split(" ", 1))
    return _UNKNOWN
