import io

import pytest

from hemline_train.progress import EpochResult, show_progress

RESULT = EpochResult(
    epoch=1, loss=0.5, accuracy=0.75, val_loss=0.25, val_accuracy=0.875, learning_rate=0.001
)
LINE = (
    "cnn: epoch 2/20  loss 0.5000  accuracy 0.7500  val_loss 0.2500  val_accuracy 0.8750"
    "  learning_rate 0.001"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_plain_line_an_epoch_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("cnn", 20) as progress:
        progress.start_epoch(1, 375)
        progress.finish_batch()
        progress.finish_epoch(RESULT)
    assert capsys.readouterr() == ("", LINE + "\n")


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with show_progress("cnn", 20) as progress:
        progress.start_epoch(1, 375)
        progress.finish_batch()
        progress.finish_epoch(RESULT)
    assert "cnn: epoch 2/20" in terminal.getvalue()
    assert "1/375" in terminal.getvalue()
    assert LINE in terminal.getvalue()
