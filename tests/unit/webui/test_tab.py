"""The tab of A1111 1.8, 1.10 and Forge Neo: what its pages start."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import save_adapter
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.training.commands.config_file import read_config

from ..runs import write_folder
from . import host
from .host import CARD, LORA, ROOT


@pytest.fixture
def started(door, monkeypatch):
    """What the trainer was told, and where the host's model was while it worked; it is a stand-in."""
    from comfyui_ddm.hosts import background

    told = []

    class Trainer:
        def __init__(self, command):
            name, *arguments = command.arguments
            given = dict(one.removeprefix("--").split("=", 1) for one in arguments if one.startswith("--"))
            given = given if name == "head" else read_config(Path(arguments[0]))
            told.append((given, list(door.registered["memory"])))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def events(self):
            given = told[-1][0]
            if "checkpoint" not in given:  # that of a head
                host.save_head(Path(given["out"]), base_hash="c" * 64)
            else:
                save_adapter(given["out"], LORA, CARD)
            yield {"phase": "training", "done": 5, "total": 5, "seconds_left": 0.0, "loss": 0.5, "ess": 1.0}

    monkeypatch.setattr(background, "Trainer", Trainer)
    return told


@pytest.fixture
def train(started):
    """Train an adapter; returns what the page shows last."""

    def go(folder, name="mine", model="the selected checkpoint", groups="labels:folder", **options):
        from comfyui_ddm.webui import train_page

        *_, shown = train_page.train(
            list(options), str(folder), model, groups, "uniform", "a shade", name, False, False, *options.values()
        )
        return shown

    return go


def test_a_training_takes_the_selected_checkpoint_while_the_host_waits_and_lands_among_the_loras(
    train, started, door, tmp_path
):
    more = {"steps": 5, "rank": 2, "calibrate": 0, "by_prompt": 16, "batch_size": None, "learning_rate": 0.0}
    more |= {"probe": ["gender"], "reg_data": str(tmp_path), "flip": True}
    shown = train(tmp_path, **more)
    assert "mine.safetensors is among your LoRAs" in shown
    ((config, memory),) = started
    neo = issubclass(door.module.DDMScript, host.NeoScript)
    assert memory == ["away"] and door.registered["memory"] == (["away"] if neo else ["away", "back"])
    wanted = {"folder": tmp_path, "base": tmp_path / "models" / "chosen.safetensors", "reg_data": tmp_path}
    wanted |= {"probe": [ROOT / "examples" / "probes" / "gender.safetensors"], "caption": "a shade"}
    wanted |= {"steps": 5, "by_prompt": 16, "flip": True}
    assert {name: config.get(name) for name in wanted} == wanted
    assert not {"batch_size", "learning_rate", "resolution"} & set(config)
    assert (tmp_path / "models" / "Lora" / "mine.safetensors").is_file()
    from comfyui_ddm.webui import cards, files

    assert "mine" in files.adapter_names()
    assert "A training" not in shown and "man 50%, woman 50%" in cards.card_html("mine")


def test_images_wait_while_a_training_has_the_memory_and_say_for_what(door, script, run):
    from comfyui_ddm.webui import host as ours
    from modules import shared

    ours.PAUSE = 0.01
    made = []
    image = threading.Thread(target=lambda: made.append(run()))
    with ours.model_put_away(lambda: "DDM is training fair (training, 3 of 9)"):
        image.start()
        image.join(0.2)
        said = shared.state.textinfo
        assert image.is_alive() and not made
    image.join(30)
    assert said == "DDM is training fair (training, 3 of 9). This image waits for its end." and made
    with ours.model_put_away(lambda: "DDM is training fair"):
        shared.state.interrupted = True
        assert run()[0] == [0.0]


def test_the_trainer_is_told_where_the_model_is_that_a_probe_reads_and_the_host_does_not_open_it(
    train, started, door, tmp_path
):
    folder = door.folder / "models" / "ddm" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    Probe(("man", "woman"), "gender", torch.nn.Linear(4, 2), identity="CLIP small (0a1b)").save(
        folder.parent / "read.safetensors"
    )
    more = {"probe": ["read"], "measure": 2}
    shown = train(tmp_path, **more)
    ((config, *_),) = started
    wanted = {"probe": [folder.parent / "read.safetensors"], "clip": folder, "measure": 2}
    assert wanted.items() <= config.items() and "mine.safetensors is among your LoRAs" in shown
    (folder / "config.json").unlink()
    shown = train(tmp_path, name="other", **more)
    assert "CLIP small (0a1b), which is not there" in shown and len(started) == 1


