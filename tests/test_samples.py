import errno
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from scipy.ndimage import label
from skimage import data

from unetari import samples
from unetari.errors import ImageFileError
from unetari.samples import Sample, nuclei_2d, nuclei_3d

GENERATORS = [nuclei_2d, nuclei_3d]


@pytest.fixture(scope="module")
def generated() -> dict[Callable[[int], Sample], Sample]:
    return {generate: generate(0) for generate in GENERATORS}


@pytest.fixture(params=GENERATORS)
def sample(
    request: pytest.FixtureRequest, generated: dict[Callable[[int], Sample], Sample]
) -> Sample:
    return generated[request.param]


def true_mask(sample: Sample) -> np.ndarray:
    assert sample.mask is not None
    return sample.mask


def test_image_and_mask_belong_together(sample: Sample) -> None:
    mask = true_mask(sample)
    assert sample.image.dtype == mask.dtype == np.uint16
    assert sample.image.shape == mask.shape
    assert len(sample.axes) == sample.image.ndim
    assert set(sample.voxel_size) == set(sample.axes)


def test_size_of_the_2d_image_fits_no_deep_network(
    generated: dict[Callable[[int], Sample], Sample],
) -> None:
    assert any(size % 8 for size in generated[nuclei_2d].image.shape)


@pytest.mark.parametrize("generate", GENERATORS)
def test_seed_decides(
    generate: Callable[[int], Sample], generated: dict[Callable[[int], Sample], Sample]
) -> None:
    np.testing.assert_array_equal(generate(0).image, generated[generate].image)
    assert (generate(1).image != generated[generate].image).any()


def test_many_nuclei_each_in_one_piece(sample: Sample) -> None:
    mask = true_mask(sample)
    names = np.unique(mask)
    assert len(names) > 40
    assert all(label(mask == name)[1] == 1 for name in names[1:12])


def test_intensities_are_those_of_a_detector(sample: Sample) -> None:
    nuclei = sample.image[true_mask(sample) > 0]
    background = sample.image[true_mask(sample) == 0]
    assert np.median(nuclei) > 1.5 * np.median(background)
    assert background.std() > 2, "no noise"
    assert background.min() > 80, "no offset"
    assert sample.image.max() < 65535, "saturated"


def test_light_spreads_beyond_the_nuclei(sample: Sample) -> None:
    mask = true_mask(sample) > 0
    beside = np.roll(mask, 2, -1) & ~mask
    far = ~(mask | np.roll(mask, 12, -1) | np.roll(mask, -12, -1))
    assert sample.image[beside].mean() > sample.image[far].mean() + 1


@pytest.mark.parametrize("generate", GENERATORS)
def test_generated_quickly(generate: Callable[[int], Sample]) -> None:
    start = time.process_time()
    generate(2)
    assert time.process_time() - start < 3, "1.5 s on a free machine"


def test_light_fades_with_depth(generated: dict[Callable[[int], Sample], Sample]) -> None:
    sample = generated[nuclei_3d]
    mask = true_mask(sample) > 0
    upper, lower = (sample.image[part][mask[part]].mean() for part in np.s_[:20, 20:])
    assert lower < upper


def test_real_samples_when_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def load() -> np.ndarray:
        pooch.retrieve("http://127.0.0.1:9/image.tif", None, path=tmp_path)  # nobody listens there
        return np.zeros(0)

    monkeypatch.setenv("NO_PROXY", "*")
    for name, fetch in (("cells3d", samples.cells_3d), ("human_mitosis", samples.human_mitosis)):
        monkeypatch.setattr(data, name, load, raising=False)
        with pytest.raises(ImageFileError, match=rf"{name} .*downloaded: 127\.0\.0\.1 cannot be"):
            fetch()
    assert capfd.readouterr().err == ""


def answer(status: int, reason: str) -> OSError:
    error = OSError("404 Client Error, for https://a.very/long?url")
    error.response = SimpleNamespace(status_code=status, reason=reason)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (answer(404, "Not Found"), "the server answered 404 (Not Found)"),
        (ValueError("hash of downloaded file is d41d8cd98f00"), "what arrived is damaged"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ConnectionError("no route"), "no route"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_cause_of_a_failed_download_is_short(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(data, "cells3d", fail, raising=False)
    with pytest.raises(ImageFileError, match=re.escape(f"downloaded: {cause}. It is")):
        samples.cells_3d()


def test_nuclei_channel_of_cells3d(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.zeros((6, 2, 8, 9), np.uint16)
    volume[:, 1] = 7
    monkeypatch.setattr(data, "cells3d", lambda: volume, raising=False)
    sample = samples.cells_3d()
    assert sample.image.shape == (6, 8, 9)
    assert (sample.image == 7).all()
    assert sample.voxel_size == {"Z": 0.29, "Y": 0.26, "X": 0.26}
    assert sample.mask is None
