"""The runner that waits for the next run of its model, which then starts at once."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch

from unetari.inference.runner import Runner, fingerprint
from unetari.model.checkpoint import Model
from unetari.model.unet import UNet

# At most one, so that no memory is held that nobody knows of. No lock: a run that is closed by the
# garbage collector may come here in the middle of another's call.
_waiting: WeakKeyDictionary[Model, Runner] = WeakKeyDictionary()


def take_runner(
    model: Model, device: torch.device, should_stop: Callable[[], bool], *, frozen: bool
) -> Runner:
    """Return a runner in float32 that nobody else has, as `Runner` makes it.

    It is the one that waits, if that was made of the very network as it is now, for the same
    device and the same `frozen`. Any other that waits is let go.
    """
    runner = _waiting.pop(model, None)
    _waiting.clear()
    if (
        runner is None
        or (runner.device, runner.is_frozen) != (device, frozen)
        or runner.fingerprint != fingerprint(model.network)
    ):
        return Runner(model.network, device, should_stop, frozen=frozen)
    runner.should_stop = should_stop
    return runner


def keep_runner(model: Model, runner: Runner) -> None:
    """Keep a runner from `take_runner` for one more run, as long as the model is there."""
    if isinstance(model.network, UNet):
        runner.rest()
        _waiting.clear()
        _waiting[model] = runner
