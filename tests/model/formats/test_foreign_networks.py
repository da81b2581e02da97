"""Networks of other programs, from their file to labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unetari.core.network import ForeignConfig
from unetari.core.normalization import Normalization
from unetari.errors import ConfigError, ModelFileError
from unetari.inference.predict import predict
from unetari.model.checkpoint import Model, load_model, save_model

UNTOUCHED = Normalization(method="none")


@pytest.fixture
def checkpoint(shared: Path) -> Path:
    return shared / "models" / "panseg_unet3d_checkpoint" / "best_checkpoint.pytorch"


def elektronn3_file(folder: Path) -> Path:
    """Save a trained-looking network of elektronn3, two blocks with batch norm."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = {"conv_final.weight": draw(2, 4, 1, 1), "conv_final.bias": draw(2)}
    blocks = {"down_convs.0": (1, 4), "down_convs.1": (4, 8), "up_convs.0": (8, 4)}
    for name, (n_in, n_out) in blocks.items():
        for index, n in enumerate((n_in, n_out), start=1):
            weights[f"{name}.conv{index}.weight"] = draw(n_out, n, 3, 3) / (3 * n**0.5)
            weights[f"{name}.conv{index}.bias"] = draw(n_out)
        for index in range(3 if name.startswith("up") else 2):
            weights |= {
                f"{name}.norm{index}.weight": draw(n_out).abs() + 0.5,
                f"{name}.norm{index}.bias": draw(n_out),
                f"{name}.norm{index}.running_mean": draw(n_out),
                f"{name}.norm{index}.running_var": draw(n_out).abs() + 0.5,
                f"{name}.norm{index}.num_batches_tracked": torch.tensor(1),
            }
    weights["up_convs.0.upconv.weight"] = draw(8, 4, 2, 2)
    weights["up_convs.0.upconv.bias"] = draw(4)
    torch.save({"model_state_dict": weights, "info": {"a": "b"}}, folder / "state_dict.pth")
    return folder / "state_dict.pth"


def test_real_checkpoint_to_scores(checkpoint: Path) -> None:
    model = load_model(checkpoint, normalization=UNTOUCHED)
    assert isinstance(model.config, ForeignConfig)
    assert model.config.architecture == "UNet3D of pytorch-3dunet"
    assert model.config.parameters == 1_021_115
    assert [reach.halo for reach in model.config.reach] == [48, 48, 48]
    image = np.random.default_rng(0).normal(size=(16, 24, 32)).astype(np.float32)
    result = predict(image, model, scores=True)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(image)[None, None])
    expected = torch.sigmoid(logits)[0].numpy()
    assert result.scores is not None
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    np.testing.assert_array_equal(result.labels, expected[0] > 0.5)


def test_sizes_that_do_not_fit_are_padded(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    image = np.random.default_rng(0).normal(size=(9, 21, 18)).astype(np.float32)
    assert predict(image, model).labels.shape == image.shape


def test_tiles_give_what_a_whole_pass_gives(tmp_path: Path) -> None:
    model = load_model(elektronn3_file(tmp_path), normalization=UNTOUCHED)
    image = np.random.default_rng(0).normal(size=(101, 83)).astype(np.float32)
    tiled = predict(image, model, tile_shape=(40, 48), scores=True)
    whole = predict(image, model, tile_shape=(104, 88), scores=True)
    assert tiled.scores is not None
    assert whole.scores is not None
    assert np.ptp(whole.scores) > 0.1
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-5)
    np.testing.assert_array_equal(tiled.labels, whole.labels)


def test_options_reach_the_network(tmp_path: Path) -> None:
    path = elektronn3_file(tmp_path)
    assert load_model(path, conv_mode="valid").config.reach[0].loss == 8
    with pytest.raises(ConfigError, match="contradicts the weights, which allow transposed"):
        load_model(path, up_mode="nearest")
    with pytest.raises(ConfigError, match="means nothing to this network"):
        load_model(path, layer_order="gcr")


def test_saving_as_a_unetari_file_is_refused(tmp_path: Path) -> None:
    model = load_model(elektronn3_file(tmp_path))
    with pytest.raises(ModelFileError, match="another network"):
        save_model(model, tmp_path / "m.safetensors")


def test_options_of_other_programs_mean_nothing_to_ours(tmp_path: Path) -> None:
    path = save_model(Model.build(seed=0), tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="says nothing of layer_order"):
        load_model(path, layer_order="gcr")
    torch.save(Model.build(seed=0).network.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="means nothing to this network"):
        load_model(tmp_path / "m.pt", full_norm=True)
