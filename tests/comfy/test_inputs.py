"""Whatever is wrong with an input, the user reads a sentence that says what, where and what to do."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from . import graphs
from .server import ADAPTER, PACK, Failed, Refused, run_in_host

SHIPPED = PACK / "examples" / "adapters" / ADAPTER


@pytest.fixture
def loras(server):
    """The server's folder of LoRAs, emptied after each test."""
    folder = server.base / "models" / "loras"
    yield folder
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def graph(name=ADAPTER, alpha=1.0, **more):
    return graphs.load() | graphs.adapter(alpha, name, **more) | graphs.sample("adapter", steps=1, batch=1)


def refusal(server, prompt, node):
    with pytest.raises(Refused) as refused:
        server.queue(prompt)
    return is_sentence(" ".join(refused.value.node_errors[node]))


def failure(server, prompt):
    with pytest.raises(Failed) as failed:
        server.run(prompt)
    return is_sentence(str(failed.value))


def is_sentence(text):
    assert re.search(r"[A-Z][^.]+ .+\.$", text.strip()), text
    assert "Traceback" not in text and "Error(" not in text
    return text


def save_lora(path, shapes, **card):
    from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter

    layers = {
        name: Lora(torch.zeros(2, *rest), torch.zeros(out, 2, *[1] * (len(rest) - 1)), 2.0)
        for name, (out, *rest) in shapes.items()
    }
    save_adapter(path, layers, AdapterCard(**card))


def test_an_adapter_that_was_removed_is_missed(server, loras):
    shutil.copy(SHIPPED, loras / "gone.safetensors")
    assert "gone.safetensors" in server.options("DDMLoadAdapter", "adapter")
    server.run(graph("gone.safetensors"))
    (loras / "gone.safetensors").unlink()
    text = refusal(server, graph("gone.safetensors"), "adapter")
    assert "There is no adapter called 'gone.safetensors'" in text and "choose another" in text


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "..\\..\\secret.safetensors", "a/../../b", ""]
)
def test_no_name_leads_out_of_the_folder(server, name):
    (server.base / "models" / "secret.safetensors").write_bytes(SHIPPED.read_bytes())
    assert "There is no adapter called" in refusal(server, graph(name), "adapter")
    assert "There is no checkpoint called" in refusal(server, graphs.load(name) | graphs.sample(), "base")


@pytest.mark.parametrize("name", ["Füchse und 消防士.safetensors", "sub folder/it's <b> & 'fair'.safetensors"])
def test_any_file_name_works(server, loras, name):
    (loras / name).parent.mkdir(exist_ok=True)
    shutil.copy(SHIPPED, loras / name)
    panel = server.run(graph(name))["adapter"]["ddm_panel"][0]
    assert panel["title"] == name


def test_a_truncated_adapter_is_named(server, loras):
    data = SHIPPED.read_bytes()
    for size in (0, 5, 500, len(data) - 1000):
        name = f"half-{size}.safetensors"
        (loras / name).write_bytes(data[:size])
        text = refusal(server, graph(name), "adapter")
        assert name in text and "copy or download it again" in text


def test_a_pickle_is_refused_before_it_is_opened(server, loras):
    (loras / "old.ckpt").write_bytes(b"\x80\x04 not to be read")
    text = refusal(server, graph("old.ckpt"), "adapter")
    assert "pickle" in text and "Convert it to .safetensors" in text


def test_an_adapter_for_another_base_is_refused(server, loras):
    save_lora(loras / "other.safetensors", {"mid_block.resnets.0.conv1": (1280, 1280, 3, 3)})
    text = failure(server, graph("other.safetensors"))
    assert "made for another base model" in text and "1280×1280×3×3" in text and "128×128×3×3" in text
    save_lora(loras / "deep.safetensors", {"down_blocks.3.resnets.0.conv1": (128, 128, 3, 3)})
    assert "has no layer" in failure(server, graph("deep.safetensors"))


