"""The card says what is known, of every network, and leaves out what is not."""

from __future__ import annotations

from typing import Any

import pytest

from unetari.core.card import card_lines, describe_sizes, find_text, summarize
from unetari.core.config import UNetConfig
from unetari.core.network import ForeignConfig
from unetari.core.normalization import Normalization
from unetari.core.sizes import Reach, SizeRule
from unetari.core.spec import ModelSpec


def card(spec: ModelSpec, **known: Any) -> dict[str, str]:
    return dict(card_lines(spec, **known))


def foreign(**changes: Any) -> ForeignConfig:
    reach = Reach(SizeRule(multiple=16, smallest=32, loss=0), halo=48)
    options: dict[str, Any] = {
        "architecture": "ONNX",
        "dim": 2,
        "in_channels": 3,
        "out_channels": 1,
        "reach": (reach, reach),
        "classes": "independent",
        "output": "logits",
    }
    return ForeignConfig(**{**options, **changes})


def test_a_full_card_says_everything_in_order() -> None:
    spec = ModelSpec(
        config=UNetConfig(dim=3, start_filters=16, normalization="group8", in_channels=2),
        normalization=Normalization(method="minmax"),
        class_names=("background", "nucleus"),
        name="mine",
        description="Nuclei.",
        voxel_size=(2, 0.5, 0.5),
        authors=("A", "B"),
        license="CC0-1.0",
        citations=("C",),
        tags=("dapi",),
        data_credit="Somebody",
        training={"training_images": 3, "validation_images": ["a"], "step": 10},
    )
    lines = card_lines(
        spec, parameters=1234567, source="m.pt", kind="a kind", sha256="ab", notes=["x", "y"]
    )
    assert [line.title for line in lines] == [
        "name",
        "description",
        "architecture",
        "parameters",
        "axes",
        "sizes",
        "receptive field",
        "normalization",
        "classes",
        "voxel size",
        "training data",
        "training",
        "licence",
        "authors",
        "to cite",
        "tags",
        "kind",
        "file",
        "SHA-256",
        "note",
        "note",
    ]
    text = dict(lines)
    assert text["parameters"] == "1,234,567"
    assert "group normalization (8 groups)" in text["architecture"]
    assert text["axes"].startswith("images as ZYX, 2 channels")
    assert text["voxel size"] == "2 x 0.5 x 0.5 µm (z, y, x)"
    assert text["training"] == "3 images; 1 held-out image; 10 steps"
    assert "tiles are not exact" in text["receptive field"]


def test_what_is_unknown_is_left_out() -> None:
    assert set(card(ModelSpec())) == {
        "architecture",
        "axes",
        "sizes",
        "receptive field",
        "normalization",
        "classes",
    }


def test_a_file_that_lacks_what_users_must_know_is_said_to() -> None:
    gaps = {"voxel size": "not stated", "training data": "not stated", "licence": "not stated"}
    text = card(ModelSpec(), kind="ONNX")
    assert {title: text.get(title) for title in gaps} == gaps
    full = ModelSpec(voxel_size=(1, 1), data_credit="Somebody", license="MIT")
    assert "not stated" not in card(full, kind="ONNX").values()


def test_rare_options_are_said_only_where_they_are_used() -> None:
    plain = card(ModelSpec())["architecture"]
    config = UNetConfig(dim=3, planar_blocks=(0,), block_order="conv-norm-act")
    rare = card(ModelSpec(config=config))
    assert "planar" not in plain
    assert "planar blocks 0" in rare["architecture"]
    assert "conv-norm-act" in rare["architecture"]
    assert (
        rare["sizes"]
        == "z: multiples of 4; y: multiples of 8; x: multiples of 8; others are padded"
    )
    depth, height, width = rare["receptive field"].removesuffix(" voxels").split(" x ")
    assert int(depth) < int(height) == int(width)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (UNetConfig(n_blocks=1), "any; others are padded"),
        (UNetConfig(n_blocks=3), "multiples of 4; others are padded"),
        (
            UNetConfig(n_blocks=2, conv_mode="valid"),
            "multiples of 2, at least 18; others are padded",
        ),
        (foreign(), "multiples of 16, at least 32; others are padded (measured)"),
        (
            foreign(origin="declared", reach=(Reach(SizeRule(8, 512, 0), 56, largest=512),) * 2),
            "512 only; others are covered by tiles of that size (declared)",
        ),
    ],
)
def test_the_size_rule_says_how_it_is_known(
    config: UNetConfig | ForeignConfig, expected: str
) -> None:
    assert describe_sizes(config) == expected


def test_a_foreign_network_says_what_it_is() -> None:
    text = card(ModelSpec(config=foreign()))
    assert text["architecture"] == "ONNX, 2D"
    assert text["receptive field"] == "at most 97 x 97 voxels (measured)"
    assert text["classes"] == "0 background, 1 class 1"


def test_records_of_other_programs_do_no_harm() -> None:
    training = {"training_images": "many", "validation_images": 7, "step": None}
    assert "training" not in card(ModelSpec(training=training))


def test_the_name_of_a_file_cannot_change_the_terminal() -> None:
    text = {line.title: line.text for line in card_lines(ModelSpec(), source="a\x1b[31m.pt")}
    assert text["file"] == "a\\x1b[31m.pt"


def test_many_classes_are_cut_short() -> None:
    spec = ModelSpec(config=UNetConfig(out_channels=200))
    assert card(spec)["classes"].endswith("and 160 more")
    assert summarize(spec) == "2D, 1 channel: class 1, class 2, class 3, ..."


def test_models_are_found_by_what_their_card_says() -> None:
    spec = ModelSpec(
        name="N", description="D", tags=("T",), class_names=("bg", "Cell"), authors=("Ada",)
    )
    assert set(find_text(spec).split("\n")) == {"n", "d", "t", "bg", "cell", "ada", "2d"}
