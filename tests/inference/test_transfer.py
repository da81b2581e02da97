"""What is sent to a device arrives, and is normalized there as it would be on the host."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from unetari import Model, predict
from unetari.core.normalization import Normalization, fit_intensity
from unetari.errors import OutOfMemoryError
from unetari.inference import reader, transfer
from unetari.inference.engine import one_behind
from unetari.inference.job import prepare
from unetari.inference.predict import collect
from unetari.inference.transfer import Transfer, maps_on_device

MakeModel = Callable[..., Model]
NARROW = ["bool", "uint8", "int8", "uint16", "int16", "float16"]


def noise(dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(0).normal(100, 30, shape)
    return values.clip(0, 250).astype(dtype)


@pytest.mark.parametrize("method", ["percentile", "zscore", "minmax", "range", "none"])
@pytest.mark.parametrize("dtype", NARROW)
def test_the_device_maps_intensities_as_the_host_does(dtype: str, method: Any) -> None:
    image = noise(dtype, 2, 20, 30)
    image[1] = 1  # constant
    if dtype == "float16":
        image[0, 0, :3] = np.nan, np.inf, -np.inf
    intensity = fit_intensity(Normalization(method=method), [image])
    way = Transfer(torch.device("cpu"))
    found = way.receive(way.send(image[np.newaxis], intensity))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found[0].numpy(), intensity(image))


def test_what_is_sent_stays_as_it_is() -> None:
    image = noise("float32", 1, 1, 20, 30)
    image.flags.writeable = False
    way = Transfer(torch.device("cpu"))
    sent = way.receive(way.send(image[..., ::-1]))
    np.testing.assert_array_equal(sent.numpy(), image[..., ::-1])
    sent += 1
    np.testing.assert_array_equal(image, noise("float32", 1, 1, 20, 30))


def test_what_did_not_fit_is_let_go_of(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, since smaller parts are to fit in its place."""
    made: list[weakref.ref[torch.Tensor]] = []

    def failing(self: Transfer, block: np.ndarray[Any, Any], intensity: Any = None) -> Any:
        values = torch.empty(block.shape)
        made.append(weakref.ref(values))
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Transfer, "send", failing)
    job = prepare(noise("uint16", 40, 40), make_model(n_blocks=2, start_filters=2), device="cpu")
    read = reader.Reader(job, Transfer(torch.device("cpu")), lambda: False)
    gc.disable()
    try:
        with contextlib.suppress(OutOfMemoryError):
            read(job.frames, job.plan[0].outer)
        assert [array() for array in made] == [None]
    finally:
        gc.enable()
        read.close()


def test_results_come_back() -> None:
    values = torch.arange(12, dtype=torch.uint8).view(3, 4)
    np.testing.assert_array_equal(Transfer(torch.device("cpu")).fetch(values)(), values.numpy())


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("uint16", "cuda", True),
        ("uint8", "cuda", True),
        ("uint8", "mps", False),
        ("uint16", "cpu", False),
        (">u2", "cuda", False),
        ("int32", "mps", False),
        ("float32", "cuda", False),
    ],
)
def test_only_what_float32_holds_is_mapped_there(dtype: str, device: str, expected: bool) -> None:
    assert maps_on_device(np.dtype(dtype), torch.device(device)) == expected


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("axes", ["YX", "TYX", "CYX"])
def test_a_run_that_sends_raw_values(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, axes: str, dtype: str
) -> None:
    model = make_model(method="percentile", in_channels=2 if "C" in axes else 1)
    image = noise(dtype, *[2] * (len(axes) - 2), 70, 90)
    options: dict[str, Any] = {"axes": axes, "scores": True, "device": "cpu"}
    expected = predict(image, model, **options)
    sent: list[Any] = []
    send = Transfer.send

    def noting(self: Transfer, block: np.ndarray[Any, Any], intensity: Any = None) -> Any:
        sent.append((block.dtype, intensity))
        return send(self, block, intensity)

    monkeypatch.setattr(Transfer, "send", noting)
    monkeypatch.setattr(reader, "maps_on_device", lambda *_: True)
    found = predict(image, model, **options)
    assert {block for block, _ in sent} == {np.dtype(dtype)}
    assert all(intensity is not None for _, intensity in sent)
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_one_behind_keeps_everything() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(3):
            asked.append(item)
            yield item
        raise OSError("broken")

    results = one_behind(items())
    assert next(results) == 0
    assert asked == [0, 1]
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="broken"):
        next(results)