def test_a_foreign_lora_that_changes_nothing_is_refused(server, loras):
    from comfyui_ddm.debias.core.io import save_tensors

    save_tensors(loras / "weights.safetensors", {"some.weight": torch.zeros(3)})
    assert "changes no layer of this model" in failure(server, graph("weights.safetensors"))


def test_an_ordinary_lora_works_and_says_what_is_not_known(server, loras):
    from comfyui_ddm.debias.core.io import load_tensors, save_tensors

    tensors, metadata = load_tensors(SHIPPED)
    plain = {key: value for key, value in metadata.items() if not key.startswith("ddm.")}
    save_tensors(loras / "plain.safetensors", tensors, plain)
    panel = server.run(graph("plain.safetensors"))["adapter"]["ddm_panel"][0]
    assert panel["verdict"]["tone"] == "unknown" and "not made by ComfyUI-DDM" in panel["verdict"]["text"]
    text = refusal(server, graph("plain.safetensors", strength_from="recommended"), "adapter")
    assert "recommends no strength" in text


@pytest.mark.parametrize(("fd", "tone"), [(0.04, "fair"), (0.2, "unknown"), (None, "unknown")])
def test_a_measured_adapter_shows_what_was_measured(server, loras, fd, tone):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter, update_card

    points = [
        {"alpha": alpha, "images": 600, "shares": [0.5, 0.5], "fd": fd, "fd_high": fd, "floor_high": 0.06}
        for alpha in (0.0, 0.75)
    ]
    card = load_adapter(SHIPPED).card
    shutil.copy(SHIPPED, loras / "measured.safetensors")
    measured = {"attribute": "gender", "classes": ["man", "woman"], "prompts": 1, "steps": 20, "cfg": 3.0}
    measured |= {"points": points, "recommended_alpha": 0.75}
    update_card(loras / "measured.safetensors", replace(card, measured=measured, recommended_alpha=0.75))
    panel = server.run(graph("measured.safetensors"))["adapter"]["ddm_panel"][0]
    assert panel["measured"] and panel["n"] == 1200 and panel["points"] == points
    assert panel["verdict"]["tone"] == tone
    assert "Recommended α: 0.75 (measured)" in panel["summary"]


def test_an_adapter_of_another_training_of_the_base_warns(server, loras):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter, update_card

    shutil.copy(SHIPPED, loras / "twin.safetensors")
    card = load_adapter(SHIPPED).card
    update_card(loras / "twin.safetensors", replace(card, base_hash="f" * 64))
    outputs = server.run(graph("twin.safetensors"))["adapter"]
    assert "trained on another base (hash ffffffffff" in outputs["ddm_panel"][0]["verdict"]["text"]
    assert "trained on another base" in outputs["text"][0]


def test_where_the_base_cannot_be_known_the_card_says_so(server, loras):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter, update_card

    shutil.copy(SHIPPED, loras / "orphan.safetensors")
    update_card(loras / "orphan.safetensors", replace(load_adapter(SHIPPED).card, base_hash=""))
    text = server.run(graph("orphan.safetensors"))["adapter"]["text"][0]
    assert "Which base the model comes from is not known here" in text
    assert "No model is connected" in server.run(graphs.scheduled("early"))["schedule"]["text"][0]


def test_an_adapter_of_a_newer_format_asks_for_an_update(server, loras):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter, update_card

    shutil.copy(SHIPPED, loras / "new.safetensors")
    update_card(loras / "new.safetensors", replace(load_adapter(SHIPPED).card, format_version=99))
    assert "Update ComfyUI-DDM" in refusal(server, graph("new.safetensors"), "adapter")


