"""Imports and converters at work without their chatter."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Every thread writes to the same stderr, so only one at a time may turn it aside and back.
_turn = threading.RLock()


@contextmanager
def held_back() -> Iterator[bytearray]:
    """Holds back what native code writes to stderr; at the end it is in the array given.

    Other threads wait for their turn to do so.
    """
    said = bytearray()
    with _turn, tempfile.TemporaryFile() as held:
        # Either may be closed.
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:
            yield said
            return
        os.dup2(held.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            said += held.read()


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back what native code writes to stderr, and shows it if the block raises.

    TensorFlow, which coremltools imports where it is installed, logs to file descriptor 2 past
    every setting of Python's.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    said = bytearray()
    try:
        with held_back() as said:
            yield
    except BaseException:
        os.write(2, said)
        raise
