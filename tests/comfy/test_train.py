"""DDM Train: a trainer of its own, watched, cancelled, gone on with."""

import json
import time

import pytest
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from PIL import Image

from . import graphs
from .listener import Listener
from .server import ADAPTER, EMBEDDED, PACK, Failed, Refused, run_in_host


def watch(server, graph, stop=lambda panel: False, node="train"):
    """Queue a graph and hear how its training goes, until it is over or `stop` says yes to a panel."""
    panels = []
    with Listener(server) as listener:
        prompt = server.queue(graph)
        for message in listener.messages(timeout=300):
            data = message["data"]
            if message["type"] == "ddm.train":
                assert (data["node"], data["workflow"]) == (node, None)
                panels.append(data["panel"])
                if stop(panels[-1]):
                    break
            ended = message["type"] in ("execution_success", "execution_error", "execution_interrupted")
            if ended and data.get("prompt_id") == prompt:
                break
    return prompt, panels


def training(panel):
    return panel["phase"] == "training"


def test_an_adapter_is_trained_shown_while_it_is_and_listed_at_once(server, folder):
    graph = graphs.train(folder, name="fair", steps=20, style=True, calibrate=4)
    prompt, panels = watch(server, graph)
    outputs = server.wait(prompt)
    phases = list(dict.fromkeys(panel["phase"] for panel in panels))
    assert phases[0] == "starting" and phases[-3:] == ["training", "calibration", "done"]
    last = panels[-1]
    steps = [step for step, _ in last["losses"]]
    assert steps[-1] == 20 and len(set(steps)) > 1 and steps == sorted(steps)
    assert [group["name"] for group in last["attributes"][0]["groups"]] == ["dark", "light"]
    assert next(panel["preview"]["step"] for panel in panels if panel["preview"]) == 4
    shown = {panel["preview"]["file"]["filename"]: panel["preview"]["file"] for panel in panels if panel["preview"]}
    assert all(server.view(file).startswith(b"\x89PNG") for file in shown.values())
    (made,) = outputs["train"]["ddm_panel"]
    assert (made["phase"], made["card"]["target"]) == ("done", {"dark": 0.5, "light": 0.5})
    assert made["preview"]["step"] == 20 and server.view(made["preview"]["file"]).startswith(b"\x89PNG")
    names = server.options("DDMLoadAdapter", "adapter")
    assert {"fair.safetensors", "fair_style.safetensors"} <= set(names)
    assert not [name for name in names if "checkpoint" in name]
    assert list((server.base / "output" / "ddm").glob("*.checkpoint.*")) == []


def test_what_was_trained_goes_along_the_wires_and_the_host_works_on(server, folder):
    server.run(graphs.load() | graphs.sample(steps=1))
    before = len(server.log())
    graph = graphs.load() | graphs.train(folder, name="wired") | graphs.adapter(name=["train", 0])
    graph |= graphs.sample("adapter", steps=2)
    graph["preview"] = {"class_type": "SaveImage", "inputs": {"images": ["train", 2], "filename_prefix": "preview"}}
    outputs = server.run(graph)
    assert outputs["image"]["images"] and outputs["preview"]["images"]
    assert outputs["adapter"]["ddm_panel"][0]["title"] == "wired.safetensors"
    assert "Trained on this base." in outputs["adapter"]["ddm_panel"][0]["verdict"]["text"]
    assert "Traceback" not in server.log()[before:]  # the host gave its memory to the trainer, and took it again


@pytest.fixture(scope="module")
def cancelled(server, folder):
    """A training of 400 steps that was cancelled; what it kept lies under two names.

    Gives the seconds that took, and the first step that was told.
    """
    prompt, panels = watch(server, graphs.train(folder, name="stopped", steps=400), training)
    server.request("/interrupt", {})
    began = time.monotonic()
    with pytest.raises(InterruptedError):
        server.wait(prompt)
    seconds = time.monotonic() - began
    kept = server.base / "output" / "ddm" / "stopped.checkpoint.safetensors"
    kept.with_name("other.checkpoint.safetensors").write_bytes(kept.read_bytes())
    return seconds, panels[-1]["losses"][0][0]


