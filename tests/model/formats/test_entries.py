"""Checkpoints: the weights are found among what training programs save, and others are said."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.errors import ConfigError, ModelFileError
from unetari.model.checkpoint import load_model
from unetari.model.formats.entries import find_weights
from unetari.model.unet import UNet

SMALL = UNetConfig(n_blocks=2, start_filters=4)
Weights = dict[str, Tensor]


def weights_of(seed: int = 0) -> Weights:
    torch.manual_seed(seed)
    return dict(UNet(SMALL).state_dict())


def prefixed(prefix: str, weights: Weights | None = None) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in (weights or weights_of()).items()}


def optimizer_of(network: nn.Module) -> dict[str, Any]:
    """Return what Adam's state_dict holds after a step."""
    state = {
        index: {"step": torch.tensor(1.0), "exp_avg": p.detach(), "exp_avg_sq": p.detach() ** 2}
        for index, p in enumerate(network.parameters())
    }
    return {"state": state, "param_groups": [{"lr": 0.1, "amsgrad": False, "params": list(state)}]}


# Where the weights are


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.module.", "a.b.c."],
)
@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "net", "generator"])
def test_entries_and_prefixes(entry: str | None, prefix: str) -> None:
    weights = prefixed(prefix)
    content = {"epoch": 3, "loss": [0.1], entry: weights} if entry else weights
    found = find_weights(content)
    assert list(found.weights) == list(weights_of())
    assert found.notes == ()


def test_nested_twice() -> None:
    content = {"model": {"state_dict": weights_of(), "config": {"depth": 2}}, "epoch": 1}
    assert list(find_weights(content).weights) == list(weights_of())


def test_optimizer_beside_the_weights(tmp_path: Path) -> None:
    network = UNet(SMALL)
    torch.save(
        {
            "num_epochs": 7,
            "model_state_dict": network.state_dict(),
            "optimizer_state_dict": optimizer_of(network),
            "best_eval_score": 0.9,
            "device": "cuda:0",
        },
        tmp_path / "last_checkpoint.pytorch",
    )
    model = load_model(tmp_path / "last_checkpoint.pytorch")
    assert model.config == SMALL
    assert not any("taken" in note for note in model.notes)


def test_lightning_checkpoint(tmp_path: Path) -> None:
    network = UNet(SMALL)
    torch.save(
        {
            "epoch": 1,
            "global_step": 10,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**prefixed("model."), "loss_fn.weight": torch.ones(2)},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_score": torch.tensor(0.1)}},
            "optimizer_states": [optimizer_of(network)],
            "hparams_name": "kwargs",
            "hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.99), "name": "a"},
        },
        tmp_path / "last.ckpt",
    )
    assert load_model(tmp_path / "last.ckpt").config == SMALL


def test_lightning_checkpoint_with_objects_is_refused(tmp_path: Path) -> None:
    content = {"state_dict": prefixed("model."), "hyper_parameters": Namespace(lr=0.1)}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ModelFileError) as caught:
        load_model(tmp_path / "last.ckpt")
    for part in ("would run code", "argparse.Namespace", "weights_only=False)['state_dict']"):
        assert part in str(caught.value)


def test_safetensors_with_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors.torch.save(prefixed("module.")))
    assert load_model(path).config == SMALL


# Several candidates


def test_plain_weights_come_before_averages() -> None:
    plain, average = weights_of(1), weights_of(2)
    stats = {"mean": torch.ones(1)}
    content = {"ema_state_dict": average, "model_state_dict": plain, "stats": stats}
    found = find_weights(content)
    assert all(torch.equal(found.weights[name], plain[name]) for name in plain)
    assert found.notes == (
        "The weights in 'model_state_dict' are taken. Those in 'ema_state_dict' are not; "
        "entry='ema_state_dict' takes them.",
    )
    chosen = find_weights(content, "ema_state_dict")
    assert all(torch.equal(chosen.weights[name], average[name]) for name in plain)
    assert "model_state_dict" in chosen.notes[0]


def test_networks_by_prefix() -> None:
    plain, average = weights_of(1), weights_of(2)
    content = {"state_dict": prefixed("model.", plain) | prefixed("ema_model.", average)}
    found = find_weights(content)
    assert all(torch.equal(found.weights[name], plain[name]) for name in plain)
    assert "The weights in 'model' are taken" in found.notes[0]
    chosen = find_weights(content, "ema_model")
    assert all(torch.equal(chosen.weights[name], average[name]) for name in plain)


def test_entries_without_usual_names() -> None:
    content = {"student": weights_of(1), "teacher": weights_of(2)}
    with pytest.raises(ModelFileError, match=r"several entries: student, teacher.*entry='student'"):
        find_weights(content)
    assert list(find_weights(content, "teacher").weights) == list(weights_of())


def test_entry_through_load_model(tmp_path: Path) -> None:
    torch.save({"model": weights_of(1), "ema": weights_of(2)}, tmp_path / "m.pt")
    plain, average = load_model(tmp_path / "m.pt"), load_model(tmp_path / "m.pt", entry="ema")
    first = "down_blocks.0.conv1.weight"
    assert torch.equal(average.network.state_dict()[first], weights_of(2)[first])
    assert torch.equal(plain.network.state_dict()[first], weights_of(1)[first])


@pytest.mark.parametrize("content", [weights_of(), {"model": weights_of()}, prefixed("net.")])
def test_entry_that_is_not_there(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="entry='ema' is not in the file"):
        find_weights(content, "ema")


# What is refused


def test_other_weights_beside_the_network() -> None:
    weights = prefixed("net.") | {"head.weight": torch.zeros(1)}
    with pytest.raises(ModelFileError, match=r"other weights: head\.weight"):
        find_weights({"state_dict": weights})


def test_entry_that_holds_itself() -> None:
    content: dict[str, Any] = {"epoch": 1}
    for name in ("model", "state_dict", "net", "ema"):
        content[name] = content
    with pytest.raises(ModelFileError, match="holds only named tensors"):
        find_weights(content)


@pytest.mark.parametrize(
    "content", [None, 3, [], {}, {"epoch": 1}, {"model": {}}, {"model": {1: torch.ones(1)}}, {1: 2}]
)
def test_nothing_to_find(content: Any) -> None:
    if content == {}:
        assert find_weights(content).weights == {}
        return
    with pytest.raises(ModelFileError, match="state_dict"):
        find_weights(content)


def test_weights_that_claim_more_than_the_file(tmp_path: Path) -> None:
    weights = weights_of()
    weights["conv_final.weight"] = torch.zeros(1).expand(2**20, 2**20, 1, 1)
    content = {"model": weights, "optimizer": {"state": {0: {"exp_avg": torch.zeros(10_000)}}}}
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="claim"):
        load_model(tmp_path / "m.pt")


def test_networks_that_see_the_whole_image_say_what_tiles_cost(shared: Path) -> None:
    model = load_model(shared / "models" / "panseg_unet3d_checkpoint" / "best_checkpoint.pytorch")
    assert not model.spec.config.tiles_exactly
    assert any("a run in tiles measures it" in note for note in model.notes)
