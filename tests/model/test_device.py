"""Devices and free memory."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch

from unetari.errors import DeviceError
from unetari.model import host
from unetari.model.device import available_devices, free_memory, resolve_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_the_cpu_is_always_there_and_last() -> None:
    assert available_devices()[-1] == "cpu"
    assert resolve_device() == torch.device(available_devices()[0])


@pytest.mark.usefixtures("two_gpus")
def test_cuda_comes_first() -> None:
    assert available_devices() == ("cuda:0", "cuda:1", "cpu")
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("CUDA:1") == torch.device("cuda:1")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_cards_with_a_driver_too_old_for_torch_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available_devices() == ("cpu",)


def test_what_torch_keeps_for_metal_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name, value in (
        ("recommended_max", 20_000), ("driver_allocated", 9_000), ("current_allocated", 2_000),
    ):  # fmt: skip
        monkeypatch.setattr(torch.mps, f"{name}_memory", lambda value=value: value)
    assert free_memory("mps") == 18_000


def test_mps_comes_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cuda:2", "gpu", "", "mps"])
def test_unknown_devices_are_refused_with_the_choices(name: str) -> None:
    with pytest.raises(DeviceError, match="auto, cuda:0, cuda:1, cpu") as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)


def test_free_memory_of_the_cpu() -> None:
    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cgroups are Linux's")
@pytest.mark.parametrize(
    ("version", "limit"), [(2, "1000000"), (2, "max"), (1, "1000000"), (1, str(2**63 - 4096))]
)
def test_a_memory_limit_of_the_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, limit: str
) -> None:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        2: ("memory.max", "memory.current"),
    }
    for name, value in zip(names[version], (limit, "600000"), strict=True):
        (tmp_path / name).write_text(value + "\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 200000\n")
    monkeypatch.setattr(
        "unetari.model.host._cgroup_folders", lambda: iter([(tmp_path, *names[version])])
    )
    if limit == "1000000":
        assert free_memory("cpu") == 600_000
    else:
        assert free_memory("cpu") > 1_000_000


def test_groups_that_cannot_be_read_set_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [(tmp_path / "gone", "memory.max", "memory.current")]
    monkeypatch.setattr(host, "_cgroup_folders", lambda: iter(folders))
    assert free_memory("cpu") > 0