def test_a_cancelled_training_goes_on_when_it_is_queued_again(server, folder, cancelled):
    # Loose, since the machines of tests are busy: what it takes is measured in benchmarks.
    assert cancelled[0] < 10
    kept = server.base / "output" / "ddm" / "stopped.checkpoint.safetensors"
    assert kept.exists() and not (server.base / "models" / "loras" / "stopped.safetensors").exists()
    _, panels = watch(server, graphs.train(folder, name="stopped", steps=400), training)
    server.request("/interrupt", {})
    assert panels[-1]["losses"][0][0] > cancelled[1]


def test_a_stopped_training_is_given_more_steps_in_the_node(server, folder, cancelled):
    kept = server.base / "output" / "ddm" / "stopped.checkpoint.safetensors"
    kept.with_name("longer.checkpoint.safetensors").write_bytes(kept.read_bytes())
    _, panels = watch(server, graphs.train(folder, name="longer", steps=500), training)
    server.request("/interrupt", {})
    assert panels[-1]["losses"][0][0] > cancelled[1] and panels[-1]["total"] == 500
    assert any("goes on with other steps (400, now 500)" in one for one in panels[-1]["remarks"])


def test_a_stopped_run_with_other_inputs_is_thrown_away_only_with_overwrite(server, folder, cancelled):
    with pytest.raises(Failed, match=r"a run with other seed \(0, now 1\), steps \(\d+, now 3\)\..*\(overwrite\)"):
        server.run(graphs.train(folder, name="other", seed=1))
    made = server.run(graphs.train(folder, name="other", seed=1, overwrite=True))
    assert any("thrown away" in one for one in made["train"]["ddm_panel"][0]["remarks"])


def test_an_adapter_of_other_inputs_is_not_replaced_but_with_overwrite(server, folder):
    server.run(graphs.train(folder, name="taken"))
    file = server.base / "models" / "loras" / "taken.safetensors"
    with pytest.raises(Refused, match="switch overwrite on"):
        server.run(graphs.train(folder, name="taken", rank=3))
    with pytest.raises(Failed, match="made of other images or with other settings"):
        server.run(graphs.train(folder, name="taken", caption="a colour"))
    server.run(graphs.train(folder, name="taken", rank=3, overwrite=True))
    assert load_adapter(file).card.training["rank"] == 3


def test_the_same_inputs_give_the_adapter_that_is_there(server, folder):
    made = server.run(graphs.train(folder, name="again", target=" "))["train"]["ddm_panel"][0]
    assert made["card"]["target"] == {"dark": 0.5, "light": 0.5}  # nothing as a target is a uniform one
    file = server.base / "models" / "loras" / "again.safetensors"
    before = file.stat().st_mtime_ns
    # Another target in words, the same in fact: the node is run again.
    made = server.run(graphs.train(folder, name="again", target=" uniform "))["train"]["ddm_panel"][0]
    assert file.stat().st_mtime_ns == before
    assert "nothing is trained" in made["remarks"][-1] and server.view(made["preview"]["file"])


def test_the_trainers_sentence_is_the_nodes_error(server, folder):
    with pytest.raises(Failed, match="no label column"):
        server.run(graphs.train(folder, name="wrong", groups="labels:age"))
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    with pytest.raises(Failed, match="no images in it"):
        server.run(graphs.train("empty", name="wrong"))
    assert not (server.base / "models" / "loras" / "wrong.safetensors").exists()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"name": "../fair"}, "is no name for a folder"),
        ({"name": ""}, "is no name for an adapter"),
        ({"name": "people/../../fair"}, "is no name for a folder"),
        ({"folder": "../output"}, "There is no folder"),
        ({"weights": "../../etc"}, "There is no"),
        ({"groups": "gender"}, "is not known"),
        ({"groups": "discovered", "target": "dark=.5,light=.5"}, "needs named groups"),
        ({"reg_data": "../output"}, "There is no folder"),
        ({"probe": "../../secret.safetensors"}, "There is no DDM file"),
        ({"second_probe": "gender_head.safetensors"}, "is not a probe"),
    ],
)
def test_inputs_are_checked_before_anything_runs(server, folder, inputs, said):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.train(**{"folder": folder, **inputs}))
    assert said in str(refused.value.node_errors["train"])


