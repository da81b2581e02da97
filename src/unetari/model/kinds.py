"""The kinds of model files, listed without torch."""

from __future__ import annotations

from dataclasses import dataclass

from unetari.model.bundled import SUFFIX


@dataclass(frozen=True)
class Kind:
    """What people need to know of a file format."""

    key: str
    """Its name on the command line and in Python."""
    name: str
    """Its name for people."""
    suffixes: tuple[str, ...]
    """Endings of its files; the first is given to files that are written."""
    keeps: str = ""
    """What a file of this kind holds when it is written, in a few words; empty if none can be."""
    takes_folders: bool = False
    """Whether a folder can be a model of this kind."""
    is_package: bool = False
    """Whether its card must be complete, and a test image, a cover and documentation come along."""

    @property
    def filter(self) -> str:
        """Name and endings as dialogs for files want them."""
        return f"{self.name} ({' '.join(f'*{suffix}' for suffix in self.suffixes)})"


NATIVE = Kind("safetensors", "unetari model", (SUFFIX,), "weights, options and card")
ONNX = Kind("onnx", "ONNX", (".onnx",), "the network as a graph, and the card")
TORCHSCRIPT = Kind(
    "torchscript", "TorchScript", (".ts", ".pt"), "the network as code, and the card"
)
PT2 = Kind("pt2", "PyTorch export", (".pt2",), "the network as a graph, and the card")
STATE_DICT = Kind(
    "state_dict", "PyTorch state_dict", (".pth", ".pt", ".pytorch", ".ckpt"), "weights"
)
BIOIMAGEIO = Kind(
    "bioimageio",
    "BioImage.IO package",
    (".zip", ".yaml"),
    "weights, test image, cover, card and documentation for bioimage.io",
    takes_folders=True,
    is_package=True,
)

KINDS = (NATIVE, BIOIMAGEIO, ONNX, TORCHSCRIPT, PT2, STATE_DICT)
"""All kinds that are opened, the native one first."""


def saved_kinds() -> tuple[Kind, ...]:
    """Return the kinds that models can be saved as.

    Examples
    --------
    >>> [kind.key for kind in saved_kinds()][:2]
    ['safetensors', 'bioimageio']
    """
    return tuple(kind for kind in KINDS if kind.keeps)


def all_suffixes() -> tuple[str, ...]:
    """Return the endings of all model files, each once."""
    return tuple(dict.fromkeys(suffix for kind in KINDS for suffix in kind.suffixes))
