"""Runners that wait for the next run of their model, which then starts at once."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from weakref import WeakKeyDictionary

import torch

from unetari.inference.runner import Runner, hash_weights
from unetari.model.checkpoint import Model
from unetari.model.unet import UNet

_waiting: WeakKeyDictionary[Model, Runner] = WeakKeyDictionary()
_lock = Lock()


def take_runner(
    model: Model, device: torch.device, should_stop: Callable[[], bool], *, frozen: bool
) -> Runner:
    """Return a runner in float32 that nobody else has, as `Runner` makes it.

    It is the one that was kept for this model, if that has the weights of now, and was made for
    this device and `frozen` or not.
    """
    with _lock:
        runner = _waiting.pop(model, None)
    if runner is None or (runner.device, runner.is_frozen) != (device, frozen):
        return Runner(model.network, device, should_stop, frozen=frozen)
    if runner.weights != hash_weights(model.network):
        return Runner(model.network, device, should_stop, frozen=frozen)
    runner.should_stop = should_stop
    return runner


def keep_runner(model: Model, runner: Runner) -> None:
    """Keep a runner from `take_runner` for one more run, as long as the model is there."""
    if isinstance(model.network, UNet):
        runner.rest()
        with _lock:
            _waiting[model] = runner