class Queues:
    """What of CUDA a `Transfer` uses, on the CPU; it notes in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.streams = 0
        self.main = Stream(self, "network")
        monkeypatch.setattr(transfer, "_ASYNCHRONOUS", ("cpu",))
        monkeypatch.setattr(transfer, "_PIECE", 512)
        monkeypatch.setattr(torch.cuda, "Stream", self.make)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.main)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: self.record(stream))

    def make(self, _: torch.device) -> Stream:
        self.streams += 1
        return Stream(self, f"way {self.streams}")

    def record(self, stream: Stream) -> None:
        self.log.append(f"{stream.name} uses what arrived")


class Stream:
    def __init__(self, queues: Queues, name: str) -> None:
        self.queues, self.name, self.events = queues, name, 0

    def __enter__(self) -> None:
        self.queues.log.append(f"{self.name} begins")

    def __exit__(self, *_: object) -> None:
        self.queues.log.append(f"{self.name} ends")

    def record_event(self) -> Event:
        self.events += 1
        self.queues.log.append(f"{self.name} records {self.events}")
        return Event(self, self.events)

    def wait_event(self, event: Event) -> None:
        self.queues.log.append(f"{self.name} waits for {event.name}")


class Event:
    def __init__(self, stream: Stream, number: int) -> None:
        self._log, self.name = stream.queues.log, f"{stream.name} {number}"

    def synchronize(self) -> None:
        self._log.append(f"host waits for {self.name}")


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Queues:
    return Queues(monkeypatch)


def test_the_network_waits_for_what_is_sent(queues: Queues) -> None:
    """Pieces of 512 bytes: 600 values of 16 bits are three."""
    image = noise("uint16", 1, 2, 10, 30)
    intensity = fit_intensity(Normalization(method="minmax"), [image[0]])
    way = Transfer(torch.device("cpu"))
    arrival = way.send(image, intensity)
    sent = len(queues.log)
    found = way.receive(arrival)
    np.testing.assert_array_equal(found[0].numpy(), intensity(image[0]))
    assert queues.log[0] == "way 1 begins"
    # A buffer is used again once what was in it has gone, and all has before the array is.
    order = ["way 1 records 1", "way 1 records 2", "host waits for way 1 1", "way 1 records 3"]
    assert queues.log[1:sent] == [
        *order,
        "host waits for way 1 2",
        "host waits for way 1 3",
        "way 1 records 4",
        "way 1 ends",
    ]
    assert queues.log[sent:] == [
        "network waits for way 1 4",
        "network uses what arrived",
        "network records 1",
    ]


def test_the_device_is_not_far_behind(queues: Queues) -> None:
    way = Transfer(torch.device("cpu"))
    for _ in range(3):
        way.receive(way.send(noise("float32", 1, 1, 4, 4)))
    waits = [entry for entry in queues.log if entry.startswith("host waits for network")]
    assert waits == ["host waits for network 1", "host waits for network 2"]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_results_are_copied_once_they_are_there(queues: Queues, dtype: str) -> None:
    values = noise(dtype, 3, 40, 50)
    strided = torch.from_numpy(values).permute(1, 0, 2)
    wait = Transfer(torch.device("cpu")).fetch(strided)
    assert queues.log == ["network records 1"]
    found = wait()
    assert queues.log[:3] == ["network records 1", "host waits for network 1", "way 2 begins"]
    np.testing.assert_array_equal(found, values.transpose(1, 0, 2))


def test_a_single_value_comes_back(queues: Queues) -> None:
    value = torch.arange(5.0).view(1, 5)[:, ::3][:, 1:]
    assert value.stride() == (5, 3)
    np.testing.assert_array_equal(Transfer(torch.device("cpu")).fetch(value)(), [[3]])


def test_results_are_fetched_within_inference_mode_and_without(queues: Queues) -> None:
    way, values = Transfer(torch.device("cpu")), torch.ones(3)
    with torch.inference_mode():
        way.fetch(values)()
    np.testing.assert_array_equal(way.fetch(values)(), [1, 1, 1])


def test_a_run_through_queues(make_model: MakeModel, queues: Queues) -> None:
    image, model = noise("uint16", 3, 80, 200), make_model(n_blocks=2, method="percentile")
    plan: dict[str, Any] = {"axes": "TYX", "tile_shape": (40, 64), "device": "cpu"}
    found = predict(image, model, scores=True, **plan)
    assert queues.log
    queues.log.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_ASYNCHRONOUS", ())
        expected = predict(image, model, scores=True, **plan)
    assert not queues.log
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.record.tiles_done == expected.record.tiles_done


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("statistics", ["tile", "sampled"])
def test_what_does_not_fit_when_it_is_sent(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, norm: str, statistics: str
) -> None:
    statistics = statistics if norm == "instance" else "tile"
    model = make_model(n_blocks=2, start_filters=2, normalization=norm)
    image = noise("uint16", 70, 150)
    job = prepare(image, model, tile_shape=(40, 80), norm_statistics=statistics, device="cpu")
    expected = collect(job)
    send, calls = Transfer.send, {"now": 0, "failing": -1}

    def failing(self: Transfer, *arguments: Any) -> Any:
        calls["now"] += 1
        if calls["now"] == calls["failing"]:
            raise torch.OutOfMemoryError("full")
        return send(self, *arguments)

    monkeypatch.setattr(Transfer, "send", failing)
    collect(job)
    for number in range(1, calls["now"] + 1):
        calls.update(now=0, failing=number)
        found = collect(job)
        assert found.record.progress == 1
        if found.record.exact or statistics == "sampled":
            np.testing.assert_array_equal(found.labels, expected.labels)
