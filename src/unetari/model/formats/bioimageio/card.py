"""What a package says of its model: the description for programs, the documentation for people."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from math import inf, nextafter
from typing import Any

from unetari import __version__
from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig, decides, reach_of
from unetari.core.normalization import Normalization, describe_intensities
from unetari.core.sizes import Reach
from unetari.core.spec import ModelSpec
from unetari.model.formats.bioimageio.attached import GENERATED
from unetari.model.formats.bioimageio.description import OURS
from unetari.model.formats.bioimageio.examples import smallest_size
from unetari.model.summary import count_parameters

DESCRIPTION, DOCUMENTATION, COVER = "rdf.yaml", "README.md", "cover"
TEST_INPUT, TEST_OUTPUT = "test_input.npy", "test_output.npy"
ONNX, TORCHSCRIPT, OWN_MODEL = "weights.onnx", "weights.pt", "model.safetensors"

_VERSION = "0.5.4"  # the oldest that has all that is used: more programs read it
_EPS = 1e-10  # there must be one; ours is 0
_DOI = re.compile(r"\b10\.\d{4,9}/[^\s,;]*[^\s,;.)]")
_URL = re.compile(r"https?://[^\s,;)]+")
_PAPERS = {
    2: ("Ronneberger, Fischer, Brox: U-Net, 2015", "10.1007/978-3-319-24574-4_28"),
    3: ("Cicek et al.: 3D U-Net, 2016", "10.1007/978-3-319-46723-8_49"),
}
_AXES = {2: "yx", 3: "zyx"}


def write_description(
    spec: ModelSpec,
    hashes: Mapping[str, str],
    opset: int,
    generated: Collection[str] = (),
    *,
    single: bool = False,
) -> dict[str, Any]:
    """Return the fields of a description.

    Parameters
    ----------
    spec : ModelSpec
        The model's own.
    hashes : mapping of str to str
        SHA-256 of every file of the package.
    opset : int
        Version of ONNX's operators.
    generated : collection of str
        Which files were made of the model itself.
    single : bool
        Whether the weights take one image at a time only.
    """
    batch = {"type": "batch", **({"size": 1} if single else {})}

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashes[name]}

    weights = _weights({name: file(name) for name in (ONNX, TORCHSCRIPT) if name in hashes}, opset)
    return {
        "type": "model",
        "format_version": _VERSION,
        "name": spec.name,
        "description": spec.description,
        "timestamp": datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat(),
        "authors": [{"name": author} for author in spec.authors],
        "license": spec.license,
        "cite": list(_citations(spec)),
        "tags": list(dict.fromkeys([*spec.tags, *_tags(spec.config)])),
        "documentation": DOCUMENTATION,
        "covers": [name for name in hashes if name.startswith(f"{COVER}.")],
        "attachments": [file(name) for name in hashes if name == OWN_MODEL],
        "inputs": [_input(spec, batch, file(TEST_INPUT))],
        "outputs": [_output(spec, batch, file(TEST_OUTPUT))],
        "weights": weights,
        "config": {OURS: _own_fields(spec, hashes, generated)},
    }


def _weights(files: Mapping[str, dict[str, str]], opset: int) -> dict[str, Any]:
    from torch import __version__ as torch_version

    weights: dict[str, Any] = {}
    if ONNX in files:
        weights["onnx"] = {**files[ONNX], "opset_version": opset}
    if TORCHSCRIPT in files:
        parent = {"parent": "onnx"} if weights else {}
        version = torch_version.partition("+")[0]
        weights["torchscript"] = {**files[TORCHSCRIPT], "pytorch_version": version, **parent}
    return weights


def to_yaml(description: Mapping[str, Any]) -> bytes:
    """Return a description as the text of its file."""
    import yaml

    # The same step twice is written twice, for readers that know no anchors.
    dumper = type("_Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    text: str = yaml.dump(dict(description), Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def _own_fields(
    spec: ModelSpec, names: Collection[str], generated: Collection[str]
) -> dict[str, Any]:
    fields: dict[str, Any] = {"version": __version__, GENERATED: list(generated)}
    described = next((name for name in (OWN_MODEL, ONNX) if name in names), None)
    fields |= {"model": described} if described else {}
    fields |= {"data_credit": spec.data_credit} if spec.data_credit else {}
    return fields | ({"training": _plain(spec.training)} if spec.training else {})


def _plain(record: Mapping[str, Any]) -> Any:
    """Return a record as what YAML and JSON can hold."""
    return json.loads(json.dumps(record, default=str))


def _tags(config: NetworkConfig) -> tuple[str, ...]:
    own = (f"unet{config.dim}d",) if isinstance(config, UNetConfig) else ()
    return (*own, f"{config.dim}d", "semantic-segmentation", "segmentation", "pytorch", "unetari")


def _papers(config: NetworkConfig) -> tuple[tuple[str, str], ...]:
    """Return what is cited for the network itself, with its DOI; others' networks are theirs."""
    return (_PAPERS[config.dim],) if isinstance(config, UNetConfig) else ()


