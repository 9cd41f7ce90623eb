"""TensorFlow Lite Micro, which runs .tflite files on microcontrollers, in its Python interpreter.

Its kernels here are the portable reference ones; a board may have faster ones, such as CMSIS-NN.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hemline.engines.litert import LiteRTEngine
from hemline.errors import EngineUnavailableError, ModelFileError
from hemline.facts import TensorSpec
from hemline.quiet import held_back

try:
    from tflite_micro.python.tflite_micro import runtime
except ImportError as error:
    raise EngineUnavailableError(
        "TensorFlow Lite Micro is not installed, or not for this system (Linux on x86-64 only): "
        "pip install 'hemline[micro]'"
    ) from error

# Room for any model that a microcontroller could hold; it is not touched before it is used.
_ARENA_BYTES = 1 << 28
# What TFLM aligns its arena to.
_ALIGNMENT = 16
_TOTAL = re.compile(rb"Arena allocation total (\d+) bytes")


class MicroEngine(LiteRTEngine):
    """A .tflite file in TensorFlow Lite Micro, one sample at a time, in one thread.

    Tensor names and facts are read by LiteRT. It keeps Python's lock while it computes.
    """

    name: ClassVar[str] = "micro"

    def __init__(self, path: Path, threads: int, *, content: bytes | None = None) -> None:
        super().__init__(path, threads, content=content)
        self.inputs = _lay_out(self.inputs, self._interpreter.get_input_details())
        self.outputs = _lay_out(self.outputs, self._interpreter.get_output_details())
        for spec in self.inputs:
            if None in spec.shape:
                raise ModelFileError(
                    f"{path}: TensorFlow Lite Micro takes fixed shapes only, and that of the "
                    f"input {spec.name} is open beyond the batch: fix it, and convert again"
                )
        with held_back() as said:
            micro = _open(self._content, _ARENA_BYTES)
        if micro is None:
            raise ModelFileError(f"TensorFlow Lite Micro refuses {path}: {_reason(said)}")
        self._micro = micro

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return self.run_all([tensor])[0]

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            for number, tensor in enumerate(tensors):
                self._micro.set_input(tensor, number)
            self._micro.invoke()
        except (ValueError, RuntimeError) as error:
            raise self._failure(error) from error
        return [self._micro.get_output(number) for number in range(len(self.outputs))]

    def arena_bytes(self) -> int:
        """Returns the size of the smallest arena that the file runs in, on this machine.

        Found by trying, to 16 bytes. Pointers have 8 bytes here and 4 on a microcontroller of 32
        bits, and the interpreter here keeps a record of its allocations as well, so a board needs
        no more than that, if its kernels ask for no more scratch memory than the portable ones.
        """
        details = self._interpreter.get_input_details()
        self.run_all([np.zeros(one["shape"], one["dtype"]) for one in details])
        with held_back() as said:
            self._micro.print_allocations()
        # What is in use at the end. To lay it out may take more, and in an arena that is smaller
        # by far the interpreter crashes.
        total = int(_TOTAL.findall(said)[0])
        low = high = total // _ALIGNMENT * _ALIGNMENT - _ALIGNMENT
        with held_back():
            while _open(self._content, high) is None:
                low, high = high, 2 * high
            while high - low > _ALIGNMENT:
                middle = (low + high) // 2 // _ALIGNMENT * _ALIGNMENT
                if _open(self._content, middle) is None:
                    low = middle
                else:
                    high = middle
        return high

    @classmethod
    def version(cls) -> str:
        return version("tflite-micro")


def _lay_out(
    specs: tuple[TensorSpec, ...], details: Sequence[dict[str, Any]]
) -> tuple[TensorSpec, ...]:
    """Returns tensors whose batch is open as TFLM takes them: of the file's own size, mostly 1."""
    return tuple(
        replace(spec, shape=(int(one["shape"][0]), *spec.shape[1:])) if spec.shape else spec
        for spec, one in zip(specs, details, strict=True)
    )


def _open(content: bytes, arena_bytes: int) -> Any:
    """Returns an interpreter with its memory laid out, or None if TFLM refuses."""
    try:
        return runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
    except RuntimeError:
        return None


def _reason(said: bytearray) -> str:
    """Returns what TFLM said, the kernel's reason and the operator's name, on one line."""
    lines = said.decode(errors="replace").splitlines()
    return "; ".join(line.strip() for line in lines if line.strip()) or "it gives no reason"
