"""What the description of a package says, as plain values: checked by bioimageio.spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from unetari.errors import MissingExtraError, ModelFileError, as_sentence
from unetari.model.formats.silence import quiet

OURS = "unetari"
"""Where in `config` we say which file holds the model with all that we know of it."""

_MAX_TEXT = 10_000  # of a description, shown to people
_LARGEST = 2**20
"""Largest size, step, halo and offset that is believed, in voxels."""


@dataclass(frozen=True)
class File:
    """A file that the description names."""

    name: str
    sha256: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies on a server, and not in the package."""
        return "://" in self.name


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor."""

    id: str
    type: str
    """batch, channel, index, time or space."""
    smallest: int = 1
    """Smallest size, or the only one."""
    step: int | None = None
    """Sizes grow in these steps; None for one size only, or that of another axis."""
    follows: tuple[str, str] | None = None
    """The tensor and axis whose size this one has, plus `offset`."""
    offset: int = 0
    halo: int = 0
    """Voxels per side of an output to be cut off."""
    scale: float = 1.0
    unit: str | None = None
    names: tuple[str, ...] = ()
    """Names of channels."""


@dataclass(frozen=True)
class Step:
    """One step of pre- or postprocessing."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """What the network takes, or gives."""

    id: str
    axes: tuple[Axis, ...]
    steps: tuple[Step, ...]
    """Preprocessing of an input, postprocessing of an output."""
    test: File | None
    """An example, in numpy's format."""
    range: tuple[float | None, float | None] = (None, None)
    """Lowest and highest value that is stated."""

    @property
    def channels(self) -> Axis | None:
        """The axis of channels, if there is one."""
        return next((axis for axis in self.axes if axis.type == "channel"), None)


@dataclass(frozen=True)
class WeightsEntry:
    """Weights in one of the formats that a package may hold."""

    file: File
    external: File | None = None
    """ONNX: where large weights lie."""
    callable: str = ""
    """PyTorch: the class or function that makes the network."""
    module: str = ""
    """PyTorch: the library to import it from."""
    source: File | None = None
    """PyTorch: the source file that defines it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """PyTorch: what it is called with."""


@dataclass(frozen=True)
class Description:
    """What a package holds and says of itself."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: Mapping[str, WeightsEntry]
    """By format, such as "onnx"."""
    attachments: tuple[File, ...]
    config: Mapping[str, Any]
    """What programs keep in the description for themselves."""
    card: Mapping[str, Any]
    """Fields of `ModelSpec`."""
    covers: tuple[File, ...]
    documentation: File | None = None


def read_description(content: dict[str, Any]) -> Description:
    """Read a description of any version that bioimageio.spec knows.

    Nothing is fetched, and no file is opened.

    Parameters
    ----------
    content : dict
        The fields of the file. They are not changed.

    Returns
    -------
    Description

    Raises
    ------
    ModelFileError
        If it describes no model, or is not valid.
    MissingExtraError
        If bioimageio.spec is not installed.
    """
    if content.get("type", "model") != "model":
        raise ModelFileError(
            f"It describes a {str(content['type'])[:40]}, and a model was expected. Choose the "
            "package of a model."
        )
    _check_offline(content)
    described = _validate(content)
    return Description(
        inputs=tuple(_tensor(tensor, tensor.preprocessing) for tensor in described.inputs),
        outputs=tuple(_tensor(tensor, tensor.postprocessing) for tensor in described.outputs),
        weights={name: _weights(entry) for name, entry in described.weights if entry is not None},
        attachments=tuple(_file(each) for each in described.attachments),
        config=dict(described.config.model_extra or {}),
        card=_card(described),
        covers=tuple(_file(cover) for cover in described.covers),
        documentation=_file(described.documentation),
    )


def _check_offline(content: dict[str, Any]) -> None:
    """Refuse what bioimageio.spec would look up on a server."""
    inputs = content.get("inputs")
    for tensor in inputs if isinstance(inputs, list) else []:
        if isinstance(tensor, dict) and tensor.get("output_of") is not None:
            raise ModelFileError(
                f"Its input is the output of another model ({str(tensor['output_of'])[:80]}), "
                "and one model at a time is run. Choose a model that takes an image."
            )


