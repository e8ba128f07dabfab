"""What the node of the trainer makes of its child's words."""

from pathlib import Path

import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.hosts import trainer_process
from comfyui_ddm.hosts.progress_panel import POINTS, TrainPanel
from comfyui_ddm.hosts.trainer_process import Command, Trainer, by_name, sentence
from comfyui_ddm.training.commands import parent_process


@pytest.fixture
def panel():
    return TrainPanel("fair", lambda file: {"filename": file.name, "subfolder": "ddm", "type": "temp"})


def test_a_panel_follows_the_trainer(panel):
    assert panel.values["phase"] == "starting"
    panel.take({"phase": "cache", "done": 3, "total": 12, "seconds_left": 9.0})
    assert (panel.values["phase"], panel.values["done"], panel.values["losses"]) == ("cache", 3, [])
    panel.take({"phase": "training", "done": 10, "total": 40, "seconds_left": 3.0, "loss": 0.25, "ess": 0.4})
    panel.take({"preview": "/somewhere/step_000010.png", "step": 10})
    panel.take({"note": "Skipped broken.png"})
    values = panel.values
    assert (values["losses"], values["ess"], values["remarks"]) == ([[10, 0.25]], 0.4, ["Skipped broken.png"])
    assert values["preview"] == {
        "step": 10,
        "file": {"filename": "step_000010.png", "subfolder": "ddm", "type": "temp"},
    }
    assert panel.preview == Path("/somewhere/step_000010.png")


def test_a_long_loss_curve_keeps_its_ends_and_stays_small(panel):
    for step in range(10, 100_001, 10):
        panel.take({"phase": "training", "done": step, "total": 100_000, "seconds_left": 1.0, "loss": 1 / step})
    steps = [step for step, _ in panel.values["losses"]]
    assert len(steps) <= POINTS and (steps[0], steps[-1]) == (10, 100_000) and steps == sorted(set(steps))


def test_a_cancel_says_what_is_kept(panel):
    assert panel.stop(kept=True) == panel.stop(kept=False) == "Stopped before any training."
    panel.take({"phase": "training", "done": 10, "total": 40, "seconds_left": 3.0, "loss": 0.25})
    assert "What was trained is kept: start it again to go on, with more steps" in panel.stop(kept=True)
    panel.take({"phase": "training", "done": 20, "total": 40, "seconds_left": 2.0, "loss": 0.25})
    said = panel.stop(kept=False)
    assert "What was trained is kept" not in said and "The last minutes of the training are lost" in said


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ("", 130, "stopped from outside"),
        ("", -9, "The memory ran out"),
        ("Traceback\ntorch.OutOfMemoryError: CUDA out of memory.\n", 1, "The memory ran out"),
        ("Traceback\nValueError: no\n", 1, "(exit code 1): ValueError: no"),
        ("", 3, "(exit code 3): it said nothing"),
    ],
)
def test_the_end_of_a_trainer_is_a_sentence(errors, code, said):
    assert said in sentence(errors, code)


@pytest.mark.parametrize(
    ("config", "words", "options"),
    [
        ({"out": Path("fair.pt")}, "Name it fair.safetensors", ()),
        ({"out": Path("fair.safetensors"), "reg_data": Path("images"), "prior_prompts": "a;"}, "go with images", None),
        ({"rank": 0}, "fair.toml: rank is 0. It must be at least 1.", ()),
    ],
)
def test_a_trainer_that_cannot_begin_raises_its_own_sentence_with_the_options_that_it_is_about(
    tmp_path, config, words, options
):
    with (
        Trainer(Command.train({"checkpoint": tmp_path / "fair.checkpoint.safetensors", **config})) as started,
        pytest.raises(DDMError) as raised,
    ):
        list(started.events())
    assert started.process.returncode == 2
    assert words in str(raised.value)
    assert raised.value.options == (("reg_data", "folder") if options is None else options)
    assert str(tmp_path) not in str(raised.value)


def test_sentences_for_a_page_name_files_without_their_places():
    paths = [Path("/data/models"), Path("/data/models/wide.safetensors"), Path("/data/images")]
    said = f"The U-Net in {paths[1]} is another one; {paths[2] / 'a.png'} is damaged."
    assert by_name(said, paths) == "The U-Net in wide.safetensors is another one; images/a.png is damaged."


@pytest.mark.parametrize(
    ("child", "kept"),
    [
        ("import sys; sys.stdin.read(); sys.exit(130)", True),
        ("import sys; sys.stdin.read()", True),
        ("import sys; sys.stdin.read(); sys.exit(2)", False),
        ("import time; time.sleep(60)", False),
    ],
)
def test_a_trainer_that_is_stopped_says_whether_it_kept_its_state_or_had_to_be_ended(
    tmp_path, monkeypatch, child, kept
):
    script = tmp_path / "child.py"
    script.write_text(child)
    monkeypatch.setattr(trainer_process, "COMMAND", script)
    monkeypatch.setattr(trainer_process, "PATIENCE", 3)
    with Trainer(Command.of("train")) as started:
        pass
    assert started.process.poll() is not None and started.kept is kept


def test_a_trainer_gives_up_by_itself_before_it_is_killed():
    assert parent_process.GRACE < trainer_process.PATIENCE and parent_process.CUT_OFF not in (0, parent_process.STOPPED)


def test_remarks_and_the_last_sentence_say_which_inputs_they_are_about():
    names = {"base": "weights", "restart": "overwrite"}
    panel = TrainPanel("fair", lambda file: {}, names)
    panel.take({"note": "Prompts are not corrected one by one: 4 do not teach it.", "options": ["by_prompt", "cache"]})
    assert panel.values["remarks"] == ["Prompts are not corrected one by one: 4 do not teach it (by_prompt)."]
    said = panel.fail(DDMError("Choose a smaller one, or begin anew.", "rank", "base", "restart", "checkpoint"))
    assert said == panel.values["summary"] == "Choose a smaller one, or begin anew (rank, weights, overwrite)."
    assert panel.fail(DDMError("There is no tokenizer.", "tokenizer")) == "There is no tokenizer."


def test_a_cancel_while_measuring_says_that_the_adapter_is_there(panel):
    panel.take({"phase": "sampling", "done": 1, "total": 40, "seconds_left": 3.0})
    assert "The adapter is finished" in panel.stop(True)
