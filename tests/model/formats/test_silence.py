"""Warnings are of the process: loading in several threads leaves them as they were."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any

import pytest
import torch
from torch import nn

from unetari.model.checkpoint import load_model
from unetari.model.formats.silence import quiet


def test_whoever_leaves_first_all_is_restored_at_the_end() -> None:
    logger = logging.getLogger("torch.onnx")
    filters, level = list(warnings.filters), logger.level
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("still ignored", stacklevel=1)
    assert logger.level == logging.CRITICAL
    second.__exit__(None, None, None)
    assert (list(warnings.filters), logger.level) == (filters, level)


def test_only_what_is_named_is_ignored() -> None:
    with quiet("known", FutureWarning):
        warnings.warn("known, and ignored", FutureWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)


def test_models_that_load_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    load_model("nuclei-2d")  # imports, which have warnings of their own
    torch.save(load_model("nuclei-2d").network.state_dict(), path)
    filters, load = list(warnings.filters), torch.load
    inside = {"first": Event(), "second": Event()}
    first_has_left = Event()

    def overlapping(*args: Any, **options: Any) -> Any:
        name = current_thread().name
        inside[name].set()
        (inside["second"] if name == "first" else first_has_left).wait(60)
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", overlapping)
    threads = [Thread(target=load_model, args=(path,), name=name) for name in inside]
    threads[0].start()
    inside["first"].wait(60)
    threads[1].start()
    threads[0].join()
    first_has_left.set()
    threads[1].join()
    assert list(warnings.filters) == filters


class _Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def test_opening_and_running_a_program_adds_no_filter(tmp_path: Path) -> None:
    path = tmp_path / "half.pt2"
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("y"), 3: torch.export.Dim("x")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(_Half(), (torch.ones(2, 1, 6, 8),), dynamic_shapes=(sizes,))
        torch.export.save(program, path)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        model = load_model(path, trust=True)
        with torch.no_grad():
            model.network(torch.ones(1, 1, 6, 8))
        assert list(warnings.filters) == filters
