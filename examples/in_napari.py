"""Open napari with a sample image and the plugin beside it.

Press Predict in the dock, or start `unetari demo` to see it done.
"""

from __future__ import annotations

import napari


def main() -> None:
    viewer = napari.Viewer()
    viewer.open_sample("unetari", "nuclei_2d")
    viewer.window.add_plugin_dock_widget("unetari")
    napari.run()


if __name__ == "__main__":
    main()
