"""Models of every kind are handed on in every format that can hold them.

What is written is read by the format's own library and gives, on a real image, what unetari
gives with the model it came from. scripts/export_table.py makes the table of docs/formats.md of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import unetari
from unetari.core.network import decides, reach_of
from unetari.errors import ModelFileError
from unetari.inference.predict import predict
from unetari.model.checkpoint import Model, load_model
from unetari.model.export import export_model

pytestmark = pytest.mark.slow

Image = NDArray[np.float32]
TARGETS = ("safetensors", "state_dict", "onnx", "torchscript", "pt2", "bioimageio")
CARD: dict[str, Any] = {
    "name": "handed on",
    "description": "For tests.",
    "authors": ("A. Author",),
    "license": "MIT",
}
BROAD = "bioimageio_unet2d_nuclei_broad"


@dataclass(frozen=True)
class Source:
    """A kind of model, and what it cannot become."""

    find: Callable[[Path, Path], Path | str]
    """Gives the file, of the folder with real data and an empty folder."""
    refused: dict[str, str]
    """Formats it cannot become, and what the message says."""
    is_3d: bool = False


def broad(name: str) -> Callable[[Path, Path], Path]:
    return lambda shared, _: shared / "models" / BROAD / name


def panseg(shared: Path, _: Path) -> Path:
    return shared / "models" / "panseg_unet3d_checkpoint" / "best_checkpoint.pytorch"


def elektronn3(_: Path, folder: Path) -> Path:
    """Write weights as elektronn3 names them, drawn at random: 3 blocks, one of them planar."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def draw(name: str, *shape: int) -> None:
        tensor = torch.randn(shape, generator=generator)
        weights[f"{name}.weight"] = tensor * (1.4 / max(1, tensor[0].numel()) ** 0.5)
        weights[f"{name}.bias"] = torch.zeros(shape[1] if "upconv" in name else shape[0])

    def block(name: str, given: int, made: int, depth: int, norms: int) -> None:
        draw(f"{name}.conv1", made, given, depth, 3, 3)
        draw(f"{name}.conv2", made, made, depth, 3, 3)
        for norm in (f"{name}.norm{number}" for number in range(norms)):
            draw(norm, made)
            weights[f"{norm}.weight"] = torch.ones(made)
            weights[f"{norm}.running_mean"] = torch.zeros(made)
            weights[f"{norm}.running_var"] = torch.ones(made)
            weights[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    channels = (1, 8, 16, 32)
    for level, depth in enumerate((1, 3, 3)):
        block(f"down_convs.{level}", channels[level], channels[level + 1], depth, 2)
    for index, (n, depth) in enumerate(((16, 3), (8, 1))):
        draw(f"up_convs.{index}.upconv", 2 * n, n, 1 if depth == 1 else 2, 2, 2)
        block(f"up_convs.{index}", 2 * n, n, depth, 3)
    draw("conv_final", 2, 8, 1, 1, 1)
    torch.save({"model_state_dict": weights, "epoch": 3}, folder / "elektronn3.pth")
    return folder / "elektronn3.pth"


def pt2(_: Path, folder: Path) -> Path:
    """Write a torch.export program as others do, without a word of unetari's."""
    network = load_model("nuclei-2d").network
    sizes = {
        0: torch.export.Dim("batch"),
        2: 8 * torch.export.Dim("y"),
        3: 8 * torch.export.Dim("x"),
    }
    with torch.no_grad():
        example = torch.zeros((2, 1, 48, 56))
        program = torch.export.export(network, (example,), dynamic_shapes=(sizes,))
    torch.export.save(program, folder / "foreign.pt2")
    return folder / "foreign.pt2"


NOT_OURS = {"safetensors": "Only U-Nets of unetari"}
GRAPH = dict.fromkeys(("state_dict", "torchscript", "pt2"), "is an ONNX graph.*Choose onnx")
SOURCES = {
    "unetari": Source(lambda *_: "nuclei-2d", {}),
    "pytorch-3dunet": Source(panseg, NOT_OURS, is_3d=True),
    "elektronn3": Source(elektronn3, NOT_OURS, is_3d=True),
    "TorchScript": Source(broad("weights.pt"), {**NOT_OURS, "pt2": "which torch.export does not"}),
    "torch.export": Source(pt2, NOT_OURS),
    "ONNX": Source(broad("weights.onnx"), {**NOT_OURS, **GRAPH}),
    "BioImage.IO (ONNX)": Source(broad(""), {**NOT_OURS, **GRAPH}),
}


@pytest.fixture(scope="module")
def load(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Load a model of each kind, each once: what is foreign is measured."""
    folder = tmp_path_factory.mktemp("sources")
    loaded: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in loaded:
            path = SOURCES[name].find(shared, folder)
            loaded[name] = load_model(path, trust=True).replace(**CARD)
        return loaded[name]

    return get


@pytest.fixture(scope="module")
def images(shared: Path) -> dict[bool, NDArray[Any]]:
    """Return real images: a plane of 512 x 512 and a volume, by whether they are 3D."""
    data = shared / "data"
    plane = iio.imread(sorted((data / "dsb2018_fluo" / "images").glob("*.png"))[0])
    plane = plane[..., 0] if plane.ndim == 3 else plane
    plane = np.pad(plane, [(0, 512 - size) for size in plane.shape], mode="symmetric")
    volume = iio.imread(data / "bbbc050_mouse_embryo3d" / "images" / "Emb01_t151.tif")
    return {False: plane, True: np.ascontiguousarray(volume[:32, 20:84, 20:84])}


def run_onnx(path: Path, image: Image, _: Model) -> Image:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (scores,) = session.run(None, {given.name: image})
    return np.asarray(scores)


def run_torchscript(path: Path, image: Image, _: Model) -> Image:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        network = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return np.asarray(network(torch.from_numpy(image)).numpy(force=True))


def run_pt2(path: Path, image: Image, _: Model) -> Image:
    network = torch.export.load(path).module()
    return np.asarray(network(torch.from_numpy(image)).numpy(force=True))


def run_weights(weights: dict[str, Any], image: Image, model: Model) -> Image:
    """Fill a copy of the network with weights that come from a file alone."""
    import copy

    from unetari.model.formats.wrappers import plain_module

    network = copy.deepcopy(plain_module(model.network))
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.zero_()
    network.load_state_dict(weights)
    return np.asarray(network(torch.from_numpy(image)).numpy(force=True))


def run_state_dict(path: Path, image: Image, model: Model) -> Image:
    return run_weights(torch.load(path, weights_only=True), image, model)


def run_safetensors(path: Path, image: Image, model: Model) -> Image:
    import safetensors.torch

    return run_weights(safetensors.torch.load_file(path), image, model)


def run_core(path: Path, image: NDArray[Any], folder: Path) -> Image:
    """Predict with bioimageio.core, from the raw image to probabilities.

    By default it mirrors the image at its ends, and takes the percentiles of that.
    """
    pytest.importorskip("bioimageio.core")
    np.save(folder / "image.npy", image[None, None].astype(np.float32))
    code = (
        "import sys, numpy as np\n"
        "from bioimageio.core import create_prediction_pipeline, load_model_description\n"
        "from bioimageio.core.digest_spec import create_sample_for_model\n"
        "pipeline = create_prediction_pipeline(load_model_description(sys.argv[1]))\n"
        "inputs = dict(image=np.load(sys.argv[2]))\n"
        "sample = create_sample_for_model(pipeline.model_description, inputs=inputs)\n"
        "plain = dict(skip_input_padding=True, skip_output_cropping=True)\n"
        "sample = pipeline.predict_sample_without_blocking(sample, **plain)\n"
        "np.save(sys.argv[3], np.asarray(sample.members['scores'].data))"
    )
    files = (path, folder / "image.npy", folder / "scores.npy")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BIOIMAGEIO_CACHE_PATH": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    scores: Image = np.load(folder / "scores.npy")[0]
    return scores


LIBRARIES: dict[str, Callable[[Path, Image, Model], Image]] = {
    "safetensors": run_safetensors,
    "state_dict": run_state_dict,
    "onnx": run_onnx,
    "torchscript": run_torchscript,
    "pt2": run_pt2,
}


def enlarge(image: NDArray[Any], model: Model) -> NDArray[Any]:
    """Mirror an image to the smallest size that a package says it takes."""
    needed = [reach.largest or reach.smallest_tile for reach in reach_of(model.spec.config)]
    missing = [max(need - have, 0) for need, have in zip(needed, image.shape, strict=True)]
    return np.pad(image, [(0, size) for size in missing], mode="symmetric")


def probabilities(scores: Image, model: Model) -> Image:
    classes, is_logits = decides(model.spec.config)
    tensor = torch.from_numpy(np.asarray(scores))
    if is_logits:
        tensor = tensor.softmax(dim=1) if classes == "exclusive" else tensor.sigmoid()
    return np.asarray(tensor.numpy())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_in_every_format(
    load: Callable[[str], Model],
    images: dict[bool, NDArray[Any]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    source: str,
    target: str,
) -> None:
    model, image = load(source), images[SOURCES[source].is_3d]
    record_property("cell", f"{source}|{target}")
    if target in SOURCES[source].refused:
        with pytest.raises(ModelFileError, match=SOURCES[source].refused[target]):
            export_model(model, tmp_path / "m", target)
        assert not list(tmp_path.iterdir())
        return
    path = export_model(model, tmp_path / "m", target, on_note=lambda _: None)
    if target == "bioimageio":
        image = enlarge(image, model)
        found = run_core(path, image, tmp_path)
        expected = predict(image, model, tile_shape=image.shape, scores=True).scores
        assert expected is not None
    else:
        scaled = ((image - image.mean()) / image.std()).astype(np.float32)[None, None]
        with torch.inference_mode():
            given = model.network(torch.from_numpy(scaled)).numpy()
        expected = probabilities(given, model)
        found = probabilities(LIBRARIES[target](path, scaled, model), model)
    assert expected.std() > 0.01, "equal constants would say nothing"
    record_property("difference", f"{np.abs(found - expected).max():.1e}")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    reload_and_compare(path, model, image, target)


def reload_and_compare(path: Path, model: Model, image: NDArray[Any], target: str) -> None:
    """Open what was written with unetari again; weights alone tell no intensities."""
    if target == "state_dict" and not isinstance(model.network, unetari.UNet):
        return  # it is known only what was rebuilt from weights, and what was assumed then
    back = load_model(path, trust=True)
    if target != "state_dict":
        assert back.spec.replace(config=model.spec.config) == model.spec
    options: dict[str, Any] = {"tile_shape": image.shape, "scores": True}
    again = back.replace(normalization=model.spec.normalization)
    found, expected = predict(image, again, **options), predict(image, model, **options)
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
