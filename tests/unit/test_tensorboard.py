"""Curves and previews for TensorBoard, and what is said without it."""

import sys

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.commands.reporters import Reporter
from comfyui_ddm.training.commands.tensorboard import TensorBoardReporter
from PIL import Image


class Listener(Reporter):
    def __init__(self):
        self.heard = []

    def note(self, text):
        self.heard.append(text)

    def preview(self, file, step):
        self.heard.append(step)


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DDMError, match="pip install tensorboard"):
        TensorBoardReporter(Reporter(), tmp_path, "")


def test_curves_and_previews_are_written_and_the_other_reporter_hears_it_all(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    other, image = Listener(), tmp_path / "step.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    board = TensorBoardReporter(other, tmp_path / "log", "rank = 8")
    board.note("hello")
    with board.steps() as report:
        for step in (10, 20):
            report(step, 20, 1 / step, 0.5, 1e-3)
        board.preview(image, 20)
    board.preview(image, 21)  # after the training, it is only told
    assert other.heard == ["hello", 20, 21]
    read = EventAccumulator(str(tmp_path / "log")).Reload()
    assert [(point.step, round(point.value, 3)) for point in read.Scalars("loss")] == [(10, 0.1), (20, 0.05)]
    assert {"learning rate", "effective sample size at α = 1"} <= set(read.Tags()["scalars"])
    assert [image.step for image in read.Images("preview")] == [20]