def test_time_and_memory_are_said_without_a_training(door, tmp_path):
    from comfyui_ddm.webui import train_page, training_set

    write_folder(tmp_path / "set")
    kept = tmp_path / "outputs" / "ddm" / "mine.toml"
    kept.parent.mkdir(parents=True)
    kept.write_text("of a stopped run", "utf-8")
    values = [str(tmp_path / "set"), training_set.EMBEDDED, "labels:gender", "uniform", "", "mine", False, False, 3]
    said = list(train_page.estimate(["steps"], *values))
    assert "Counting what the training takes." in said[0] and "It takes about" in said[-1]
    assert kept.read_text("utf-8") == "of a stopped run"
    assert not (tmp_path / "models" / "Lora" / "mine.safetensors").exists() and "memory" not in door.registered
    (said,) = train_page.estimate(["steps"], "/nowhere", *values[1:])
    assert "There is no folder" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folder": "/nowhere"}, "There is no folder"),
        ({"folder": ""}, "There is no folder"),
        ({"name": "../mine"}, "is no name for an adapter"),
        ({"name": "foreign"}, "was not made by ComfyUI-DDM"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence_and_nothing_is_started(train, started, tmp_path, given, said):
    shown = train(**{"folder": tmp_path, **given})
    assert said in shown and "ddm-problem" in shown and started == []


def test_a_server_that_hides_folders_lets_nobody_name_one(train, tmp_path):
    from comfyui_ddm.webui import audit_page
    from modules import shared

    shared.cmd_opts.hide_ui_dir_config = True
    assert "--hide-ui-dir-config" in train(tmp_path)
    assert "--hide-ui-dir-config" in audit_page.audit(str(tmp_path), "", "discovered", "uniform", "")


@pytest.fixture
def make_head(started):
    """Make a head; returns what the page shows last."""

    def go(
        name="mine", listed="as written", written="a doctor", count=24, probe="None", folder="", groups="discovered"
    ):
        from comfyui_ddm.webui import head_page

        model = "the selected checkpoint"
        *_, shown = head_page.train(model, name, listed, written, count, probe, folder, groups, "", 7)
        return shown

    return go


def test_a_head_is_made_for_the_selected_checkpoint_and_chosen_with_what_it_tells_apart(
    make_head, started, door, script, tmp_path
):
    shown = make_head()
    assert "mine is in models/ddm. Refresh the accordion" in shown and "It tells man, woman apart" in shown
    ((given, memory),) = started
    wanted = {"groups": "discovered", "prior-prompts": "a doctor;", "prior-count": "24", "seed": "7"}
    wanted |= {"base": str(tmp_path / "models" / "chosen.safetensors"), "device": "cpu"}
    assert wanted.items() <= given.items() and "probe" not in given and memory == ["away"]
    from comfyui_ddm.webui import cards, files

    assert files.head_names() == ["mine"]
    assert "mine: It was made for the selected checkpoint. It tells man, woman apart" in cards.heads_html(["mine"])
    host.save_head(tmp_path / "models" / "ddm" / "other.safetensors", base_hash="d" * 64)
    assert "made for a checkpoint that is not known here" in cards.heads_html(["other"])
    assert "no head called" in cards.heads_html(["gone"]) and cards.heads_html(None) == ""


def test_a_head_learns_from_a_probe_and_a_folder_without_images_of_the_models_own(make_head, started, tmp_path):
    make_head(count=0, probe="gender", folder=str(tmp_path))
    ((given, _),) = started
    assert given["probe"].endswith("gender.safetensors") and not {"groups", "prior-prompts"} & set(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "../mine"}, "is no name for a head"),
        ({"count": 0}, "There is nothing to learn from"),
        ({"written": " "}, "There is no prompt"),
        ({"probe": "gone"}, "There is no probe called"),
        ({"folder": "/nowhere"}, "There is no folder"),
        ({"groups": "people"}, "people"),
    ],
)
def test_what_no_head_can_be_made_of_is_a_sentence_and_nothing_is_started(make_head, started, given, said):
    shown = make_head(**given)
    assert said in shown and "ddm-problem" in shown and started == []


def test_a_head_takes_no_other_files_place_and_says_so_without_where_it_is(make_head, started, door, tmp_path):
    (tmp_path / "models" / "ddm").mkdir()
    save_adapter(tmp_path / "models" / "ddm" / "mine.safetensors", LORA, CARD)
    assert "There is a file models/ddm/mine.safetensors already" in make_head() and started == []


def test_one_training_at_a_time_and_each_page_shows_its_own(make_head, train, door, tmp_path):
    from comfyui_ddm.webui import trainings

    make_head("first")
    train(tmp_path)
    assert ["first" in list(trainings.watch("head"))[-1], "mine.safetensors" in list(trainings.watch("train"))[-1]]
    trainings._jobs["train"] = SimpleNamespace(running=True, panel=SimpleNamespace(values={"title": "mine"}))
    assert "mine is still being trained" in make_head("second")


def test_targets_are_offered_for_the_classes_of_words_columns_and_probes(door, tmp_path):
    from comfyui_ddm.webui import files, training_set

    for name in ("dark", "light"):
        (tmp_path / "set" / name).mkdir(parents=True)
        image = host.image(1).convert("RGB")
        image.save(tmp_path / "set" / name / "1.png")
    folder = str(tmp_path / "set")
    assert "labels:folder" in training_set.sources(folder)
    assert training_set.classes_of(folder, "labels:folder") == ["dark", "light"]
    assert training_set.classes_of("", "words: man|woman") == ["man", "woman"]
    assert training_set.classes_of(folder, "discovered") == []
    offered = training_set.offer_targets(files.classes_of("gender"))["choices"]
    assert offered == ["uniform", "man=0.75,woman=0.25", "man=0.25,woman=0.75"]
    assert len(training_set.offer_targets(files.classes_of("skin_tone"))["choices"]) > 3
    assert training_set.offer_targets(files.classes_of("gone"))["choices"] == ["uniform"]
