"""TorchScript and torch.export: opened only when trusted, then measured or as described."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetari.core.network import ForeignConfig
from unetari.core.normalization import Normalization
from unetari.errors import ConfigError, ModelFileError, UntrustedModelError
from unetari.inference.predict import Prediction, predict
from unetari.model import trust
from unetari.model.checkpoint import load_model

Save = Callable[[nn.Module, Path], Path]


class Small(nn.Module):
    """Pools once, so that sizes must be even and a voxel sees four others per side."""

    def __init__(self, dim: int = 2, channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution = nn.Conv2d if dim == 2 else nn.Conv3d
        self.first = convolution(channels, 4, 3, padding=1)
        self.pool = (nn.MaxPool2d if dim == 2 else nn.MaxPool3d)(2)
        self.deep = convolution(4, 4, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.last = convolution(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        below = self.up(self.deep(self.pool(x)))
        scores: Tensor = self.last(torch.cat([x, below], dim=1))
        return scores


def script(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what people have
        torch.jit.save(torch.jit.script(network.eval()), path)
    return path


def export(network: nn.Module, path: Path, shape: tuple[int, ...] = (2, 1, 12, 8)) -> Path:
    sizes = {0: torch.export.Dim("n", min=1)}
    for axis, name in enumerate("zyx"[-(len(shape) - 2) :], start=2):
        sizes[axis] = 2 * torch.export.Dim(name, min=1)
    torch.export.save(
        torch.export.export(network.eval(), (torch.zeros(shape),), dynamic_shapes=(sizes,)), path
    )
    return path


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_trusted", set())


@pytest.fixture(params=["m.ts", "m.pt2"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write = script if request.param == "m.ts" else export
    return write(Small(), tmp_path / request.param)


def scores_of(prediction: Prediction) -> NDArray[np.float32]:
    assert prediction.scores is not None
    return prediction.scores


def config_of(model: Any) -> ForeignConfig:
    assert isinstance(model.spec.config, ForeignConfig)
    return model.spec.config


# Trust


def test_programs_open_only_when_trusted(program: Path) -> None:
    with pytest.raises(UntrustedModelError) as refusal:
        load_model(program)
    error = refusal.value
    assert error.path == str(program)
    assert error.size == program.stat().st_size
    assert error.sha256 == load_model(program, trust=True).sha256
    for part in (str(program), f"{error.size:,}", error.sha256, error.reason, "--trust"):
        assert part in str(error)


def test_trust_holds_for_the_content_while_the_process_runs(program: Path) -> None:
    load_model(program, trust=True)
    assert load_model(program).notes
    copy = program.with_name(f"copy{program.suffix}")
    copy.write_bytes(program.read_bytes())
    assert load_model(copy).notes
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr("m/more", "changed")
    with pytest.raises(UntrustedModelError):
        load_model(program)


class Writes(nn.Module):
    """Writes a file when it is opened: TorchScript calls what restores its state."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.weight = torch.zeros(2)
        self.path = str(path)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool, str]:
        return (self.weight, self.training, self.path)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool, str]) -> None:
        self.weight = state[0]
        self.training = state[1]
        self.path = state[2]
        torch.save(state[0], state[2])

    def forward(self, x: Tensor) -> Tensor:
        return x


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_torchscript_runs_nothing_before_it_is_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "written"
    path = script(Writes(marker), tmp_path / "m.pt")
    marker.unlink(missing_ok=True)
    with pytest.raises(UntrustedModelError):
        load_model(path)
    assert not marker.exists()
    with pytest.raises(ModelFileError):
        load_model(path, trust=True)
    assert marker.exists()  # why it has to be trusted


