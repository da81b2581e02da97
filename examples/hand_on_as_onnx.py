"""Write the bundled model as ONNX, and open it again as any program would."""

from unetari import export_model, load_model
from unetari.core.network import reach_of

path = export_model(load_model("nuclei-2d"), "nuclei-2d.onnx")
again = load_model(path)
print(f"{path}: {path.stat().st_size:,} bytes, labels {', '.join(again.spec.labels)}")
for axis, reach in zip("YX", reach_of(again.spec.config), strict=True):
    print(
        f"{axis}: sizes are multiples of {reach.multiple}, tiles overlap by {reach.margin} pixels"
    )
