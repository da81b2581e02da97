"""A runner waits for the next run of its model, and is made anew where that would be wrong."""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetari import Model, UNetConfig, predict, predict_tiles
from unetari.core.spec import ModelSpec
from unetari.inference import waiting
from unetari.inference.decide import TileResult
from unetari.inference.job import prepare
from unetari.inference.predict import run
from unetari.inference.record import RunRecord
from unetari.inference.runner import Runner

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 56)).astype(np.uint8)


@pytest.fixture
def model() -> Model:
    return Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every network of which a runner is made."""
    networks: list[Any] = []

    def make(network: torch.nn.Module, *args: Any, **options: Any) -> Runner:
        networks.append(network)
        return Runner(network, *args, **options)

    monkeypatch.setattr(waiting, "Runner", make)
    return networks


def scores(model: Model, **options: Any) -> NDArray[np.float32]:
    found = predict(IMAGE, model, scores=True, **options).scores
    if found is None:
        pytest.fail("The scores are missing.")
    return found


def bias(model: Model) -> torch.Tensor:
    return dict(model.network.named_parameters())["conv_final.bias"]


def collect_record(results: Generator[TileResult, None, RunRecord]) -> RunRecord:
    while True:
        try:
            next(results)
        except StopIteration as end:
            record: RunRecord = end.value
            return record


def test_the_next_run_takes_the_runner_of_the_one_before(model: Model, made: list[Any]) -> None:
    first, second = scores(model), scores(model)
    np.testing.assert_array_equal(first, second)
    assert len(made) == 1


def test_other_weights_need_another_runner(model: Model, made: list[Any]) -> None:
    before = scores(model)
    with torch.no_grad():
        bias(model)[1] += 3
    after = scores(model)
    fresh = Model.from_network(model.network, ModelSpec(config=model.spec.config))  # type: ignore[arg-type]
    assert len(made) == 2
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(after, scores(fresh))


def test_weights_that_change_without_torch_knowing_are_seen(model: Model) -> None:
    before = scores(model)
    bias(model).data[1] += 3
    assert not np.allclose(before, scores(model))


def test_kept_statistics_are_those_of_the_new_image(made: list[Any]) -> None:
    config = UNetConfig(n_blocks=2, start_filters=4, normalization="instance")
    model = Model.build(config, seed=0)
    predict(IMAGE[::-1, :40] // 3, model, norm_statistics="whole")
    again = scores(model, norm_statistics="whole")
    assert len(made) == 1
    np.testing.assert_array_equal(
        again, scores(Model.build(config, seed=0), norm_statistics="whole")
    )
    plain = scores(model)  # a runner of the other kind, with the statistics of the tile
    np.testing.assert_allclose(plain, again, atol=1e-5)


def test_two_runs_at_once_have_a_runner_each(model: Model, made: list[Any]) -> None:
    first, second = predict_tiles(IMAGE, model), predict_tiles(IMAGE, model)
    one, two = next(first), next(second)
    assert len(made) == 2
    np.testing.assert_array_equal(one.labels, two.labels)
    for results in (first, second):
        results.close()
    assert model in waiting._waiting


def test_a_stopped_run_stops_no_later_one(model: Model) -> None:
    stops: list[bool] = []
    job = prepare(IMAGE, model, tile_shape=(40, 32))
    results = run(job, should_stop=lambda: bool(stops))
    next(results)
    stops.append(True)
    assert collect_record(results).status == "cancelled"
    assert model in waiting._waiting
    assert predict(IMAGE, model).record.status == "finished"


def test_a_runner_goes_with_its_model() -> None:
    model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
    predict(IMAGE, model)
    runner = ref(waiting._waiting[model])
    assert runner() is not None
    del model
    gc.collect()
    assert runner() is None


def test_only_one_runner_waits(model: Model) -> None:
    other = Model.build(UNetConfig(n_blocks=1, start_filters=2), seed=0)
    predict(IMAGE, model)
    predict(IMAGE, other)
    assert list(waiting._waiting) == [other]


def test_other_layers_need_another_runner(model: Model) -> None:
    before = scores(model)
    for name in [name for name, _ in model.network.named_modules()]:
        if name.endswith("act1"):
            model.network.set_submodule(name, torch.nn.Tanh())
    assert not np.allclose(before, scores(model))


def test_a_run_that_is_closed_while_a_runner_is_taken_does_no_harm(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned = predict_tiles(IMAGE, model)
    next(abandoned)

    class Waiting(WeakKeyDictionary[Model, Runner]):
        def pop(self, *args: Any) -> Any:
            abandoned.close()  # as the garbage collector may, at any place
            return super().pop(*args)

    monkeypatch.setattr(waiting, "_waiting", Waiting())
    assert predict(IMAGE, model).record.status == "finished"


def test_a_waiting_runner_holds_its_weights_once(model: Model) -> None:
    predict(np.zeros((400, 400), np.uint8), model)
    runner = waiting._waiting[model]
    names = {"_by_onednn", "winograd"}
    assert not any(names & set(module.__dict__) for module in runner._network.modules())
