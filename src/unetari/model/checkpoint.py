"""`Model`: a network with its description; loading and saving."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from unetari.core.config import UNetConfig
from unetari.core.files import hash_file
from unetari.core.network import NetworkConfig
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ModelFileError, UntrustedModelError
from unetari.model.attachments import Attachments
from unetari.model.bundled import bundled_file, bundled_models
from unetari.model.files import check_finite, check_target, target_path, whole_file
from unetari.model.formats import find_format, native
from unetari.model.formats.base import ASSUMED_INTENSITIES
from unetari.model.kinds import NATIVE
from unetari.model.library import Library
from unetari.model.library_entry import Entry, could_be_name
from unetari.model.summary import check_weights_fit
from unetari.model.unet import Initializer, UNet
from unetari.model.weights import LoadOptions

__all__ = ["Model", "bundled_models", "load_model", "save_model"]

_LONGEST = 2000  # characters of an error
_MOST_NAMES = 20


@dataclass(frozen=True, eq=False)
class Model:
    """A network and everything a prediction needs to know about it."""

    network: nn.Module
    """The network, in evaluation mode after loading; a `UNet`, or another one whose `spec.config`
    is a `ForeignConfig`. Maps (N, C, [Z,] Y, X) to (N, channels, [Z,] Y, X)."""
    spec: ModelSpec
    """Options, intensity normalization, class names, model card."""
    source: str
    """The file, the bundled or kept name, or "built in memory"."""
    sha256: str
    """Hash of the file; built in memory: of the file that saving would write."""
    notes: tuple[str, ...] = ()
    """What was assumed about the model, a sentence each."""
    attachments: Attachments = field(default_factory=Attachments)
    """Of a model that came in a package: what else is in it, for another package."""
    kind: str = ""
    """Key of the file's kind, see `unetari.model.kinds`; empty if built in memory."""

    def __post_init__(self) -> None:
        config = getattr(self.network, "config", None)
        if isinstance(self.spec.config, UNetConfig) and config != self.spec.config:
            raise ConfigError(
                f"The network is {self.network!r}, and its spec describes {self.spec.config!r}. "
                "Give the spec the network's own config."
            )

    @classmethod
    def build(
        cls,
        config: UNetConfig | None = None,
        *,
        normalization: Normalization | None = None,
        class_names: tuple[str, ...] = (),
        initializer: Initializer = "xavier_uniform",
        seed: int | None = None,
    ) -> Self:
        """Build an untrained model.

        Parameters
        ----------
        config : UNetConfig, optional
            Options of the network.
        normalization : Normalization, optional
            How intensities are mapped before they reach the network.
        class_names : tuple of str
            One name per label, background first; empty for default names.
        initializer : str
            How weights are drawn, see `UNet`.
        seed : int, optional
            Makes the weights repeatable; torch's own random state stays as it is.

        Raises
        ------
        OutOfMemoryError
            If the weights are too many for this machine.

        Examples
        --------
        >>> model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
        >>> model.notes
        ('The model is untrained: its weights are random.',)
        """
        config = config or UNetConfig()
        check_weights_fit(config)
        spec = ModelSpec(
            config=config,
            normalization=normalization or Normalization(),
            class_names=class_names,
        )
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                # Unlike torch.manual_seed, this leaves the generators of GPUs alone.
                torch.default_generator.manual_seed(seed)
            network = UNet(config, initializer=initializer).eval()
        notes = ("The model is untrained: its weights are random.",)
        return cls.from_network(network, spec, notes=notes)

    @classmethod
    def from_network(
        cls,
        network: UNet,
        spec: ModelSpec,
        *,
        source: str = "built in memory",
        notes: tuple[str, ...] = (),
    ) -> Self:
        """Describe a network that exists in memory; its weights are hashed as they are now."""
        digest = hashlib.sha256(native.dump(network, spec)).hexdigest()
        return cls(network, spec, source, digest, notes)

    @property
    def config(self) -> NetworkConfig:
        """Options of the network."""
        return self.spec.config

    def replace(self, **changes: Any) -> Self:
        """Return a model with the same network and some fields of its spec changed."""
        spec = self.spec.replace(**changes)
        if not isinstance(self.network, UNet):
            return dataclasses.replace(self, spec=spec)
        changed = self.from_network(self.network, spec, source=self.source, notes=self.notes)
        return dataclasses.replace(changed, attachments=self.attachments, kind=self.kind)


