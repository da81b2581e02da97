"""A network that onnxruntime computes, behind the face of a module."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor, nn

from unetari.errors import ModelFileError, NetworkError
from unetari.model.formats.onnx_checks import need
from unetari.model.formats.wrappers import Wrapper

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_FOLDER = "session.model_external_initializers_file_folder_path"
_MOST_BYTES = 2**31 - 2**20  # the limit of protobuf, and room for the card
_SILENT = 4  # fatal errors only: sizes that are not taken are no news
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_TYPES["tensor(double)"] = torch.float64


class Program:
    """An ONNX file, and the sessions that compute it: one per device and number of threads.

    Parameters
    ----------
    content : bytes
        The file.
    folder : Path
        Where weights in other files are looked for.
    """

    def __init__(self, content: bytes, folder: Path) -> None:
        self._content, self._folder = content, folder
        self._sessions: dict[tuple[str, int, int], Any] = {}
        self._lock = Lock()

    def graph(self) -> Any:
        """Return the graph, weights of other files included.

        Raises
        ------
        ModelFileError
            If those files are gone, or it is too large for one file.
        """
        onnx = need("onnx")
        model = onnx.ModelProto.FromString(self._content)
        try:
            onnx.load_external_data_for_model(model, str(self._folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelFileError(
                f"Its weights in other files cannot be read ({str(error)[:300]}). Load the model "
                "again."
            ) from error
        if model.ByteSize() >= _MOST_BYTES:
            raise ModelFileError(
                "With its weights it is larger than 2 GiB, which no single ONNX file can be. Keep "
                "its own files."
            )
        return model

    def session(self, device: torch.device) -> Any:
        """Return a session for a device; without onnxruntime's GPU package, one on the CPU.

        Raises
        ------
        ModelFileError
            If onnxruntime does not take the file.
        """
        runtime = need("onnxruntime")
        on_gpu = device.type == "cuda" and _CUDA in runtime.get_available_providers()
        gpu = (device.index or 0) if on_gpu else 0
        key = (_CUDA if on_gpu else _CPU, torch.get_num_threads(), gpu)
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._open(runtime, *key)
            return self._sessions[key]

    def _open(self, runtime: Any, provider: str, threads: int, gpu: int) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        options.add_session_config_entry(_FOLDER, str(self._folder.absolute()))
        chosen = (provider, {"device_id": gpu} if provider == _CUDA else {})
        try:
            return runtime.InferenceSession(self._content, options, providers=[chosen])
        except Exception as error:  # onnxruntime has a type of its own for every failure
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelFileError(
                f"onnxruntime {runtime.__version__} does not take it ({lines[0][:300]}). Check it "
                "with onnx.checker, update onnxruntime, or export it with an older opset."
            ) from error


class OnnxNetwork(Wrapper):
    """A module without parameters that hands its input to onnxruntime.

    Copies share the sessions: they hold nothing that a run changes.

    Parameters
    ----------
    program : Program
        The file.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self._program)

    def unwrapped(self) -> nn.Module:
        """Raise: there is no module."""
        raise ModelFileError(
            "It is an ONNX graph, which holds no weights and layers that torch knows. Choose onnx "
            "or bioimageio."
        )

    def onnx_graph(self) -> Any:
        """Return the file."""
        return self._program.graph()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores of a batch, (N, C, [Z,] Y, X).

        Raises
        ------
        NetworkError
            If onnxruntime does not take it.
        MemoryError
            If it needs more memory than there is.
        """
        session = self._program.session(x.device)
        (given,) = session.get_inputs()
        values = x.detach().cpu().to(_TYPES[given.type]).contiguous().numpy()
        try:
            (scores,) = session.run(None, {given.name: values})
        except Exception as error:  # onnxruntime has a type of its own for every failure
            if "alloc" in str(error).lower():
                raise MemoryError(str(error)[:300]) from error
            raise NetworkError(f"onnxruntime stopped: {str(error)[:300]}") from error
        return torch.from_numpy(scores).to(x.device, torch.float32)

    def check(self) -> None:
        """Open a session and look at what it takes and gives.

        Raises
        ------
        ModelFileError
            If onnxruntime does not take the file, or its input and output are no images.
        """
        session = self._program.session(torch.device("cpu"))
        given, made = session.get_inputs()[0], session.get_outputs()[0]
        for what, value in (("input", given), ("output", made)):
            if value.type not in _TYPES:
                raise ModelFileError(
                    f"Its {what} {value.name!r} is a {value.type}, and floating-point numbers are "
                    "needed. Export the network alone, without conversions before or after it."
                )