def _validate(content: dict[str, Any]) -> Any:
    try:
        from bioimageio.spec import InvalidDescr, ValidationContext, build_description
    except ImportError as error:
        raise MissingExtraError("bioimageio.spec", "bioimageio", "A BioImage.IO package") from error
    context = ValidationContext(
        perform_io_checks=False, log_warnings=False, disable_cache=True, raise_errors=True
    )
    try:
        with quiet():  # its advice is for those who write descriptions
            described = build_description(content, context=context, format_version="latest")
    except ValidationError as error:
        raise _invalid(_reasons(error)) from error
    except Exception as error:  # its converters of old versions fail in any way
        raise _invalid(f"{type(error).__name__}: {error}") from error
    if isinstance(described, InvalidDescr):
        raise _invalid(described.get_reason() or "no reason is given")
    return described


def _reasons(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    texts = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:4]]
    more = len(problems) - len(texts)
    return "; ".join(texts) + (f" (and {more} more)." if more else ".")


def _invalid(reason: str) -> ModelFileError:
    text = " ".join(reason.split())
    shown = text if len(text) <= 600 else f"{text[:600]}..."
    return ModelFileError(
        f"bioimageio.spec finds that its description is not valid: {as_sentence(shown)} Ask "
        "its author to correct it."
    )


def _tensor(described: Any, steps: Any) -> Tensor:
    data = described.data[0] if isinstance(described.data, (list, tuple)) else described.data
    low, high = data.range
    return Tensor(
        id=str(described.id),
        axes=tuple(_axis(axis) for axis in described.axes),
        steps=tuple(Step(step.id, dict(step.kwargs)) for step in steps),
        test=_file(described.test_tensor),
        range=(None if low is None else float(low), None if high is None else float(high)),
    )


def _axis(described: Any) -> Axis:
    common = {"id": str(described.id), "type": described.type}
    size = described.size
    if described.type == "batch":
        return Axis(**common)
    if described.type == "channel":
        names = tuple(map(str, described.channel_names))
        return Axis(**common, smallest=len(names), names=names)
    common |= {"scale": float(described.scale), "unit": getattr(described, "unit", None)}
    common |= {"halo": _believed(getattr(described, "halo", 0), "halo", described.id)}
    if isinstance(size, int):
        return Axis(**common, smallest=_believed(size, "size", described.id))
    if hasattr(size, "step"):
        smallest = _believed(size.min, "smallest size", described.id)
        return Axis(**common, smallest=smallest, step=_believed(size.step, "step", described.id))
    if hasattr(size, "axis_id"):
        offset = _believed(size.offset, "offset", described.id)
        return Axis(**common, follows=(str(size.tensor_id), str(size.axis_id)), offset=offset)
    raise ModelFileError(
        f"The size of its output axis {described.id!r} depends on the data, and scores for every "
        "voxel are needed. Choose a model that segments."
    )


def _believed(number: int, what: str, axis: object) -> int:
    if abs(number) > _LARGEST:
        raise ModelFileError(
            f"Its axis {axis!r} has a {what} of {number}, and at most {_LARGEST} is believed. Ask "
            "its author to correct the description."
        )
    return int(number)


def _file(described: Any) -> Any:
    if described is None:
        return None
    sha256 = None if described.sha256 is None else str(described.sha256)
    return File(_source(described.source), sha256)


def _source(source: Any) -> str:
    """Return the name of a file as the description has it."""
    return str(getattr(source, "path", source)) if "://" not in str(source) else str(source)


def _weights(described: Any) -> WeightsEntry:
    architecture = getattr(described, "architecture", None)
    if architecture is None:
        external = getattr(described, "external_data", None)
        return WeightsEntry(_file(described), external=_file(external))
    return WeightsEntry(
        _file(described),
        callable=str(architecture.callable),
        module=str(getattr(architecture, "import_from", "")),
        source=_file(architecture) if hasattr(architecture, "source") else None,
        options=dict(architecture.kwargs),
    )


def _card(described: Any) -> dict[str, Any]:
    trained_on = getattr(described.training_data, "id", None) or getattr(
        described.training_data, "name", None
    )
    licence = described.license
    if hasattr(licence, "source"):
        licence = f"see {_source(licence.source)}"
    return {
        "name": described.name,
        "description": described.description[:_MAX_TEXT],
        "authors": tuple(author.name for author in described.authors),
        "license": str(licence or ""),
        "data_credit": str(trained_on or ""),
        "citations": tuple(_citation(entry) for entry in described.cite),
        "tags": tuple(described.tags),
    }


def _citation(entry: Any) -> str:
    link = f"https://doi.org/{entry.doi}" if entry.doi else str(entry.url)
    return f"{entry.text} {link}"[:_MAX_TEXT]
