"""What unetari writes beside a network, in every format that has a place for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ModelFileError, as_sentence
from unetari.model.weights import LoadOptions

FORMAT = "unetari"
VERSION = 1
ENTRY = "unetari.json"
"""Name of the text in archives."""
_LONGEST = 2**22  # characters of a description; those of models trained for days have some 10,000


def to_metadata(spec: ModelSpec) -> dict[str, str]:
    """Return a description as names and texts."""
    return {
        "format": FORMAT,
        "format_version": str(VERSION),
        "spec": spec.model_dump_json(),
    }


def from_metadata(metadata: Mapping[str, str]) -> ModelSpec:
    """Return the description that names and texts hold.

    Raises
    ------
    ModelFileError
        If a newer unetari wrote it, or it is not valid.
    """
    version = metadata.get("format_version", "")
    if not (version.isdecimal() and len(version) < 10 and int(version) <= VERSION):
        raise ModelFileError(
            f"Its format_version is {version[:20]!r}, and this unetari reads up to "
            f"{VERSION}. Install a newer unetari: pip install --upgrade unetari"
        )
    text = metadata.get("spec", "")
    if len(text) > _LONGEST:
        raise ModelFileError(
            f"The description of the model in its metadata has {len(text):,} characters, and at "
            f"most {_LONGEST:,} are read. Save the model again with unetari."
        )
    try:
        fields: dict[str, Any] = json.loads(text)
        spec = ModelSpec(**fields)
        spec.model_dump_json()  # what is nested too deep can be read, and not written
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error) if len(str(error)) < 1000 else f"{str(error)[:1000]}..."
        raise ModelFileError(
            f"The description of the model in its metadata is not valid: "
            f"{as_sentence(reason)} Save the model again with unetari."
        ) from error
    return spec


def to_text(spec: ModelSpec) -> str:
    """Return a description as one text."""
    return json.dumps(to_metadata(spec))


def from_text(text: str) -> ModelSpec | None:
    """Return the description in a text; None if the text is empty.

    Raises
    ------
    ModelFileError
        If it is not valid.
    """
    if not text:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(str(error)) from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise _invalid("it is no table of texts")
    return from_metadata(content)


def _invalid(reason: str) -> ModelFileError:
    return ModelFileError(
        f"The description of the model that unetari wrote into it is damaged ({reason}). Save the "
        "model again with unetari."
    )


def check_told(told: Mapping[str, Any], options: LoadOptions) -> None:
    """Raise ConfigError if the caller says something else than the file tells."""
    for name, value in options.network.items():
        if told.get(name) != value:
            says = f"{name}={told[name]!r}" if name in told else f"nothing of {name}"
            raise ConfigError(
                f"{name}={value!r} contradicts the file, which says {says}. Leave it out."
            )
