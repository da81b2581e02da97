from __future__ import annotations

import numpy as np
import pytest

from unetari.training.scores import overlap

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0]])
FOUND = np.array([[0, 1, 1, 0], [0, 1, 1, 0]])


def test_iou_of_a_case_by_hand() -> None:
    counts = overlap(FOUND, TRUTH)
    assert counts.intersection.tolist() == [2, 2]
    assert counts.union.tolist() == [6, 6]
    assert counts.iou == pytest.approx(2 / 6)


def test_counts_are_pooled_over_images() -> None:
    empty = np.zeros((2, 4), int)
    assert (overlap(FOUND, TRUTH) + overlap(FOUND, empty)).iou == pytest.approx(2 / 10)
    assert (overlap(FOUND, TRUTH) + overlap(empty, empty)).iou == pytest.approx(2 / 6)


def test_several_classes_are_averaged_without_the_background() -> None:
    truth, found = np.array([0, 1, 1, 2]), np.array([0, 1, 0, 2])
    assert overlap(found, truth, n_classes=4).iou == pytest.approx((1 / 2 + 1) / 2)


def test_agreement_on_nothing_is_perfect() -> None:
    assert overlap(np.zeros(4, np.uint8), np.zeros(4, np.uint16)).iou == 1.0
