"""Pre- and postprocessing of a package, in unetari's own terms, or refused.

What statistics need becomes a `Normalization`, which is fitted to the whole image; everything
else is pointwise and becomes part of the network. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from unetari.core.normalization import Method, Normalization
from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.axes import find_layout
from unetari.model.formats.bioimageio.description import Step, Tensor
from unetari.model.formats.bioimageio.pointwise import Clip, Linear, Threshold

_FLOATS = ("float32", "float64")
_STATISTICS = ("zero_mean_unit_variance", "scale_range", "scale_mean_variance")
_MAKES_OBJECTS = {
    "stardist_postprocessing": "StarDist's polygons",
    "cellpose_flow_dynamics": "Cellpose's flows",
}


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network."""

    normalization: Normalization
    steps: tuple[nn.Module, ...]
    """Pointwise steps after it."""
    notes: tuple[str, ...]
    """What to know about it, a sentence each."""


@dataclass(frozen=True)
class Postprocessing:
    """What happens to the scores after the network."""

    steps: tuple[nn.Module, ...]
    """Pointwise steps."""
    classes: Literal["exclusive", "independent"] | None
    """What the last step says of the classes, see `ForeignConfig`; None if nothing."""
    output: Literal["logits", "probabilities"] | None
    """What it says of the scores; softmax or sigmoid as the last step is the engine's."""


# --- before the network -------------------------------------------------------------------------


def read_preprocessing(tensor: Tensor) -> Preprocessing:
    """Translate the preprocessing of an input.

    Raises
    ------
    ModelFileError
        If it cannot be expressed exactly.
    """
    steps = list(tensor.steps)
    notes = tuple(_drop_first_type(steps))
    steps = list(_without_types(steps))
    at = [index for index, step in enumerate(steps) if _has_statistics(step)]
    if len(at) > 1:
        raise _refused(steps[at[1]], "takes statistics of values that another step has scaled")
    if not at:
        normalization, steps = _fixed(steps, tensor)
        return Preprocessing(normalization, _modules(steps, tensor), notes)
    before, statistics, after = steps[: at[0]], steps[at[0]], steps[at[0] + 1 :]
    normalization = _normalization(statistics, tensor, _gain(before, statistics))
    if normalization.scope == "image":
        notes += (
            f"Its preprocessing ({statistics.id}) takes statistics over many images together; "
            "here they are those of the image that is predicted.",
        )
    return Preprocessing(normalization, _modules(after, tensor), notes)


def _has_statistics(step: Step) -> bool:
    percentiles = ("min_percentile", "max_percentile")
    clips = step.id == "clip" and any(step.options.get(name) is not None for name in percentiles)
    return clips or step.id in _STATISTICS


def _drop_first_type(steps: list[Step]) -> Iterator[str]:
    """Remove the type that images must have; ours are read as they are, in float32."""
    if steps and steps[0].id == "ensure_dtype":
        dtype = steps.pop(0).options["dtype"]
        if dtype not in _FLOATS:
            yield (
                f"It expects images of type {dtype}: others are not converted to it, and may give "
                "other results than in other programs."
            )
        while steps and steps[0].id == "ensure_dtype" and steps[0].options["dtype"] == dtype:
            steps.pop(0)  # values of this type already


def _without_types(steps: Sequence[Step]) -> Iterator[Step]:
    """Leave out conversions that change nothing; refuse those that would round."""
    is_binary = False
    for step in steps:
        if step.id != "ensure_dtype":
            is_binary = step.id == "binarize"
            yield step
        elif step.options["dtype"] not in _FLOATS and not is_binary:
            raise _refused(step, f"rounds to {step.options['dtype']} within the processing")


def _fixed(steps: list[Step], tensor: Tensor) -> tuple[Normalization, list[Step]]:
    """Turn a first linear step into a fixed range, which people can read."""
    if steps and steps[0].id in ("scale_linear", "fixed_zero_mean_unit_variance"):
        gains, offsets = _line(steps[0], tensor)
        if len(gains) == 1 and gains[0] > 0:
            low = -offsets[0] / gains[0]
            normalization = Normalization(method="range", low=low, high=low + 1 / gains[0])
            return normalization, steps[1:]
    return Normalization(method="none"), steps


def _gain(before: Sequence[Step], statistics: Step) -> float:
    """Return what values are multiplied with before statistics are taken of them."""
    gain = 1.0
    for step in before:
        options = step.options
        single = options.get("gain", 1.0)
        if step.id != "scale_linear" or not isinstance(single, float | int) or single <= 0:
            raise _refused(statistics, f"takes statistics of what {step.id} makes of the image")
        gain *= float(single)
    return gain


def _normalization(step: Step, tensor: Tensor, gain: float) -> Normalization:
    if step.id not in ("zero_mean_unit_variance", "scale_range"):
        raise _refused(step, "cannot be expressed by unetari's normalization")
    reference = step.options.get("reference_tensor")
    if reference not in (None, tensor.id):
        raise _refused(step, f"takes statistics of another tensor, {reference}")
    per_image, together = _scope(step, tensor)
    low, high = step.options.get("min_percentile", 0.0), step.options.get("max_percentile", 100.0)
    method: Method = "zscore" if step.id == "zero_mean_unit_variance" else "percentile"
    if method == "percentile" and (low, high) == (0, 100):
        method = "minmax"
    return Normalization(
        method=method,
        low=low if method == "percentile" else 1.0,
        high=high if method == "percentile" else 99.8,
        scope="frame" if per_image else "image",
        channels="together" if together else "each",
        eps=step.options.get("eps", 1e-6) / gain,
    )


