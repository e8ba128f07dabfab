"""Averages follow what is trained, and change places with it."""

import pytest
import torch
from comfyui_ddm.training.loop.ema import Ema


def test_the_average_follows_the_values():
    value = torch.zeros(2, 2)
    ema = Ema({"weight": value, "count": torch.tensor(3)}, 0.9)
    value.fill_(1.0)
    ema.update()
    assert 0 < ema.state["weight"].max() < 1 and ema.state["count"] == 3
    for _ in range(200):
        ema.update()
    assert ema.state["weight"] == pytest.approx(torch.ones(2, 2), abs=1e-4)


def test_swapping_twice_changes_nothing():
    value = torch.zeros(3)
    ema = Ema({"weight": value}, 0.9)
    value.fill_(1.0)
    ema.swap()
    assert (value == 0).all() and (ema.state["weight"] == 1).all()
    ema.swap()
    assert (value == 1).all() and (ema.state["weight"] == 0).all()