def test_a_changed_adapter_file_is_read_again(server, loras):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter, update_card

    shutil.copy(SHIPPED, loras / "mine.safetensors")
    server.run(graph("mine.safetensors"))
    update_card(loras / "mine.safetensors", replace(load_adapter(SHIPPED).card, recommended_alpha=0.35))
    assert server.run(graph("mine.safetensors"))["adapter"]["ddm_panel"][0]["recommended_alpha"] == 0.35


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("", "has no points"),
        ("garbage", "'garbage' is not a point"),
        ("0:1, .5", "'.5' is not a point"),
        ("0:1:2", "'0:1:2' is not a point"),
        ("0:1, 1.5:0", "position 1.5 is outside"),
        ("-.1:1", "position -0.1 is outside"),
        ("0:nan", "strength nan is out of range"),
        ("nan:1", "position nan is outside"),
        ("0:99", "strength 99 is out of range"),
    ],
)
def test_points_that_cannot_be_read_are_named(server, points, said):
    assert said in refusal(server, graphs.scheduled("custom", points=points), "schedule")


def test_a_schedule_checks_its_adapter_too(server, loras):
    prompt = graphs.scheduled("early") | graphs.schedule("early", model=["base", 0])
    prompt["schedule"]["inputs"]["adapter"] = "nowhere.safetensors"
    assert "There is no adapter called 'nowhere.safetensors'" in refusal(server, prompt, "schedule")
    save_lora(loras / "other.safetensors", {"mid_block.resnets.0.conv1": (1280, 1280, 3, 3)})
    prompt["schedule"]["inputs"]["adapter"] = "other.safetensors"
    server.get("/object_info/DDMAlphaSchedule")
    assert "made for another base model" in failure(server, prompt)


def test_an_unknown_shape_is_refused(server):
    assert "Choose constant, ramp, early, custom" in refusal(server, graphs.scheduled("zigzag"), "schedule")


# Weights