def _scope(step: Step, tensor: Tensor) -> tuple[bool, bool]:
    """Return whether each image has statistics of its own, and channels have common ones."""
    named = step.options.get("axes")
    axes = [axis.id for axis in tensor.axes] if named is None else list(map(str, named))
    missing = [axis.id for axis in tensor.axes if axis.type == "space" and axis.id not in axes]
    if missing:
        raise _refused(step, f"takes statistics for every position along {', '.join(missing)}")
    channels = tensor.channels
    together = channels is not None and channels.smallest > 1 and channels.id in axes
    return "batch" not in axes and named is not None, together


# --- after the network --------------------------------------------------------------------------


def read_postprocessing(tensor: Tensor) -> Postprocessing:
    """Translate the postprocessing of an output.

    Raises
    ------
    ModelFileError
        If it cannot be expressed exactly, or not tile by tile.
    """
    for step in tensor.steps:
        if step.id == "custom":
            raise _refused(step, f"runs code of the package ({step.options.get('callable', '')})")
        if step.id in _MAKES_OBJECTS:
            raise _refused(step, f"turns {_MAKES_OBJECTS[step.id]} into objects, not into classes")
        if _has_statistics(step):
            raise _refused(step, "takes statistics of the whole result, which tiles do not have")
    steps = list(_without_types(tensor.steps))
    last = steps[-1].id if steps else ""
    if last == "sigmoid":
        return Postprocessing(_modules(steps[:-1], tensor), "independent", "logits")
    if last == "softmax" and _is_over_channels(steps[-1], tensor):
        return Postprocessing(_modules(steps[:-1], tensor), "exclusive", "logits")
    output: Literal["probabilities"] | None = "probabilities" if last == "binarize" else None
    classes: Literal["independent"] | None = "independent" if last == "binarize" else None
    return Postprocessing(_modules(steps, tensor), classes, output)


def _is_over_channels(step: Step, tensor: Tensor) -> bool:
    axis = str(step.options.get("axis", "channel"))
    return tensor.channels is not None and axis == tensor.channels.id


# --- single steps -------------------------------------------------------------------------------


def _modules(steps: Sequence[Step], tensor: Tensor) -> tuple[nn.Module, ...]:
    for step in steps:
        if step.id not in _POINTWISE:
            raise _refused(step, "is not known to this version of unetari")
    return tuple(_POINTWISE[step.id](step, tensor) for step in steps)


def _linear(step: Step, tensor: Tensor) -> nn.Module:
    return Linear(*_line(step, tensor), _dim(tensor))


def _line(step: Step, tensor: Tensor) -> tuple[list[float], list[float]]:
    """Return gain and offset, one of each or one per channel."""
    if step.id == "fixed_zero_mean_unit_variance":
        means = _per_channel(step, "mean", tensor)
        gains = [1 / std for std in _per_channel(step, "std", tensor)]
        return gains, [-mean * gain for mean, gain in zip(means, gains, strict=True)]
    gains, offsets = (_per_channel(step, name, tensor) for name in ("gain", "offset"))
    most = max(len(gains), len(offsets))
    return gains * (most // len(gains)), offsets * (most // len(offsets))


def _threshold(step: Step, tensor: Tensor) -> nn.Module:
    return Threshold(_per_channel(step, "threshold", tensor), _dim(tensor))


def _softmax(step: Step, tensor: Tensor) -> nn.Module:
    if not _is_over_channels(step, tensor):
        raise _refused(step, f"is taken along {step.options.get('axis')}, and not over channels")
    return nn.Softmax(dim=1)


_POINTWISE: Mapping[str, Callable[[Step, Tensor], nn.Module]] = {
    "scale_linear": _linear,
    "fixed_zero_mean_unit_variance": _linear,
    "clip": lambda step, _: Clip(step.options.get("min"), step.options.get("max")),
    "binarize": _threshold,
    "sigmoid": lambda *_: nn.Sigmoid(),
    "softmax": _softmax,
}


def _per_channel(step: Step, name: str, tensor: Tensor) -> list[float]:
    value: Any = step.options[name]
    if not isinstance(value, list | tuple):
        return [float(value)]
    axis = str(step.options.get("axis"))
    channels = tensor.channels
    if channels is None or axis != channels.id or len(value) not in (1, channels.smallest):
        raise _refused(step, f"has {len(value)} values of {name} along {axis}, not one per channel")
    return [float(each) for each in value]


def _dim(tensor: Tensor) -> int:
    return len(find_layout(tensor).space)


def _refused(step: Step, reason: str) -> ModelFileError:
    return ModelFileError(
        f"Its processing step {step.id!r} {reason}, and unetari would have to approximate it. Use "
        "a program that runs it, such as bioimageio.core."
    )
