"""A training in the background of a host."""

from contextlib import contextmanager

import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.hosts import background
from comfyui_ddm.hosts.progress_panel import TrainPanel

STEP = {"phase": "training", "done": 1, "total": 9, "seconds_left": 1.0, "loss": 0.5, "ess": 0.5}


class Trainer:
    """Stands in for the child process: says these events, and then nothing until it is stopped."""

    events_to_say: tuple = ()
    endless = False
    kept = True
    error: Exception | None = None

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def events(self):
        yield from self.events_to_say
        while self.endless:
            yield None
        if self.error:
            raise self.error


@pytest.fixture
def start(monkeypatch):
    """Starts a job over the stand-in, in a context that says when the host's model is away."""
    away = []

    @contextmanager
    def occupy():
        away.append(True)
        yield
        away.append(False)

    def run(**behaviour):
        monkeypatch.setattr(background, "Trainer", type("Child", (Trainer,), behaviour))
        panel = TrainPanel("fair", lambda file: {})
        made = background.BackgroundTraining(
            background.Command.of("train", "fair.toml"), panel, lambda panel: panel.finish({}, "There it is."), occupy
        )
        made.start()
        return made, panel.values, away

    return run


def test_it_runs_to_the_end_with_the_hosts_model_away(start):
    made, values, away = start(events_to_say=(STEP,))
    assert not made.wait(10) and not made.running
    assert (values["phase"], values["summary"], values["losses"]) == ("done", "There it is.", [[1, 0.5]])
    assert away == [True, False]


def test_a_cancel_says_what_is_kept_and_gives_the_host_back(start):
    made, values, away = start(events_to_say=(STEP,), endless=True)
    assert made.wait(0.2)
    made.cancel()
    assert not made.wait(10)
    assert values["phase"] == "stopped" and "What was trained is kept" in values["summary"]
    assert away == [True, False]


def test_a_cancel_says_so_if_the_trainer_had_to_be_ended(start):
    made, values, _ = start(events_to_say=(STEP,), endless=True, kept=False)
    assert made.wait(0.2)
    made.cancel()
    assert not made.wait(10)
    assert values["phase"] == "stopped" and "The last minutes of the training are lost" in values["summary"]


@pytest.mark.parametrize("error", [DDMError("There is no folder."), OSError("There is no folder.")])
def test_an_error_becomes_a_sentence(start, error):
    made, values, _ = start(error=error)
    assert not made.wait(10)
    assert values["phase"] == "stopped" and "There is no folder." in values["summary"]
