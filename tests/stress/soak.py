"""`make soak`: many predictions in one process; its memory and its results stay what they were.

Each file gets a fixed set of images in turn. All along, the process's resident memory is read, and
the outputs of the whole set are hashed. Exit status 1: memory grew by more than 1 % after the
warm-up, or a result changed.
"""

import argparse
import hashlib
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import hemline

FILES = ("int8.tflite", "float32.onnx")
IMAGES = 500
# Shares of the calls after which memory is read, the first after the warm-up.
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
MOST_GROWTH = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was found after some calls."""

    calls: int
    seconds: float
    resident_bytes: int
    growth: float
    same: bool


def resident_bytes() -> int:
    """Returns the memory of this process that is resident now.

    Raises:
        OSError: the system has no /proc, as only Linux has.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def soak(model: hemline.Model, calls: int) -> list[Reading]:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28), np.uint8)
    expected = hash_outputs(model, images)
    readings: list[Reading] = []
    same, started = True, time.perf_counter()
    marks = [max(1, int(share * calls)) for share in SHARES]
    for call in range(1, calls + 1):
        model.predict(images[call % IMAGES])
        if call % (IMAGES * 20) == 0 or call in marks:
            same &= hash_outputs(model, images) == expected
        if call in marks:
            memory = resident_bytes()
            base = readings[0].resident_bytes if readings else memory
            readings.append(
                Reading(
                    calls=call,
                    seconds=time.perf_counter() - started,
                    resident_bytes=memory,
                    growth=memory / base - 1,
                    same=same,
                )
            )
    return readings


def hash_outputs(model: hemline.Model, images: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(model.predict(image).probabilities.tobytes())
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="released models")
    parser.add_argument("--calls", type=int, default=1_000_000, help="predictions with each file")
    options = parser.parse_args(arguments)
    try:
        resident_bytes()
    except OSError as error:
        print(f"soak: cannot read this process's memory: {error}", file=sys.stderr)
        return 2
    print("| file | calls | seconds | MiB | growth | results | verdict |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    failed = False
    for folder in options.folders:
        for file in FILES:
            path = folder / f"{folder.name}.{file}"
            with hemline.load(path) as model:
                for reading in soak(model, options.calls):
                    kept = reading.same and reading.growth <= MOST_GROWTH
                    failed |= not kept
                    print(
                        f"| {path.name} | {reading.calls:,} | {reading.seconds:.1f} | "
                        f"{reading.resident_bytes / 2**20:.1f} | {reading.growth:+.2%} | "
                        f"{'unchanged' if reading.same else 'CHANGED'} | "
                        f"{'PASS' if kept else 'FAIL'} |",
                        flush=True,
                    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
