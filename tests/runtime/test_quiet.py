import os
import subprocess
import sys
import threading

import pytest

from hemline.quiet import held_back, quiet


def test_native_chatter_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, b"chatter")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_it_is_shown_if_the_block_raises(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with quiet():
            os.write(2, b"the reason")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == "the reason"


def test_threads_take_turns_and_leave_stderr_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with held_back():
            inside.set()
            leave.wait()
            order.append("first")

    def second() -> None:
        inside.wait()
        with held_back() as said:
            order.append("second")
            os.write(2, b"chatter")
        assert said == b"chatter"

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    inside.wait()
    # A second that did not wait its turn would be done by then.
    threads[1].join(0.2)
    leave.set()
    for thread in threads:
        thread.join()
    os.write(2, b"after")
    assert order == ["first", "second"]
    assert capfd.readouterr().err == "after"


def test_a_closed_stderr_has_nothing_to_hold_back() -> None:
    script = (
        "import os, sys; os.close(2); sys.stderr = None; from hemline.quiet import held_back\n"
        "with held_back() as said: print('done')\n"
        "assert not said"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n")