@pytest.mark.parametrize("name", ["m.ts", "m.pt2"])
def test_pickles_in_a_program_are_not_opened_untrusted(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "written"
    path = (script if name == "m.ts" else export)(Small(), tmp_path / name)
    hostile = tmp_path / f"hostile-{name}"
    content = io.BytesIO()
    torch.save(Touch(marker), content)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(hostile, "w") as target:
        for entry in source.namelist():
            is_pickle = entry.endswith(("data.pkl", "model.pt"))
            data = content.getvalue() if entry.endswith("model.pt") else pickle.dumps(Touch(marker))
            target.writestr(entry, data if is_pickle else source.read(entry))
    with pytest.raises(UntrustedModelError):
        load_model(hostile)
    assert not marker.exists()


# What is measured


def test_measured(program: Path) -> None:
    model = load_model(program, trust=True)
    config = config_of(model)
    assert (config.dim, config.in_channels, config.out_channels) == (2, 1, 2)
    assert {(reach.multiple, reach.halo, reach.largest) for reach in config.reach} == {(2, 4, None)}
    assert (config.origin, config.tiles_exactly) == ("measured", True)
    assert (config.classes, config.output) == ("exclusive", "logits")
    assert config.parameters == sum(p.numel() for p in Small().parameters())
    assert any("measured" in note for note in model.notes)


def test_gives_what_the_network_gives(program: Path) -> None:
    image = torch.randn((1, 1, 22, 34))
    network = load_model(program, trust=True).network
    assert torch.equal(network(image), Small()(image))
    assert torch.equal(deepcopy(network).eval()(image), Small()(image))


def test_tiles_give_what_one_pass_gives(program: Path) -> None:
    model = load_model(program, trust=True)
    image = np.random.default_rng(0).random((61, 83))
    tiled = predict(image, model, tile_shape=(24, 24), scores=True)
    whole = predict(image, model, scores=True)
    assert tiled.record.n_tiles > 4
    np.testing.assert_allclose(scores_of(tiled), scores_of(whole), atol=1e-6)


def test_three_dimensions(tmp_path: Path) -> None:
    model = load_model(script(Small(dim=3, channels=2), tmp_path / "m.ts"), trust=True)
    assert (config_of(model).dim, config_of(model).in_channels) == (3, 2)


@pytest.mark.parametrize(
    ("last", "classes", "kind"),
    [
        (nn.Softmax(dim=1), 3, ("exclusive", "probabilities")),
        (nn.Sigmoid(), 3, ("independent", "probabilities")),
        (nn.Sigmoid(), 1, ("independent", "probabilities")),
        (nn.Identity(), 3, ("exclusive", "logits")),
        (nn.Identity(), 1, ("independent", "logits")),
    ],
)
def test_what_the_scores_mean_is_measured_and_said(
    tmp_path: Path, last: nn.Module, classes: int, kind: tuple[str, str]
) -> None:
    path = script(nn.Sequential(Small(classes=classes), last), tmp_path / "m.ts")
    model = load_model(path, trust=True)
    assert (config_of(model).classes, config_of(model).output) == kind
    assert any(kind[1] in note for note in model.notes)


def test_the_caller_knows_better(tmp_path: Path) -> None:
    path = script(Small(), tmp_path / "m.ts")
    model = load_model(
        path,
        trust=True,
        output="probabilities",
        classes="independent",
        class_names=["background", "a", "b"],
        normalization=Normalization(method="range", low=0, high=1),
    )
    assert (config_of(model).classes, config_of(model).output) == ("independent", "probabilities")
    assert model.spec.labels == ("background", "a", "b")
    assert not any("taken as" in note or "assumed" in note for note in model.notes)
    with pytest.raises(ConfigError, match="activation='relu' means nothing"):
        load_model(path, activation="relu")


def test_without_weights_dimensions_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "frozen.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(Small().eval()))
        torch.jit.save(frozen, path)
    with pytest.raises(ModelFileError, match="dim=2, in_channels=1"):
        load_model(path, trust=True)
    assert config_of(load_model(path, dim=2, in_channels=1)).in_channels == 1
    with pytest.raises(ModelFileError, match="dim=2 and in_channels=3"):
        load_model(path, dim=2, in_channels=3)


class Sum(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + other


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), x


def test_networks_with_more_than_an_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="takes 2 inputs"):
        load_model(script(Sum(), tmp_path / "sum.ts"), trust=True)
    with pytest.raises(ModelFileError, match="returns a tuple"):
        load_model(script(Pair(), tmp_path / "pair.ts"), trust=True)
    image = torch.zeros((1, 1, 8, 8))
    torch.export.save(torch.export.export(Sum(), (image, image)), tmp_path / "sum.pt2")
    with pytest.raises(ModelFileError, match="2 inputs and 1 outputs"):
        load_model(tmp_path / "sum.pt2", trust=True)


def test_one_size_only(tmp_path: Path) -> None:
    path = tmp_path / "fixed.pt2"
    program = torch.export.export(Small().eval(), (torch.zeros((1, 1, 32, 40)),))
    torch.export.save(program, path)
    model = load_model(path, trust=True)
    assert [reach.largest for reach in config_of(model).reach] == [32, 40]
    image = np.random.default_rng(0).random((50, 61))
    assert predict(image, model).labels.shape == (50, 61)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batch.pt2"
    torch.export.save(torch.export.export(Small().eval(), (torch.zeros((3, 1, 8, 8)),)), path)
    with pytest.raises(ModelFileError, match="exactly 3 images"):
        load_model(path, trust=True)


# Damaged files


def damaged(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        yield content[: int(share * len(content))]
    for start in range(0, len(content), len(content) // 8):
        yield content[:start] + bytes(64) + content[start + 64 :]


def test_damaged_programs_are_refused(program: Path, tmp_path: Path) -> None:
    broken = tmp_path / f"broken{program.suffix}"
    for content in damaged(program):
        broken.write_bytes(content)
        try:
            load_model(broken, trust=True)  # what was damaged may not matter
        except ModelFileError as error:
            assert str(broken) in str(error)  # noqa: PT017 (it may also load)


def test_archives_that_unpack_to_more_are_refused(program: Path) -> None:
    with zipfile.ZipFile(program, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/code/bomb.py", bytes(1000))
        archive.infolist()[-1].file_size = 2**40
    with pytest.raises(ModelFileError, match="claims to unpack"):
        load_model(program, trust=True)


def test_machine_code_is_refused(tmp_path: Path) -> None:
    path = export(Small(), tmp_path / "m.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/data/aotinductor/model/library.so", b"code")
    with pytest.raises(ModelFileError, match="machine code"):
        load_model(path, trust=True)


# Real files


@pytest.mark.slow
def test_bioimageio_torchscript(shared: Path) -> None:
    folder = shared / "models" / "bioimageio_unet2d_nuclei_broad"
    model = load_model(folder / "weights.pt", trust=True)
    image = np.load(folder / "test_input.npy")
    image = (image - image.mean()) / image.std()
    scores = model.network(torch.from_numpy(image)).sigmoid().numpy(force=True)
    np.testing.assert_allclose(scores, np.load(folder / "test_output.npy"), atol=1e-4)
    assert {(reach.multiple, reach.loss) for reach in config_of(model).reach} == {(8, 0)}
    assert config_of(model).tiles_exactly


def test_bioimageio_with_two_inputs_is_refused(shared: Path) -> None:
    folder = shared / "models" / "bioimageio_unet2d_multi_tensor"
    with pytest.raises(ModelFileError, match="takes 2 inputs"):
        load_model(folder / "weights_torchscript_traced.pt", trust=True)
