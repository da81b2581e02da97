from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch

from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization
from unetari.errors import ConfigError, ModelFileError, OutputExistsError
from unetari.inference.predict import predict
from unetari.model.checkpoint import Model, load_model
from unetari.model.unet import UNet
from unetari.training.augment import draw_patch
from unetari.training.data import Pair, TrainingSample, load_samples
from unetari.training.loop import (
    TrainingProgress,
    choose_images,
    learning_rate,
    score_network,
    train,
)
from unetari.training.options import Augmentation, TrainingOptions
from unetari.training.state import resume_file

Pairs = tuple[Pair, ...]


def drain(progress: Iterator[TrainingProgress]) -> list[TrainingProgress]:
    return list(progress)


def stop_after(steps: int) -> Iterator[bool]:
    yield from (False for _ in range(steps))
    while True:
        yield True


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).network.state_dict()


def assert_same(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_gives_a_model_with_its_card(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    options = options.replace(name="blobs", class_names=("background", "blob"), license="CC0-1.0")
    steps = drain(train(options, pairs, tmp_path / "blobs"))
    assert [progress.step for progress in steps] == [1, 2, 3, 4, 5, 6]
    assert [progress.score is not None for progress in steps] == [False, False, True] * 2
    assert steps[-1].is_complete
    assert steps[-1].seconds_left == 0
    model = load_model(steps[-1].path)
    spec = model.spec
    assert steps[-1].path.name == "blobs.safetensors"
    assert (spec.name, spec.class_names, spec.license) == (
        "blobs",
        ("background", "blob"),
        "CC0-1.0",
    )
    assert spec.normalization == options.normalization
    assert spec.training["validation_images"] == ["4"]
    assert spec.training["validation_iou"] == steps[-1].best
    assert not resume_file(steps[-1].path).exists()


def test_the_saved_score_is_that_of_the_saved_model(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    last = drain(train(options, pairs, tmp_path / "m"))[-1]
    network = cast("UNet", load_model(last.path).network)
    score = score_network(network, load_samples(pairs[4], options), "cpu")
    assert score == pytest.approx(last.best)


def test_equal_seeds_give_equal_models(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        drain(train(options.replace(seed=seed), pairs, tmp_path / name))
    assert_same(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "a.safetensors", tmp_path / "c.safetensors")


@pytest.mark.parametrize("done", [2, 3, 5])
def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_one(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path, done: int
) -> None:
    whole = drain(train(options, pairs, tmp_path / "whole"))
    answers = stop_after(done)
    first = drain(train(options, pairs, tmp_path / "parts", should_stop=lambda: next(answers)))
    assert [progress.step for progress in first] == list(range(1, done + 1))
    rest = drain(train(options, pairs, tmp_path / "parts", resume=True))
    assert [progress.step for progress in rest] == list(range(done + 1, 7))
    assert rest[-1].best == whole[-1].best
    assert_same(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")
    histories = [
        bundle.spec.training["history"]
        for bundle in map(load_model, (whole[-1].path, rest[-1].path))
    ]
    assert histories[0] == histories[1]


def test_averaged_weights_are_the_mean_of_the_last_steps(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    options = options.replace(steps=3, validate_every=1, average=0.9)
    networks = []
    for step in itertools.islice(train(options, pairs, tmp_path / "averaged"), 2):
        content = torch.load(resume_file(step.path), weights_only=True)
        networks.append(content["network"])
    # At first the decay rises: (1 + n) / (10 + n) after n steps.
    kept = 2 / 11
    for name in ("conv_final.weight", "down_blocks.0.conv1.bias"):
        expected = kept * networks[0][name] + (1 - kept) * networks[1][name]
        torch.testing.assert_close(content["average"][f"module.{name}"], expected)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_stopped_and_resumed_averages_go_on(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path, average: float
) -> None:
    options = options.replace(average=average)
    drain(train(options, pairs, tmp_path / "whole"))
    stopping = stop_after(4)
    drain(train(options, pairs, tmp_path / "parts", should_stop=lambda: next(stopping)))
    drain(train(options, pairs, tmp_path / "parts", resume=True))
    assert_same(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")


def test_closing_the_generator_keeps_what_was_done(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    steps = train(options, pairs, tmp_path / "m")
    for _ in range(4):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert next(train(options, pairs, tmp_path / "m", resume=True)).step == 5


def test_resuming_with_other_options_is_refused(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    answers = stop_after(2)
    drain(train(options, pairs, tmp_path / "m", should_stop=lambda: next(answers)))
    with pytest.raises(ConfigError, match=r"batch_size was 2 and is 3"):
        train(options.replace(batch_size=3), pairs, tmp_path / "m", resume=True)
    renamed = options.replace(name="another name")
    assert drain(train(renamed, pairs, tmp_path / "m", resume=True))[-1].is_complete


def test_a_resume_file_that_would_run_code_is_refused(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    torch.save({"step": Path.home}, resume_file(tmp_path / "m.safetensors"))
    with pytest.raises(ModelFileError, match="would run code") as refusal:
        train(options, pairs, tmp_path / "m", resume=True)
    assert "weights_only" not in str(refusal.value)


def test_a_damaged_resume_file_is_refused(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="nothing to resume"):
        train(options, pairs, tmp_path / "m", resume=True)
    resume_file(tmp_path / "m.safetensors").write_bytes(b"no zip file")
    with pytest.raises(ModelFileError, match="cannot be read"):
        train(options, pairs, tmp_path / "m", resume=True)
    torch.save({"step": 3}, resume_file(tmp_path / "m.safetensors"))
    with pytest.raises(ModelFileError, match="no resume file"):
        train(options, pairs, tmp_path / "m", resume=True)


def test_nothing_is_overwritten_without_permission(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    out.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"m\.safetensors exists"):
        train(options, pairs, out)
    assert out.read_text() == "mine"
    drain(train(options, pairs, out, overwrite=True))
    assert load_model(out).spec.config == options.network


def test_models_are_saved_under_the_names_that_save_model_takes(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=r"saved as \.safetensors"):
        train(options, pairs, tmp_path / "m.pt")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelFileError, match="folder"):
        train(options, pairs, tmp_path / "folder", overwrite=True)
    train(options, pairs, tmp_path / "m.SafeTensors")


def test_the_best_model_is_kept(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, 0.8, 0.5])
    monkeypatch.setattr("unetari.training.loop.score_network", lambda *_: next(scores))
    options = options.replace(validate_every=2)
    steps = drain(train(options, pairs, tmp_path / "m"))
    assert [p.score for p in steps if p.score is not None] == [0.3, 0.8, 0.5]
    assert steps[-1].best == 0.8
    assert load_model(steps[-1].path).spec.training["step"] == 4


def test_training_that_falls_apart_ends_with_advice(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    for pair in pairs:
        tifffile.imwrite(pair.image, np.full((40, 52), 1e38, np.float32))
    network = options.network.replace(normalization="none")
    options = options.replace(network=network, normalization=Normalization(method="none"))
    with pytest.raises(ConfigError, match="Start a new run with a lower one"):
        drain(train(options, pairs, tmp_path / "m"))
    assert not (tmp_path / "m.safetensors").exists()


def break_after(patches: int, error: BaseException | None = None) -> Callable[..., Any]:
    """Return a `draw_patch` that gives NaN, or raises an error, after some patches."""
    count = itertools.count(1)

    def draw(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = draw_patch(*arguments)
        if next(count) <= patches:
            return image, labels
        if error is not None:
            raise error
        return image * math.nan, labels

    return draw


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_a_run_that_breaks_keeps_the_last_good_state(
    options: TrainingOptions,
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("unetari.training.loop.draw_patch", break_after(8, error))
        with pytest.raises((ConfigError, KeyboardInterrupt)):
            drain(train(options, pairs, tmp_path / "m"))
    # Step 5 broke; the last validation was after step 3.
    assert next(train(options, pairs, tmp_path / "m", resume=True)).step == 4


def test_a_gradient_that_is_not_finite_reaches_no_weights(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "unetari.training.loop.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(math.inf)
    )
    with pytest.raises(ConfigError, match="gradient inf in step 1"):
        drain(train(options, pairs, tmp_path / "m"))


def test_a_last_save_that_fails_can_be_tried_again(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Path:
        raise ModelFileError("no space left")

    scores = iter([0.3, 0.8])
    steps = train(options, pairs, tmp_path / "m")
    with monkeypatch.context() as patch:
        patch.setattr("unetari.training.loop.score_network", lambda *_: next(scores))
        for _ in range(5):
            next(steps)
        patch.setattr("unetari.training.loop.save_model", full)
        with pytest.raises(ModelFileError, match="no space"):
            next(steps)
    assert drain(train(options, pairs, tmp_path / "m", resume=True))[-1].is_complete


@pytest.mark.parametrize(
    "network",
    [
        UNetConfig(dim=3, n_blocks=2, start_filters=4),
        UNetConfig(dim=3, n_blocks=2, start_filters=4, out_channels=1, up_mode="trilinear"),
    ],
)
def test_volumes_train_too(
    network: UNetConfig, options: TrainingOptions, tmp_path: Path, volumes: Pairs
) -> None:
    options = options.replace(
        network=network, patch_size=(8, 8, 8), steps=2, validate_every=2, validation=("1",)
    )
    assert drain(train(options, volumes, tmp_path / "m"))[-1].score is not None


def test_valid_convolution_trains(options: TrainingOptions, pairs: Pairs, tmp_path: Path) -> None:
    network = UNetConfig(n_blocks=2, start_filters=4, conv_mode="valid")
    options = options.replace(network=network, patch_size=(32, 32), steps=2)
    assert drain(train(options, pairs, tmp_path / "m"))[-1].score is not None


def test_learning_makes_the_loss_fall_and_the_result_good(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    options = options.replace(
        steps=60,
        validate_every=15,
        batch_size=4,
        learning_rate=1e-2,
        augmentation=Augmentation(affine=0, intensity=0.2, blur=0, noise=0.2),
    )
    last = drain(train(options, pairs, tmp_path / "m"))[-1]
    history = load_model(last.path).spec.training["history"]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert last.best is not None
    assert last.best > 0.75
    labels = predict(np.zeros((20, 20), np.uint16), load(last)).labels
    assert labels.shape == (20, 20)


def load(progress: TrainingProgress) -> Model:
    return load_model(progress.path)


def test_the_learning_rate_rises_and_falls(options: TrainingOptions) -> None:
    options = options.replace(steps=100, learning_rate=0.01)
    rates = [learning_rate(step, options) for step in range(100)]
    assert rates.index(max(rates)) in (4, 5)
    assert max(rates) == pytest.approx(0.01)
    assert rates[-1] < 1e-5


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        ("image", [1 / 3, 1 / 3, 1 / 3]),
        ("size", [1 / 2, 1 / 4, 1 / 4]),
        ("foreground", [1 / 8, 3 / 8, 4 / 8]),
    ],
)
def test_images_are_drawn_as_often_as_asked_for(sampling: str, shares: list[float]) -> None:
    samples = []
    for size, objects in ((200, 100), (100, 300), (100, 400)):
        labels = np.zeros((size, size), np.uint16)
        labels.flat[:objects] = 1
        samples.append(TrainingSample("", np.zeros((1, size, size), np.float32), labels))
    options = TrainingOptions(batch_size=4000, sampling=sampling)
    chosen = choose_images(samples, options, np.random.default_rng(0))
    assert np.bincount(chosen) / 4000 == pytest.approx(shares, abs=0.03)


@pytest.mark.parametrize(("share", "updates"), [(0.5, 3), (1.0, 6)])
def test_batch_norm_keeps_its_statistics_near_the_end(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path, share: float, updates: int
) -> None:
    options = options.replace(freeze_statistics=share, validate_every=6)
    path = drain(train(options, pairs, tmp_path / "m"))[-1].path
    assert int(weights(path)["down_blocks.0.norm1.num_batches_tracked"]) == updates


def test_the_parts_of_the_loss_can_be_chosen(
    options: TrainingOptions, pairs: Pairs, tmp_path: Path
) -> None:
    def loss(name: str, **changes: Any) -> float:
        return next(train(options.replace(**changes), pairs, tmp_path / name)).loss

    dice, usual, twice = (loss(f"m{weight}", cross_entropy_weight=weight) for weight in (0, 1, 2))
    assert usual - dice == pytest.approx(twice - usual)
    assert usual > dice
    # Background is most of these images, so that its Dice is better than that of the objects.
    assert loss("all", cross_entropy_weight=0, dice_classes="all") < dice
