"""What reading any format results in."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from unetari.core.network import NetworkConfig
from unetari.core.normalization import describe_intensities
from unetari.core.spec import ModelSpec
from unetari.model.architectures import find_architecture
from unetari.model.attachments import Attachments
from unetari.model.formats.entries import Found
from unetari.model.notes import Assumed, Detail
from unetari.model.weights import LoadOptions, Weights, build_network, infer_config

ASSUMED_INTENSITIES = "Intensity normalization is assumed"
"""Begins the note that no longer holds once the caller says how intensities are mapped."""

_INEXACT = Detail(
    "Its layers look at the whole image, so tiles do not give what a whole pass gives. By how much "
    "is not measured on opening it: a run in tiles measures it on your image, and reports it."
)


@dataclass(frozen=True)
class Loaded:
    """A checked network, its description, and what was assumed about it."""

    network: nn.Module
    """In evaluation mode, on the CPU."""
    spec: ModelSpec
    notes: tuple[str, ...] = ()
    sha256: str = ""
    """Hash of a model that is several files; empty for the hash of the one file."""
    attachments: Attachments = field(default_factory=Attachments)
    """What a package holds beside the model."""


def load_bare(found: Found, options: LoadOptions) -> Loaded:
    """Build the network that bare weights belong to, ours or another program's."""
    network, config, notes = _build(found.weights, options)
    spec = ModelSpec(config=config, **options.spec)
    return Loaded(network, spec, (*found.notes, *notes, *note_on_intensities(spec, options)))


def note_on_intensities(spec: ModelSpec, options: LoadOptions) -> tuple[str, ...]:
    """Say that the normalization of intensities is assumed, unless the caller gave it."""
    if "normalization" in options.spec:
        return ()
    stated = describe_intensities(spec.normalization)
    sentence = f"{ASSUMED_INTENSITIES} ({stated}): the file does not tell it."
    return (Assumed(sentence, "intensities", stated),)


def _build(
    weights: Weights, options: LoadOptions
) -> tuple[nn.Module, NetworkConfig, tuple[str, ...]]:
    known = find_architecture(weights)
    if known is None:
        config, notes = infer_config(weights, options)
        return build_network(config, weights), config, notes
    rebuilt = known.rebuild(weights, options)
    notes = () if rebuilt.config.tiles_exactly else (_INEXACT,)
    return rebuilt.network, rebuilt.config, (*rebuilt.notes, *notes)
