"""What was measured of a network is kept, and never in the way."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from unetari.errors import NetworkError
from unetari.model import measurements
from unetari.model.checkpoint import load_model
from unetari.model.measurements import cache_folder, measure_once
from unetari.model.probe import Probe, probe_network


@dataclass(frozen=True)
class Found:
    sizes: tuple[int, ...]
    reason: str | None


FOUND = Found((8, 16), None)
KEY = {"sha256": "abc", "dim": 2, "example_shape": None}


def count(found: Found = FOUND) -> tuple[list[Found], Callable[[], Found]]:
    """Return a list that grows with every measurement."""
    calls: list[Found] = []

    def measure() -> Found:
        calls.append(found)
        return found

    return calls, measure


def test_it_is_measured_once(measurements_folder: Path) -> None:
    calls, measure = count()
    for _ in range(3):
        assert measure_once(Found, KEY, measure) == FOUND
    assert len(calls) == 1
    assert [path.suffix for path in measurements_folder.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "other", [{"sha256": "abd"}, {"dim": 3}, {"example_shape": (8, 8)}, {"more": 1}]
)
def test_it_depends_on_everything(other: dict[str, object]) -> None:
    calls, measure = count()
    measure_once(Found, KEY, measure)
    measure_once(Found, {**KEY, **other}, measure)
    assert len(calls) == 2


def test_a_new_version_measures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, measure = count()
    measure_once(Found, KEY, measure)
    monkeypatch.setattr(measurements, "VERSION", measurements.VERSION + 1)
    measure_once(Found, KEY, measure)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 30_000,
        b'{"key": 3, "value": 4}',
        b'{"key": KEY, "value": {"sizes": "no", "reason": 1}}',
        b'{"key": KEY, "value": {"sizes": [1]}}',
        b" " * 2**17,
    ],
)
def test_damaged_files_are_replaced(measurements_folder: Path, content: bytes) -> None:
    calls, measure = count()
    measure_once(Found, KEY, measure)
    (path,) = measurements_folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(content.replace(b"KEY", json.dumps(json.loads(good)["key"]).encode()))
    assert measure_once(Found, KEY, measure) == FOUND
    assert len(calls) == 2
    assert path.read_bytes() == good


def test_a_folder_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNETARI_CACHE", str(tmp_path / "file" / "folder"))
    calls, measure = count()
    for _ in range(2):
        assert measure_once(Found, KEY, measure) == FOUND
    assert len(calls) == 2


def test_errors_are_not_kept(measurements_folder: Path) -> None:
    def fail() -> Found:
        raise NetworkError("it took no image")

    with pytest.raises(NetworkError):
        measure_once(Found, KEY, fail)
    assert not measurements_folder.exists()


@pytest.mark.parametrize("variable", ["", None])
def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    if variable is None:
        monkeypatch.delenv("UNETARI_CACHE")
        folder = cache_folder()
        assert folder is not None
        assert "unetari" in folder.parts
    else:
        monkeypatch.setenv("UNETARI_CACHE", variable)
        assert cache_folder() is None
        calls, measure = count()
        for _ in range(2):
            measure_once(Found, KEY, measure)
        assert len(calls) == 2


def test_a_probe_comes_back_as_it_was() -> None:
    network = torch.nn.Conv2d(1, 2, 3, padding=1)

    def measure() -> Probe:
        return probe_network(network, dim=2, in_channels=1)

    first = measure_once(Probe, KEY, measure)
    assert measure_once(Probe, KEY, lambda: pytest.fail("measured again")) == first
    assert first.difference is not None


def test_a_file_is_measured_once(tmp_path: Path, measurements_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own advice to use torch.export
        network = torch.nn.Conv2d(1, 2, 3, padding=1)
        program = torch.jit.trace(network, torch.zeros(1, 1, 8, 8))  # type: ignore[no-untyped-call]
        torch.jit.save(program, tmp_path / "m.ts")
    first = load_model(tmp_path / "m.ts", trust=True)
    assert len(list(measurements_folder.iterdir())) == 1
    (path,) = measurements_folder.iterdir()
    kept, before = path.read_bytes(), path.stat().st_mtime_ns
    second = load_model(tmp_path / "m.ts", trust=True)
    assert (second.spec, second.notes) == (first.spec, first.notes)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (kept, before)
    load_model(tmp_path / "m.ts", trust=True, in_channels=1, dim=2)
    assert len(list(measurements_folder.iterdir())) == 1, "said what was found anyway"
