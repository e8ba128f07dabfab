"""A training that is killed and gone on with writes the same file, byte for byte."""

import multiprocessing
import sys

import pytest
from comfyui_ddm.benchmarks.kill import kill_survival
from comfyui_ddm.training.data.read_folder import read_folder

from .runs import write_folder


@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
def test_three_kills_end_in_the_same_bytes_and_leave_nothing_behind(tiny_base, tmp_path):
    images = read_folder(write_folder(tmp_path / "set", 24))
    same, clean, *_ = kill_survival(tiny_base, images, 3, multiprocessing.get_context("fork"))
    assert (same.value, clean.value) == (3, 3)
