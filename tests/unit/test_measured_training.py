"""`ddm train --probe`: the finished adapter is measured, and its card says what was seen."""

import json
from contextlib import contextmanager

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import content_hash, load_adapter
from comfyui_ddm.debias.evaluation import intervals
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.hosts.adapter_card import LoadedCard
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.job import Job
from comfyui_ddm.training.commands.reporters import Reporter
from comfyui_ddm.training.evaluation import alpha_sweep
from comfyui_ddm.training.evaluation.load_probes import targets_for
from comfyui_ddm.training.models.load_base import load_base
from PIL import Image
from typer.testing import CliRunner

from .runs import write_folder, write_probe

SMALL = {"steps": 2, "batch_size": 4, "rank": 2, "calibrate": 0, "ema": 0.9, "device": "cpu"}


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return write_probe(tmp_path_factory.mktemp("probes") / "gender.safetensors")


@pytest.fixture
def given(tiny_base, folder, probe, tmp_path):
    """A training with a probe, as a configuration gives it."""
    fixed = {"folder": folder, "base": tiny_base, "groups": "labels:gender", "probe": [probe], "measure": 2}
    return {**fixed, **SMALL, "out": tmp_path / "fair.safetensors"}


def ddm(*arguments, code=0):
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_the_card_and_its_page_say_what_a_sweep_of_the_file_would_say(given, tiny_base, probe, tmp_path):
    result = Job(TrainConfig(**given, sample_dir=tmp_path / "shown")).run()
    card, page = load_adapter(given["out"]).card, given["out"].with_suffix(".md").read_text("utf-8")
    measured = card.measured
    assert measured == result["measured"] and measured["attribute"] == "gender" and measured["target"] == [0.5, 0.5]
    alphas = [point["alpha"] for point in measured["points"]]
    assert alphas == [0.0, 1.0]  # what the weights recommend is measured too, and of so few images it is 0
    assert all(point["images"] == 2 * 2 for point in measured["points"])
    assert measured["recommended_alpha"] is None and card.recommended_alpha == result["recommended_alpha"] == 0.0
    assert "0 (predicted)" in LoadedCard("fair", 1.0, card, None).text
    assert "gender as a probe sees it" in page and "Nothing yet" not in page
    (kept,) = (tmp_path / "shown").glob("measured_*")
    assert len(list(kept.rglob("*.png"))) == 2 * 2 * 2
    options = ["--per-prompt", 2, "--alpha", "0,1", "--device", "cpu", "--out", tmp_path / "sweep", "--json"]
    options += ["--bf16"] if load_base(tiny_base).half_is_native else []
    swept = ddm("sweep", given["out"], "--probe", probe, "--prompts", "a doctor;a judge", "--base", tiny_base, *options)
    assert json.loads(swept.stdout)["points"] == measured["points"]


def test_what_is_measured_has_the_size_of_what_was_learnt(given, tmp_path):
    Job(TrainConfig(**given, sample_dir=tmp_path / "shown", resolution=48)).run()
    made = list(tmp_path.glob("shown/measured_*/**/*.png"))
    assert made and {Image.open(image).size for image in made} == {(48, 48)}


def test_enough_images_say_which_alpha_is_recommended(given, monkeypatch):
    monkeypatch.setattr(intervals, "FEWEST_IMAGES", 2)
    result = Job(TrainConfig(**given)).run()
    card = load_adapter(given["out"]).card
    assert card.recommended_alpha == result["recommended_alpha"] == card.measured["recommended_alpha"] is not None
    assert "(measured)" in LoadedCard("fair", 1.0, card, None).text


def test_the_adapter_is_the_one_that_is_made_without_a_probe(given, tmp_path):
    Job(TrainConfig(**given)).run()
    plain = {**given, "probe": None, "out": tmp_path / "plain" / "fair.safetensors"}
    result = Job(TrainConfig(**plain)).run()
    assert content_hash(given["out"]) == content_hash(plain["out"])
    assert "measured" not in result and load_adapter(plain["out"]).card.measured is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fair.md", "fair.safetensors", "plain"]