@pytest.fixture
def models(server):
    """The server's models folder; what a test puts into diffusers/ and checkpoints/ is removed."""
    folders = [server.base / "models" / name for name in ("diffusers", "checkpoints")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    yield server.base / "models"
    for path in (path for folder in folders for path in folder.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_embedded(models, name):
    folder = models / "diffusers" / name
    shutil.copytree(PACK / "examples" / "tiny_people", folder)
    return folder


def test_a_model_folder_loads_by_its_name(server, models):
    copy_embedded(models, "mine/Leute 人々")
    assert "mine/Leute 人々" in server.options("DDMLoadWeights", "weights")
    server.run(graphs.load("mine/Leute 人々") | graphs.adapter() | graphs.sample("adapter", steps=1))


def test_a_model_folder_that_lacks_a_part_says_which(server, models):
    folder = copy_embedded(models, "half")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    text = refusal(server, graphs.load("half") | graphs.sample(), "base")
    assert "incomplete: vae/diffusion_pytorch_model.safetensors is missing" in text
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pickled weights" in refusal(server, graphs.load("half") | graphs.sample(), "base")


def test_weights_that_are_not_finite_make_no_black_images(server, models, loras):
    from comfyui_ddm.debias.core.io import load_tensors, save_tensors

    for source, path, node in (
        (PACK / "examples/tiny_people/unet", copy_embedded(models, "nan") / "unet", graphs.load("nan")),
        (SHIPPED.parent, loras, graph("nan.safetensors")),
    ):
        file = next(source.glob("*.safetensors"))
        tensors, metadata = load_tensors(file)
        tensors[next(iter(tensors))].fill_(torch.nan)
        save_tensors(path / ("nan.safetensors" if path == loras else file.name), tensors, metadata)
        assert "is not finite" in failure(server, node | graphs.sample("base" if len(node) == 1 else "adapter"))


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("unet", {"down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"]}, "AttnDownBlock2D"),
        ("unet", {"layers_per_block": 2}, "weights are missing or unknown"),
        ("vae", {"block_out_channels": [32, 64]}, "four levels"),
        ("scheduler", {"beta_schedule": "linear"}, "noise schedule"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(server, models, part, changed, said):
    folder = copy_embedded(models, f"odd {part} {len(said)}")
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert said in failure(server, graphs.load(folder.name) | graphs.sample(steps=1))


def test_a_checkpoint_that_is_none_is_refused(server, models):
    from comfyui_ddm.debias.core.io import save_tensors

    (models / "checkpoints" / "cut.safetensors").write_bytes(SHIPPED.read_bytes()[:100])
    text = refusal(server, graphs.load("cut.safetensors") | graphs.sample(), "base")
    assert "not a complete safetensors file" in text
    save_tensors(models / "checkpoints" / "zero.safetensors", {"some.weight": torch.zeros(3)})
    assert "zero.safetensors" in failure(server, graphs.load("zero.safetensors") | graphs.sample())
    (models / "checkpoints" / "old.ckpt").write_bytes(b"\x80\x04")
    assert "pickle" in refusal(server, graphs.load("old.ckpt") | graphs.sample(), "base")


def test_a_text_half_that_is_left_out_is_mentioned(server, loras):
    from comfyui_ddm.debias.core.io import load_tensors, save_tensors

    tensors, _ = load_tensors(SHIPPED)
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors |= {f"{layer}.lora_down.weight": torch.zeros(1, 128), f"{layer}.lora_up.weight": torch.zeros(512, 1)}
    save_tensors(loras / "both.safetensors", tensors)
    assert "no CLIP is connected" in server.run(graph("both.safetensors"))["adapter"]["text"][0]
    assert "no CLIP" not in server.run(graph("both.safetensors", clip=True))["adapter"]["text"][0]


# Nodes as they are put into a graph


def test_a_mistake_is_said_once(server):
    for graph, said in (
        (graphs.train("people", name="fair"), "There is no folder 'people'"),
        (graphs.train("people_emoji (comes with ComfyUI-DDM)", groups="gender"), "“gender” is not known"),
        (graphs.measured(prompts=" "), "There is no prompt"),
        (graphs.scheduled("custom", points="garbage"), "'garbage' is not a point"),
    ):
        with pytest.raises(Refused) as refused:
            server.queue(graph)
        ((told,),) = refused.value.node_errors.values()
        assert said in told


def test_an_error_names_no_place_on_the_machine(server, loras):
    save_lora(loras / "other.safetensors", {"mid_block.resnets.0.conv1": (1280, 1280, 3, 3)})
    with pytest.raises(Failed) as failed:
        server.run(graph("other.safetensors"))
    assert failed.value.error["exception_type"] == "ComfyUI-DDM.DDMError"
    assert str(server.base) not in failed.value.error["exception_message"]


def test_a_missing_input_is_a_sentence_and_no_error_of_python(server):
    ours = {name: node for name, node in server.get("/object_info").items() if name.startswith("DDM")}
    for name, known in ours.items():
        graph = {"ours": {"class_type": name, "inputs": {}}}
        graph["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["ours", 0]}}
        with pytest.raises(Refused) as refused:
            server.queue(graph)
        errors = refused.value.answer["node_errors"]["ours"]["errors"]
        assert {one["type"] for one in errors} == {"required_input_missing"}, name
        assert {one["details"] for one in errors} == set(known["input"]["required"]), name


KIND = """
import importlib.util, sys
from types import SimpleNamespace
from comfy.cli_args import args
args.cpu = True
import comfy.lora, comfy.supported_models
pack = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.debias.adapter.lora_file import load_adapter
from pack.debias.core.error import DDMError
from pack.nodes.adapter_file import AdapterFile
comfy.lora.model_lora_keys_unet = lambda model, keys: {}
flux = comfy.supported_models.Flux.__new__(comfy.supported_models.Flux)
model = SimpleNamespace(model=SimpleNamespace(model_config=flux), attachments={})
try:
    AdapterFile("fair.safetensors", {}, load_adapter(sys.argv[2])).check(model)
except DDMError as error:
    print(error)
"""


def test_a_model_of_another_kind_is_called_by_its_name(host):
    said = run_in_host(host, KIND, str(PACK), str(SHIPPED)).splitlines()[-1]
    assert said.startswith("This is a Flux model, and fair.safetensors was made for Stable Diffusion 1.x.")