def _citations(spec: ModelSpec) -> Iterator[dict[str, str]]:
    """Yield what can be cited by a DOI or an address; the documentation has all of it."""
    for text in spec.citations:
        doi, url = _DOI.search(text), _URL.search(text)
        if doi:
            yield {"text": text, "doi": doi[0]}
        elif url:
            yield {"text": text, "url": url[0]}
    for text, number in _papers(spec.config):
        if not any(number in citation for citation in spec.citations):
            yield {"text": text, "doi": number}


# --- tensors ------------------------------------------------------------------------------------


def _input(spec: ModelSpec, batch: Mapping[str, Any], test: dict[str, str]) -> dict[str, Any]:
    config = spec.config
    names = [f"channel{number}" for number in range(config.in_channels)]
    sizes = [_input_size(reach) for reach in reach_of(config)]
    return {
        "id": "image",
        "description": "intensities as they come from the microscope",
        "axes": [
            dict(batch),
            {"type": "channel", "channel_names": names},
            *({**axis, "size": size} for axis, size in zip(_space(spec), sizes, strict=True)),
        ],
        "test_tensor": test,
        "preprocessing": _preprocessing(spec.normalization, config.dim),
    }


def _space(spec: ModelSpec) -> list[dict[str, Any]]:
    """Return the spatial axes without sizes."""
    axes: list[dict[str, Any]] = [{"type": "space", "id": name} for name in _AXES[spec.config.dim]]
    halos = [_halo(reach) for reach in reach_of(spec.config)]
    for axis, size, halo in zip(axes, spec.voxel_size, halos, strict=False):
        axis |= {"scale": _scale(size, halo), "unit": "micrometer"}
    return axes


def _scale(size: float, halo: int) -> float:
    """Return a voxel size with which bioimageio.spec finds the halo to be an integer.

    It computes halo * size / size, which is 48.00000000000001 for 48 and 0.8; a
    size that is larger by the least possible is not.
    """
    while halo * size / size != halo:
        size = nextafter(size, inf)
    return size


def _input_size(reach: Reach) -> Any:
    if reach.largest is not None:
        return reach.largest
    return {"min": smallest_size(reach), "step": reach.multiple}


def _output(spec: ModelSpec, batch: Mapping[str, Any], test: dict[str, str]) -> dict[str, Any]:
    classes, _ = decides(spec.config)
    names = spec.labels if classes == "exclusive" else spec.labels[1:]
    activation = (
        {"id": "softmax", "kwargs": {"axis": "channel"}}
        if classes == "exclusive"
        else {"id": "sigmoid"}
    )
    pairs = zip(_space(spec), reach_of(spec.config), strict=True)
    return {
        "id": "scores",
        "description": "probability of each class",
        "axes": [
            dict(batch),
            {"type": "channel", "channel_names": list(names)},
            *({**axis, **_output_size(axis["id"], reach)} for axis, reach in pairs),
        ],
        "test_tensor": test,
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "postprocessing": [activation if _is_logits(spec.config) else _FLOAT],
    }


def _is_logits(config: NetworkConfig) -> bool:
    return decides(config)[1]


