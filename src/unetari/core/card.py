"""The model card: what is known of a model, in lines that every part of unetari shows alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from unetari.core.config import UNetConfig
from unetari.core.network import ForeignConfig, NetworkConfig, reach_of
from unetari.core.normalization import describe_intensities
from unetari.core.sizes import Reach, receptive_field
from unetari.core.spec import ModelSpec
from unetari.errors import printable

_ACTIVATIONS = {"relu": "ReLU", "leaky": "leaky ReLU (0.1)", "elu": "ELU"}
_SAID = frozenset(
    {
        "in_channels",
        "out_channels",
        "n_blocks",
        "start_filters",
        "activation",
        "normalization",
        "conv_mode",
        "dim",
        "up_mode",
    }
)
"""Options that have words of their own."""
_NOT_STATED = "not stated"
_MOST_CLASSES, _FEW_CLASSES = 40, 6


class CardLine(NamedTuple):
    """One line of a card."""

    title: str
    """What it is about, in a word or two, lower case."""
    text: str
    """What is known; never empty."""


def card_lines(
    spec: ModelSpec,
    *,
    parameters: int | None = None,
    source: str = "",
    kind: str = "",
    sha256: str = "",
    notes: Sequence[str] = (),
) -> tuple[CardLine, ...]:
    """Return what is known of a model, in the order in which it is shown.

    Parameters
    ----------
    spec : ModelSpec
        Network, normalization, classes and card.
    parameters : int, optional
        Number of parameters.
    source : str
        The file or the name it comes from.
    kind : str
        Kind of its file, in words; empty for a network that was just built.
    sha256 : str
        Hash of the file.
    notes : sequence of str
        What was assumed or measured, a sentence each.

    Returns
    -------
    tuple of CardLine
        What is not known is left out. Of a model from a file it is said where voxel size,
        training data or licence are not stated.

    Examples
    --------
    >>> [line.text for line in card_lines(ModelSpec()) if line.title in ("axes", "sizes")]
    ['images as YX, 1 channel; 2 output channels', 'multiples of 8; others are padded']
    """
    config = spec.config
    unknown = _NOT_STATED if kind else ""
    lines = (
        ("name", spec.name),
        ("description", spec.description),
        ("architecture", describe_architecture(config)),
        ("parameters", "" if parameters is None else f"{parameters:,}"),
        ("axes", describe_axes(config)),
        ("sizes", describe_sizes(config)),
        ("receptive field", describe_field(config)),
        ("normalization", describe_intensities(spec.normalization)),
        ("classes", describe_classes(spec.labels)),
        ("voxel size", describe_voxels(spec.voxel_size) or unknown),
        ("training data", spec.data_credit.strip() or unknown),
        ("training", describe_training(spec.training)),
        ("licence", spec.license.strip() or unknown),
        ("authors", ", ".join(spec.authors)),
        ("to cite", "; ".join(spec.citations)),
        ("tags", ", ".join(spec.tags)),
        ("kind", kind),
        ("file", source),
        ("SHA-256", sha256),
        *(("note", note) for note in notes),
    )
    return tuple(CardLine(title, printable(text.strip())) for title, text in lines if text.strip())


def describe_architecture(config: NetworkConfig) -> str:
    """Say what a network is.

    Examples
    --------
    >>> describe_architecture(UNetConfig())[:57]
    'U-Net of unetari, 2D: 4 blocks of 32 to 256 filters, ReLU'
    """
    if isinstance(config, ForeignConfig):
        return f"{config.architecture}, {config.dim}D"
    first, last = config.filters[0], config.filters[-1]
    blocks = f"{config.n_blocks} block{'s' if config.n_blocks > 1 else ''}"
    words = [
        f"{blocks} of {f'{first} to {last}' if last > first else first} filters",
        _ACTIVATIONS[config.activation],
        _describe_norm(config),
        "same-size convolution" if config.conv_mode == "same" else "valid convolution",
        f"{config.up_mode} upsampling",
        *_other_options(config),
    ]
    return f"U-Net of unetari, {config.dim}D: {', '.join(words)}"


def _describe_norm(config: UNetConfig) -> str:
    if config.groups:
        return f"group normalization ({config.groups} groups)"
    if config.normalization == "none":
        return "no feature normalization"
    return f"{config.normalization} normalization"


def _other_options(config: UNetConfig) -> Iterator[str]:
    """Say the rarer options where they are not the usual ones."""
    for name, field in UNetConfig.model_fields.items():
        value = getattr(config, name)
        if name not in _SAID and value != field.default:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"{name.replace('_', ' ')} {shown}"


def describe_axes(config: NetworkConfig) -> str:
    """Say which axes an image has for the network, and how many channels."""
    made = _count(config.out_channels, "output channel")
    return f"images as {'ZYX'[-config.dim :]}, {describe_channels(config)}; {made}"


def describe_channels(config: NetworkConfig) -> str:
    """Say how many channels an image has.

    Examples
    --------
    >>> describe_channels(UNetConfig()), describe_channels(UNetConfig(in_channels=3))
    ('1 channel', '3 channels')
    """
    return _count(config.in_channels, "channel")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def describe_sizes(config: NetworkConfig) -> str:
    """Say which sizes the network takes, and how this is known.

    Examples
    --------
    >>> describe_sizes(UNetConfig(n_blocks=5, conv_mode="valid"))
    '188, 204, 220, ...; others are padded'
    """
    reaches = reach_of(config)
    text = _per_axis([_describe_rule(reach) for reach in reaches])
    is_fixed = any(reach.largest == reach.rule.smallest for reach in reaches)
    text += "; others are covered by tiles of that size" if is_fixed else "; others are padded"
    return text if isinstance(config, UNetConfig) else f"{text} ({config.origin})"


def _describe_rule(reach: Reach) -> str:
    multiple, smallest = reach.rule.multiple, reach.rule.smallest
    if reach.largest == smallest:
        return f"{smallest} only"
    if smallest % multiple:
        text = ", ".join(str(smallest + step * multiple) for step in range(3)) + ", ..."
    elif multiple == 1:
        text = f"any from {smallest} on" if smallest > 1 else "any"
    else:
        text = f"multiples of {multiple}"
        text += f", at least {smallest}" if smallest > multiple else ""
    return text if reach.largest is None else f"{text}, at most {reach.largest}"


def describe_field(config: NetworkConfig) -> str:
    """Say what of the image an output voxel depends on.

    Examples
    --------
    >>> describe_field(UNetConfig())
    '100 x 100 voxels'
    """
    if isinstance(config, UNetConfig):
        seen = [receptive_field(config, axis) for axis in range(-config.dim, 0)]
        text = f"{join_sizes(seen)} voxels"
    else:
        seen = [2 * reach.margin + 1 for reach in reach_of(config)]
        text = f"at most {join_sizes(seen)} voxels ({config.origin})"
    if config.tiles_exactly:
        return text
    return f"{text}, and beyond that the whole image: tiles are not exact"


def describe_classes(labels: Sequence[str], most: int = _MOST_CLASSES) -> str:
    """Give each class its number.

    Examples
    --------
    >>> describe_classes(["background", "nucleus"])
    '0 background, 1 nucleus'
    """
    named = [f"{number} {name}" for number, name in enumerate(labels[:most])]
    more = [f"and {len(labels) - most} more"] if len(labels) > most else []
    return ", ".join(named + more)


def describe_voxels(sizes: Sequence[float]) -> str:
    """Say the voxel size of the training images; nothing if it is unknown."""
    if not sizes:
        return ""
    return f"{join_sizes(sizes)} \N{MICRO SIGN}m ({', '.join('zyx'[-len(sizes) :])})"


def describe_training(record: dict[str, Any]) -> str:
    """Say what the record of a training run tells, as far as it is what unetari writes.

    Examples
    --------
    >>> describe_training({"training_images": 22, "step": 300, "validation_iou": 0.83285})
    '22 images; 300 steps; foreground IoU 0.833 on held-out images'
    """
    images, held, steps = (
        record.get(key) for key in ("training_images", "validation_images", "step")
    )
    score = record.get("validation_iou")
    parts = [
        _count(images, "image") if isinstance(images, int) else "",
        _count(len(held), "held-out image") if isinstance(held, list | tuple) and held else "",
        _count(steps, "step") if isinstance(steps, int) else "",
        f"foreground IoU {score:.3f} on held-out images" if isinstance(score, float) else "",
    ]
    return "; ".join(part for part in parts if part)


def join_sizes(sizes: Sequence[float]) -> str:
    """Join sizes as people write them.

    Examples
    --------
    >>> join_sizes((510, 690)), join_sizes((1.75, 0.8))
    ('510 x 690', '1.75 x 0.8')
    """
    return " x ".join(f"{size:.10g}" for size in sizes)


def summarize(spec: ModelSpec) -> str:
    """Say in a few words what a model takes and finds.

    Examples
    --------
    >>> summarize(ModelSpec(class_names=("background", "nucleus")))
    '2D, 1 channel: nucleus'
    """
    found = spec.labels[1:]
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return f"{spec.config.dim}D, {describe_channels(spec.config)}: {shown}"


def introduce(spec: ModelSpec) -> str:
    """Say what a model segments, in two or three lines.

    Examples
    --------
    >>> introduce(ModelSpec(class_names=("background", "nucleus")))
    '2D, 1 channel; labels: 0 background, 1 nucleus.'
    """
    labels = describe_classes(spec.labels, _FEW_CLASSES)
    lines = [
        spec.description,
        f"{spec.config.dim}D, {describe_channels(spec.config)}; labels: {labels}.",
    ]
    if spec.voxel_size:
        lines.append(f"Trained at {join_sizes(spec.voxel_size)} \N{MICRO SIGN}m per voxel.")
    return "\n".join(line for line in lines if line)


def find_text(spec: ModelSpec) -> str:
    """Return all that a model is searched by, in lower case."""
    parts = (
        spec.name,
        spec.description,
        f"{spec.config.dim}D",
        *spec.tags,
        *spec.labels,
        *spec.authors,
    )
    return "\n".join(parts).casefold()


def _per_axis(texts: Sequence[str]) -> str:
    """Join what holds along each axis; what is the same everywhere is said once."""
    if len(set(texts)) == 1:
        return texts[0]
    names = "zyx"[-len(texts) :]
    return "; ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))