def load_model(
    path_or_name: str | os.PathLike[str], *, trust: bool = False, **options: Any
) -> Model:
    """Load a model from a file, or a bundled or kept one by its name.

    docs/formats.md lists the kinds of files. No file runs code by being
    loaded, unless it is a program and you say that you trust it.

    Parameters
    ----------
    path_or_name : str or path-like
        A file, or a name: of `bundled_models`, which come first, or of a model
        in the library, which come before files.
    trust : bool
        Whether the file may run code. Needed for programs (TorchScript,
        torch.export); remembered for files of this content while Python runs.
    **options
        What the file cannot tell, see `unetari.model.weights.LoadOptions`:
        of bare weights `activation`, `conv_mode`, `up_mode` and
        `normalization` (feature normalization as text, or a `Normalization`
        for intensities), of programs `dim`, `in_channels`, `classes` and
        `output`; `class_names`. Kept models have those they were kept with.

    Returns
    -------
    Model
        On the CPU, in evaluation mode. Its `notes` say what was assumed.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, unsafe or of another architecture.
    UntrustedModelError
        If the file could run code, and `trust` is false.
    MissingExtraError
        If the format needs a package that is not installed.
    ConfigError
        If an option is unknown or contradicts the file, or a network is given instead of a path.

    Examples
    --------
    >>> model = load_model("nuclei-2d")
    >>> model.config.dim, model.spec.labels
    (2, ('background', 'nucleus'))
    """
    if not isinstance(path_or_name, str | os.PathLike):
        raise refuse_value(path_or_name, "a path or the name of a model")
    name = os.fspath(path_or_name)
    if not name:
        raise ModelFileError(f"The name of the model is empty. Give a file; {_list_names()}.")
    kept = None if bundled_file(name) is not None else _find_kept(name)
    told = kept.options if kept is not None else {}
    given = LoadOptions(**{**told, **options, "trust": trust})
    try:
        with _locate(name, kept) as path:
            file_format = find_format(path)
            loaded = file_format.load(path, given)
            digest = loaded.sha256 or (hash_file(path) if kept is None else kept.sha256)
    except UntrustedModelError:
        raise  # it names the file
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {_shortened(str(error))}") from error
    except OSError as error:
        raise ModelFileError(
            f"{name}: It cannot be read ({error.strerror or error}). "
            "Check the file and its permissions."
        ) from error
    kind = file_format.KIND.key
    model = Model(loaded.network, loaded.spec, name, digest, loaded.notes, loaded.attachments, kind)
    if kept is None or kept.intensities is None or "normalization" in given.spec:
        return model
    return with_intensities(model, kept.intensities)


def with_intensities(model: Model, intensities: Normalization) -> Model:
    """Return a model with another normalization of intensities; it remains that of its file."""
    notes = tuple(note for note in model.notes if not note.startswith(ASSUMED_INTENSITIES))
    spec = model.spec.replace(normalization=intensities)
    return dataclasses.replace(model, spec=spec, notes=notes)


def _shortened(message: str) -> str:
    """Return a message as far as people read it; what it quotes may be as long as a file."""
    half = _LONGEST // 2
    return message if len(message) <= _LONGEST else f"{message[:half]} ... {message[-half:]}"


def save_model(model: Model, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a model as one .safetensors file.

    The file appears complete or not at all, and equal models give equal files.

    Parameters
    ----------
    model : Model
        The model; it is not changed.
    path : str or path-like
        The file. The suffix .safetensors is added if there is none.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    OutputExistsError
        If the file exists and `overwrite` is false.
    ModelFileError
        If weights are not finite or the file cannot be written.
    ConfigError
        If `model` is no `Model`, such as a bare network.

    Examples
    --------
    >>> import tempfile
    >>> model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
    >>> path = save_model(model, Path(tempfile.mkdtemp()) / "mine")
    >>> path.name, load_model(path).config == model.config
    ('mine.safetensors', True)
    """
    if not isinstance(model, Model):
        raise refuse_value(model, "a Model")
    path = check_target(Path(path), NATIVE, overwrite=overwrite)
    if not isinstance(model.network, UNet):
        raise ModelFileError(f"{path}: {native.ONLY_OURS}")
    check_finite(model.network, path)
    with whole_file(path) as temporary:
        native.save(model.network, model.spec, temporary)
    return path


def model_path(path: Path) -> Path:
    """Return where a model is saved: the path, with the suffix .safetensors if it has none.

    Raises
    ------
    ModelFileError
        If the path has another suffix, or is a folder.
    """
    return target_path(path, NATIVE)


def refuse_value(value: object, expected: str) -> ConfigError:
    """Return the error for a value in the place of a model, which says how to make one of it."""
    if isinstance(value, torch.nn.Module):
        return ConfigError(
            f"model is a bare {type(value).__name__}, and must be a Model, which also knows "
            "intensities and class names. Make one of a network by Model.from_network(network, "
            "ModelSpec(config=network.config)), or a new one by Model.build(config)."
        )
    return ConfigError(
        f"model is {repr(value)[:80]}, and must be {expected}. "
        "Models come from load_model(path) and Model.build(config)."
    )


def is_name(path_or_name: str) -> bool:
    """Whether `load_model` takes this as the name of a bundled or kept model, and as no path."""
    return bundled_file(path_or_name) is not None or _find_kept(path_or_name) is not None


def _find_kept(name: str) -> Entry | None:
    return Library.default().find(name) if could_be_name(name) else None


@contextmanager
def _locate(path_or_name: str, kept: Entry | None) -> Iterator[Path]:
    """Yield the file that a name or a path stands for, once it is worth opening."""
    bundled = bundled_file(path_or_name)
    if bundled is not None:
        with as_file(bundled) as path:
            yield path
        return
    if kept is not None:
        library = Library.default()
        problem = library.check(kept)
        if problem is not None:
            raise ModelFileError(problem)
        yield library.file_of(kept)
        return
    path = Path(path_or_name).expanduser()
    _check_path(path)
    yield path


def _check_path(path: Path) -> None:
    """Refuse what is not worth opening."""
    if not _is_text(path):
        raise ModelFileError(
            "Its name, or a folder's on the way to it, is not valid UTF-8, and not every library "
            "that reads models can open it. Rename it."
        )
    if not path.exists():
        raise ModelFileError(
            "There is no such file, and no bundled or kept model of that name. "
            f"Check the spelling; {_list_names()}."
        )
    if path.is_dir():
        return
    if not path.is_file():  # opening a pipe would wait for somebody to write into it
        raise ModelFileError("It is a device, pipe or socket, not a file. Choose a model file.")
    if path.stat().st_size == 0:
        raise ModelFileError("The file is empty. Copy or download it again.")


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_names() -> str:
    names = ", ".join(bundled_models()) or "none"
    kept = ", ".join(entry.name for entry in Library.default().read().kept[:_MOST_NAMES])
    return f"bundled models: {names}" + (f"; kept models: {kept}" if kept else "")