class Impatient(Reporter):
    """Somebody who presses Ctrl-C as soon as images are made to be measured."""

    def __init__(self):
        self.phases, self.notes = [], []
        self.note = self.notes.append

    @contextmanager
    def images(self, phase):
        def told(done, total):
            if phase == "sampling":
                raise KeyboardInterrupt

        yield told


def test_stopped_while_it_is_measured_the_adapter_is_finished(given, tmp_path):
    reporter = Impatient()
    result = Job(TrainConfig(**given), reporter).run()
    assert result["measured"] is None and load_adapter(given["out"]).card.measured is None
    assert "The adapter is finished" in reporter.notes[-2] and "Wrote" in reporter.notes[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fair.md", "fair.safetensors"]


def test_an_adapter_that_cannot_be_measured_is_finished_all_the_same(given, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(alpha_sweep, "measure", fail)
    reporter = Impatient()
    result = Job(TrainConfig(**given), reporter).run()
    assert result["measured"] is None and load_adapter(given["out"]).card.measured is None
    assert "is finished, but could not be measured" in reporter.notes[-2] and "memory" in reporter.notes[-2]


def test_an_adapter_that_is_there_is_measured_once_if_a_probe_is_given_later(given, monkeypatch):
    Job(TrainConfig(**{**given, "probe": None})).run()
    weights, calls, measure = content_hash(given["out"]), [], alpha_sweep.measure
    monkeypatch.setattr(alpha_sweep, "measure", lambda *one: calls.append(one) or measure(*one))
    for _ in range(2):
        assert Job(TrainConfig(**given, overwrite=False)).run() is None
        assert (
            content_hash(given["out"]) == weights and load_adapter(given["out"]).card.measured["attribute"] == "gender"
        )
    assert len(calls) == 1


def test_a_probe_that_is_none_is_refused_before_anything_is_done(given, folder, probe, tmp_path):
    options = ["--out", given["out"], "--base", given["base"]]
    assert "gender, gender" in ddm("train", folder, *options, "--probe", probe, "--probe", probe, code=2).stderr
    ddm("train", folder, *options, "--probe", folder / "0.png", code=2)
    assert not list(tmp_path.iterdir())


def test_a_file_may_name_the_probe(given, probe, tmp_path):
    pytest.importorskip("tomllib", reason="reading TOML needs Python 3.11, or tomli")
    lines = [f"{key} = {json.dumps(str(given[key]))}" for key in ("folder", "base", "out", "groups")]
    lines += [f"{key} = {SMALL[key]}" for key in ("steps", "batch_size", "rank", "calibrate")]
    file = tmp_path / "run.toml"
    file.write_text("\n".join([*lines, f"probe = [{json.dumps(str(probe))}]", "measure = 1"]), encoding="utf-8")
    said = [json.loads(line) for line in ddm("train", file, "--progress", "json").stdout.splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in said if "phase" in line))[-2:] == ["sampling", "looking"]
    assert load_adapter(given["out"]).card.measured["points"][0]["images"] == 2


def test_of_many_captions_twenty_are_measured(given, tmp_path, monkeypatch):
    many = write_folder(tmp_path / "many", 25)
    (many / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{i}.png", "text": f"a {i}", "gender": "mw"[i % 2]}) for i in range(25))
    )
    seen = []
    monkeypatch.setattr(alpha_sweep, "measure", lambda *arguments: seen.append(arguments[3]) or {})
    Job(TrainConfig(**{**given, "folder": many})).run()
    (prompts,) = seen
    assert len(prompts) == len(set(prompts)) == 20 and prompts[0] == "a 0"


def test_a_probe_measures_against_the_target_that_was_trained_for_where_it_has_the_same_classes(probe):
    gender = Probe.load(probe)
    trained = Target(("woman", "man"), [0.75, 0.25])
    other = Target.uniform(("a", "b"))
    (found,) = targets_for([gender], [other, trained])
    assert found == Target(gender.names, [0.25, 0.75])
    assert targets_for([gender, gender], [other]) == [Target.uniform(gender.names), None]