def _output_size(name: str, reach: Reach) -> dict[str, Any]:
    size = {"tensor_id": "image", "axis_id": name, "offset": -2 * reach.loss}
    halo = _halo(reach)
    return {"size": size, **({"halo": halo} if halo else {})}


def _halo(reach: Reach) -> int:
    if reach.largest is not None:
        return 0
    return reach.trim if reach.loss else reach.halo


_FLOAT = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}


def _preprocessing(normalization: Normalization, dim: int) -> list[dict[str, Any]]:
    axes = list(_AXES[dim])
    if normalization.channels == "together":
        axes.insert(0, "channel")
    statistics = {"axes": axes, "eps": max(normalization.eps, _EPS)}
    low, high = normalization.low, normalization.high
    steps: dict[str, list[dict[str, Any]]] = {
        "none": [],
        "zscore": [{"id": "zero_mean_unit_variance", "kwargs": statistics}],
        "minmax": [{"id": "scale_range", "kwargs": statistics}],
        "percentile": [
            {
                "id": "scale_range",
                "kwargs": {**statistics, "min_percentile": low, "max_percentile": high},
            }
        ],
    }
    if normalization.method == "range" and (low, high) != (0, 1):
        gain = 1 / (high - low)
        steps["range"] = [{"id": "scale_linear", "kwargs": {"gain": gain, "offset": -low * gain}}]
    return [_FLOAT, *steps.get(normalization.method, []), _FLOAT]


# --- documentation ------------------------------------------------------------------------------


def write_documentation(spec: ModelSpec) -> str:
    """Return the documentation, in Markdown."""
    return "\n".join(_paragraphs(spec)) + "\n"


def _paragraphs(spec: ModelSpec) -> Iterator[str]:
    yield f"# {spec.name}\n"
    yield f"{spec.description}\n"
    yield "## How to use it\n"
    yield (
        "Any program that runs BioImage.IO models takes this package. With unetari "
        "(napari plugin, Python, command line), images of any size are predicted tile by tile:\n"
    )
    yield "```bash\nunetari predict image.tif --model PACKAGE.zip\n```\n"
    yield from _facts(spec)
    yield "## Training data\n"
    yield f"{spec.data_credit or 'Not stated.'}\n"
    if spec.training:
        yield "How it was trained, as unetari recorded it:\n"
        yield f"```json\n{json.dumps(_plain(spec.training), indent=2)}\n```\n"
    yield "## Validation\n"
    yield _validation(spec)
    yield "## Authors, licence, citation\n"
    yield f"{', '.join(spec.authors)}. Licence: {spec.license}.\n"
    yield from (f"- {citation}" for citation in spec.citations)
    yield from (f"- {text}, https://doi.org/{doi}" for text, doi in _papers(spec.config))


def _facts(spec: ModelSpec) -> Iterator[str]:
    config = spec.config
    reaches = reach_of(config)
    yield "## What it takes and gives\n"
    yield f"- {config.dim}D images with {config.in_channels} channel(s)"
    if spec.voxel_size:
        yield f"- voxels of {' x '.join(f'{size:g}' for size in spec.voxel_size)} micrometre"
    yield f"- intensities: {describe_intensities(spec.normalization)}"
    yield f"- classes: {', '.join(spec.labels)}"
    yield f"- sizes in steps of {' x '.join(str(reach.multiple) for reach in reaches)}"
    yield f"- surroundings per side: {' x '.join(str(reach.margin) for reach in reaches)} voxels"
    if isinstance(config, UNetConfig):
        options = ", ".join(f"{name}={value}" for name, value in config)
        yield f"- U-Net, {count_parameters(config):,} parameters: {options}"
    else:
        yield f"- {config.architecture}"
    yield ""


def _validation(spec: ModelSpec) -> str:
    score = spec.training.get("validation_iou")
    known = f"Foreground IoU {score:.3f} on held-out images. " if isinstance(score, float) else ""
    return (
        f"{known}Before you rely on it, compare its result with annotations of your own images, "
        "such as by the intersection over union of the foreground.\n"
    )