def test_the_trainer_ends_with_the_server(host, folder, tmp_path_factory, server):
    import os
    import shutil

    from .server import Server

    base = tmp_path_factory.mktemp("killed")
    with Server(host, base) as other:
        shutil.copytree(server.base / "input" / folder, base / "input" / folder)
        watch(other, graphs.train(folder, name="orphan", steps=100_000), training)
        os.kill(other.process.pid, 9)
        other.process.wait()
        kept = base / "output" / "ddm" / "orphan.checkpoint.safetensors"
        for _ in range(300):
            if kept.exists():
                break
            time.sleep(0.1)
    assert kept.exists()


def test_the_embedded_model_is_offered_first(server):
    assert server.options("DDMTrain", "weights")[0] == EMBEDDED


def test_the_options_of_the_folder_reach_the_trainer(server, folder):
    root = server.base / "input" / "shapes"
    for number, size in enumerate([(64, 64)] * 4 + [(120, 72)] * 4):
        (root / "one" if number % 4 else root / "two").mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, (30 * number, 90, 60))
        image.save(root / ("one" if number % 4 else "two") / f"{number}.png")
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(root / "one" / "1-masklabel.png")
    given = {
        "trigger": "sks",
        "shuffle_caption": True,
        "flip": True,
        "caption": "a colour, plain",
        "text_encoder": True,
    }
    (made,) = server.run(graphs.train("shapes", name="shaped", **given))["train"]["ddm_panel"]
    said = " ".join(made["remarks"])
    assert "Masks: 1 of 8 images" in said and "80×48 (4)" in said
    adapter = load_adapter(server.base / "models" / "loras" / "shaped.safetensors")
    card = adapter.card
    assert any(name.startswith("lora_te_") for name in adapter.modules)
    assert card.concepts == ["sks, a colour, plain"] and card.training["shuffle"] == 2
    (made,) = server.run(graphs.train("shapes", name="square", masks="none", buckets=False))["train"]["ddm_panel"]
    assert not {"Masks", "Buckets"} & {remark.split()[0].strip(",:") for remark in made["remarks"]}


def test_a_name_may_have_subfolders(server, folder):
    graph = graphs.load() | graphs.train(folder, name="people/old/fair") | graphs.adapter(name=["train", 0])
    outputs = server.run(graph | graphs.sample("adapter", steps=1))
    assert (server.base / "models" / "loras" / "people" / "old" / "fair.safetensors").exists()
    assert outputs["train"]["text"] == ["people/old/fair.safetensors"]
    assert "people/old/fair.safetensors is among your LoRAs" in outputs["train"]["ddm_panel"][0]["summary"]


def test_a_biased_set_without_labels_comes_along(server):
    name = server.options("DDMTrain", "folder")[1]
    with pytest.raises(Failed, match=r"six_men_to_one_woman has no label column .gender. \(columns: none\)"):
        server.run(graphs.train(name, name="biased", groups="labels:gender", caption=""))
    drawn = server.base / "temp" / "ddm_example" / "six_men_to_one_woman"
    assert len(list(drawn.glob("*.png"))) == len(list(drawn.glob("*.txt"))) == 504


@pytest.fixture
def lora(server):
    """A LoRA among the checkpoints."""
    file = server.base / "models" / "checkpoints" / "lora.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes((PACK / "examples" / "adapters" / ADAPTER).read_bytes())
    yield file.name
    file.unlink()


def test_checkpoints_are_offered_and_one_that_is_no_base_is_refused_before_anything_runs(server, folder, lora):
    for node in ("DDMTrain", "DDMAuditImages"):
        assert lora in server.options(node, "weights")
    with pytest.raises(Refused) as refused:
        server.queue(graphs.train(folder, name="wrong", weights=lora))
    assert "is no checkpoint of Stable Diffusion" in str(refused.value.node_errors["train"])


def test_the_advanced_inputs_reach_the_trainer_and_a_probe_fills_the_card(server, folder):
    known = server.base / "input" / "known"
    known.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 120, 90)).save(known / f"{number}.png")
    given = {
        "learning_rate": 0.001,
        "resolution": 32,
        "batch_size": 8,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "trigger": "sks",
    }
    given |= {"reg_data": "known", "prior_prompts": "a doctor", "prior_count": 2}
    given |= {"probe": "gender.safetensors", "second_probe": "skin_tone.safetensors", "measure": 1}
    prompt, panels = watch(server, graphs.train(folder, name="advanced", **given))
    (made,) = server.wait(prompt)["train"]["ddm_panel"]
    card = load_adapter(server.base / "models" / "loras" / "advanced.safetensors").card
    assert {name: card.training[name] for name in ("learning_rate", "resolution", "batch_size", "images")} == {
        "learning_rate": 0.001,
        "resolution": 32,
        "batch_size": 8,
        "images": 16 + 16 + 2,
    }
    assert sorted(card.concepts) == ["a doctor", "a shade", "sks, a shade"]
    assert card.measured["attribute"] == "gender" and made["card"]["measured"] == card.measured
    assert {"sampling", "looking"} <= {panel["phase"] for panel in panels}


