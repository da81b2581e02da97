"""Build a network from its options, look at its layers, and check whether an image fits."""

from __future__ import annotations

from unetari import Model, UNetConfig, check_shape, load_model, save_model
from unetari.model.summary import summarize


def main() -> None:
    config = UNetConfig(
        dim=2, in_channels=1, out_channels=2, n_blocks=4, start_filters=32, activation="relu"
    )
    print(summarize(config, (1, 512, 512)))

    for shape in ((512, 512), (510, 690)):
        print(f"\nAn image of {shape}:")
        for sentence in check_shape(config, shape).sentences():
            print(f"- {sentence}")

    model = Model.build(config, class_names=("background", "nucleus"), seed=0)
    path = save_model(model, "untrained.safetensors", overwrite=True)
    print(f"\n{path}: {load_model(path).network!r}")


if __name__ == "__main__":
    main()