def test_advanced_inputs_are_marked_for_the_page(server):
    known = server.get("/object_info/DDMTrain")["DDMTrain"]["input"]["optional"]
    hidden = [name for name, (_, more) in known.items() if more.get("advanced")]
    assert {"learning_rate", "optimizer", "reg_data"} <= set(hidden) and "steps" not in hidden
    later = list(known)[list(known).index(hidden[0]) :]
    assert [name for name in later if name not in hidden] == ["objective", "model", "background"]


EXECUTE = """
import importlib.util, json, sys
from types import SimpleNamespace
from comfy.cli_args import args
args.cpu = True
import comfy.model_management
pack = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.nodes import files, image_folders, train
files.register_folders()
happened = []
comfy.model_management.unload_all_models = lambda: happened.append("unloaded")
def start(owner, command, *rest):
    happened.append(command)
    raise StopIteration
train.trainings.start = start
train.Train.hidden = SimpleNamespace(unique_id="1", extra_pnginfo=None, dynprompt=None)
values = dict(folder=image_folders.EXAMPLE, weights=files.EMBEDDED, name="fair", groups="labels:gender")
values |= dict(target="uniform", caption="", style=False, steps=3, rank=2, calibrate=0, seed=0, overwrite=False)
try:
    train.Train.execute(**values, prior_prompts=sys.argv[2])
except StopIteration:
    pass
from pathlib import Path
from pack.training.commands.config_file import read_config
from pack.training.sampling.prompts import read_prompts
command, file = happened[1].arguments
print(json.dumps([happened[0], command, read_prompts(read_config(Path(file))["prior_prompts"])]))
"""


def test_the_hosts_models_make_room_before_the_trainer_starts_and_no_file_is_read_for_prompts(host, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret", encoding="utf-8")
    said = run_in_host(host, EXECUTE, str(PACK), str(secret))
    assert json.loads(said.splitlines()[-1]) == ["unloaded", "train", [str(secret)]]


def test_alignment_and_invariant_guidance_are_objectives_of_the_node(server, folder):
    given = {"probe": "gender.safetensors", "prior_prompts": "a doctor;a pilot", "steps": 2, "batch_size": 4}
    graph = graphs.load() | graphs.train(folder, name="aligned", objective="alignment", model=["base", 0], **given)
    graph |= graphs.adapter(name=["train", 0]) | graphs.sample("adapter", steps=1)
    (made,) = server.run(graph, timeout=300)["train"]["ddm_panel"]
    card = load_adapter(server.base / "models" / "loras" / "aligned.safetensors").card
    assert made["card"]["objective"] == card.objective == "alignment"
    graph = graphs.load() | graphs.train(folder, name="alike", objective="invariant", steps=2, batch_size=4)
    graph |= graphs.invariant() | graphs.sample("invariant", steps=1)
    graph["invariant"]["inputs"]["module"] = ["train", 0]
    assert "DDM Invariant Guidance" in server.run(graph, timeout=300)["train"]["ddm_panel"][0]["summary"]
    for lacking in ({"probe": "(none)"}, {"prior_prompts": ""}):
        with pytest.raises(Refused, match="The objective alignment teaches"):
            server.queue(graphs.train(folder, name="lacking", objective="alignment", **given | lacking))


def test_an_adapter_is_trained_from_the_models_own_images_without_a_folder(server):
    graph = graphs.train("(none: the model's own images)", name="own", groups="words:man|woman", caption="")
    graph["train"]["inputs"] |= {"prior_prompts": "a doctor;a pilot", "prior_count": 4}
    (made,) = server.run(graph, timeout=300)["train"]["ddm_panel"]
    assert made["card"]["target"] == {"man": 0.5, "woman": 0.5}
