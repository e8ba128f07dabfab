"""Our script and tab between stand-ins of A1111 1.8, 1.10 and Forge Neo (a real host is in `tests/webui`)."""

import importlib.util
import json
import re
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_ddm import install as pack
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.training.commands.config_file import read_config

from . import webui_host as host

ROOT = Path(pack.__file__).parent
CARD = AdapterCard(target={"man": 0.5, "woman": 0.5}, concepts=["a doctor"])
# Adds α to every number.
LORA = {host.LAYER: Lora(torch.ones(1, 4) / 4, torch.ones(4, 1), 1.0)}
PROBE = {"probe": "gender", "watch": "role"}


@pytest.fixture(params=[host.Script, host.NewerScript, host.NeoScript], ids=["1.8", "1.10", "Neo"])
def door(request, monkeypatch, tmp_path):
    """The loaded scripts/ddm.py, and what it has registered."""
    for name in [name for name in sys.modules if name.startswith("comfyui_ddm.webui")]:
        monkeypatch.delitem(sys.modules, name)
    registered = host.install(monkeypatch, tmp_path, request.param)
    (tmp_path / "models" / "Lora" / "people").mkdir(parents=True)
    save_adapter(tmp_path / "models" / "Lora" / "people" / "fair.safetensors", LORA, CARD)
    save_adapter(tmp_path / "models" / "Lora" / "foreign.safetensors", LORA)
    spec = importlib.util.spec_from_file_location("ddm.py", ROOT / "scripts" / "ddm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield SimpleNamespace(module=module, registered=registered, folder=tmp_path)
    for name in [name for name in sys.modules if name.startswith("comfyui_ddm.webui")]:
        del sys.modules[name]


@pytest.fixture
def script(door):
    """The script, with its controls made."""
    made = door.module.DDMScript()
    made.controls = made.ui(False)
    return made


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=host.UNet().requires_grad_(False)))


@pytest.mark.parametrize("door", [host.NeoScript], indirect=True, ids=["Neo"])
@pytest.mark.parametrize(("layers", "merged"), [("Default", True), ("Int8", False)])
def test_in_forge_neo_an_adapter_is_in_the_weights_or_beside_layers_that_take_none(door, run, script, layers, merged):
    from backend.args import dynamic_args

    dynamic_args.ops = layers
    unet = host.UNet().requires_grad_(False)
    weight = unet.input_blocks[1][1]["transformer_blocks"][0]["attn1"].to_q.weight
    own, before = unet(torch.ones(2, 4), torch.zeros(2))[0], weight.clone()
    p = host.Processing(host.NeoModel(unet), door.folder, ["a doctor"])
    (made,), (said,) = host.generate(script, p, "people/fair", 0.5)
    assert said["DDM adapter"] == "people/fair" and p.comments == []
    assert torch.allclose(torch.tensor(made) - own, torch.full((4,), 0.5), atol=1e-5)
    assert torch.equal(weight, before) is not merged


@pytest.fixture
def run(script, model, door):
    """Makes images; returns how far each is from the model's own, the infotexts, and the comments."""
    own = model.model.diffusion_model(torch.ones(1, 4), torch.zeros(1))[0]

    def make(*values, prompts=("a doctor",), **settings):
        names = ["adapter", "alpha", "each", "same_seed", "shape", "end", "switch", "points"]
        names += ["probe", "watch", "target", "collect", "heads", "scale", "mode", "targets", "keep_counts", "words"]
        settings |= dict(zip(names, values, strict=False))
        given = [settings.get(name, one.value) for name, one in zip(names, script.controls, strict=True)]
        p = host.Processing(model, door.folder / "images", list(prompts), batch_size=min(len(prompts), 3))
        p.__dict__.update({"on_step": door.registered["on_cfg_denoiser"], **settings.get("p", {})})
        latents, infotexts = host.generate(script, p, *given)
        return [round(sum(one) / 4 - float(own.mean()), 4) for one in latents], infotexts, p

    return make


def test_the_host_finds_one_script_in_the_file_and_is_asked_for_tab_axis_and_pages(door):
    classes = [one for one in vars(door.module).values() if isinstance(one, type) and issubclass(one, host.Script)]
    assert [one.__name__ for one in classes] == ["DDMScript"]
    assert set(door.registered) == set(host.CALLBACKS)
    ((_, title, name),) = door.registered["on_ui_tabs"][0]()
    assert (title, name) == ("DDM", "ddm")


def test_the_axis_is_added_once(door):
    options = []
    axes = SimpleNamespace(
        axis_options=options,
        apply_field=lambda name: name,
        AxisOption=lambda label, *_, confirm: SimpleNamespace(label=label, confirm=confirm),
    )
    from modules import scripts

    scripts.scripts_data += [SimpleNamespace(path="scripts/xyz_grid.py", module=axes), SimpleNamespace(path="x.py")]
    for _ in range(2):
        door.registered["on_before_ui"][0]()
    assert [one.label for one in options] == ["DDM α"]


@pytest.mark.parametrize(
    ("adapter", "shape", "values", "said"),
    [
        ("people/fair", "constant", [0.0, 1.5], ""),
        ("people/fair", "constant", [0.5, 9.0], "strength 9 is out of range"),
        ("people/fair", "constant", [float("nan")], "out of range"),
        ("None", "constant", [0.5], "choose an adapter in the accordion DDM first"),
        ("people/fair", "custom", [0.5], "say α already"),
    ],
)
def test_the_axis_takes_no_strength_that_would_not_be_applied(script, adapter, shape, values, said, door):
    from comfyui_ddm.webui.register import confirm_alphas

    given = {"adapter": adapter, "shape": shape, "points": "0:1"}
    names = ("adapter", "alpha", "each", "same_seed", "shape", "end", "switch", "points")
    script.args_from, script.args_to = 2, 2 + len(script.controls)
    args = [0, 0] + [given.get(name, one.value) for name, one in zip(names, script.controls, strict=False)]
    p = SimpleNamespace(scripts=SimpleNamespace(alwayson_scripts=[script]), script_args=args)
    if said:
        with pytest.raises(RuntimeError, match=said):
            confirm_alphas(p, values)
    else:
        confirm_alphas(p, values)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -1.0])
def test_alpha_is_how_far_every_image_moves(run, alpha):
    moved, infotexts, p = run("people/fair", alpha, prompts=["a doctor"] * 3)
    assert moved == [alpha] * 3 and p.comments == []
    assert infotexts[0]["DDM adapter"] == "people/fair" and infotexts[0]["DDM alpha"] == f"{alpha:g}"
    assert run()[:2] == ([0.0], [{}])


def test_images_of_a_batch_move_each_by_its_own_and_share_a_seed(run, door):
    moved, infotexts, p = run("people/fair", each="0, .5, 1", prompts=["a doctor"] * 6, p={"batch_size": 2})
    assert moved == [0.0, 0.5, 1.0] * 2 and p.all_seeds == [5, 5, 5, 6, 6, 6]
    newer = issubclass(door.module.DDMScript, host.NewerScript)
    said = [one.get("DDM alpha") for one in infotexts]
    assert said == ["0", "0.5", "1"] * 2 if newer else infotexts[0]["DDM alpha per image"] == "0, 0.5, 1"
    assert run("people/fair", each="0, 1", same_seed=False, prompts=["a doctor"] * 2)[2].all_seeds == [5, 6]


def test_it_says_so_where_there_are_fewer_images_than_strengths(run):
    moved, _, p = run("people/fair", each="0, .5, 1", prompts=["a doctor"])
    assert moved == [0.0]
    assert p.comments == ["DDM: 3 strengths, 1 image: only α = 0 was made. Ask for 3 images (batch count, batch size)."]


def test_a_card_names_the_checkpoint_and_whether_it_is_selected(door):
    from comfyui_ddm.webui import cards
    from modules import sd_models

    def shown(digest):
        card = replace(CARD, base_hash=digest, recommended_alpha=0.75)
        save_adapter(door.folder / "models" / "Lora" / "people" / "fair.safetensors", LORA, card)
        return cards.card_html("people/fair")

    sd_models.checkpoints_list["else"] = SimpleNamespace(filename="/models/else.safetensors", sha256="e" * 64)
    assert "Trained on this base" in shown("c" * 64)
    assert "It was trained on else.safetensors, which is not selected" in shown("e" * 64)
    assert "not known here" in shown("d" * 64) and cards.recommended_alpha("people/fair") == 0.75
    assert cards.card_html("None") == "" and cards.recommended_alpha("None") is None


def test_the_plots_alpha_goes_before_all_others(run):
    assert run("people/fair", 1.0, each="0, 1", p={"ddm_alpha": 0.25})[0] == [0.25]


def test_with_and_the_images_of_a_batch_are_not_told_apart_and_it_says_so(run):
    moved, _, p = run("people/fair", each="0, 1", prompts=["a doctor AND a pilot"] * 2)
    assert moved == [0.0, 0.0] and "With AND" in p.comments[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"adapter": "gone"}, "There is no adapter called 'gone'"),
        ({"adapter": "../people/fair"}, "There is no adapter called"),
        ({"adapter": "model.ckpt"}, "is a pickle file"),
        ({"adapter": "foreign"}, "was not made by ComfyUI-DDM"),
        ({"adapter": "people/fair", "alpha": 7}, "out of range"),
        ({"adapter": "people/fair", "alpha": "much"}, "'much' is no α"),
        ({"adapter": "people/fair", "each": "0; a"}, "'a' is no α"),
        ({"adapter": "people/fair", "shape": "custom", "points": "1"}, "is not a point of the schedule"),
    ],
)
def test_what_cannot_be_done_is_said_and_not_claimed(run, asked, said):
    moved, infotexts, p = run(**asked)
    assert moved == [0.0] and infotexts == [{}]
    assert len(p.comments) == 1 and p.comments[0].startswith("DDM: no adapter was used.") and said in p.comments[0]


def test_an_adapter_for_another_kind_of_model_is_not_used(run, door):
    other = {"down_blocks.9.attentions.0.proj_in": LORA[host.LAYER]}
    save_adapter(door.folder / "models" / "Lora" / "other.safetensors", other, CARD)
    moved, infotexts, p = run("other")
    assert (moved, infotexts) == ([0.0], [{}]) and "made for another base model" in p.comments[0]


def test_an_adapter_that_changes_the_text_encoder_too_is_used_by_half_and_says_so(run, door):
    both = LORA | {"text_encoder.encoder.layers.0.mlp.fc1": Lora(torch.ones(1, 8), torch.ones(4, 1), 1.0)}
    save_adapter(door.folder / "models" / "Lora" / "both.safetensors", both, CARD)
    moved, infotexts, p = run("both", 0.5)
    assert moved == [0.5] and infotexts[0]["DDM adapter"] == "both"
    assert "this half is left out here" in p.comments[0] and "<lora:both:1>" in p.comments[0]


@pytest.mark.parametrize("again", [True, False], ids=["same run", "another run"])
def test_what_a_run_that_failed_has_left_is_gone_in_the_next(script, model, door, heads, again):
    p = host.Processing(model, door.folder, ["a doctor"])
    from comfyui_ddm.webui.settings import Settings

    guided = {one.name: one.default for one in fields(Settings)} | {"heads": ["gender"]}
    with pytest.raises(RuntimeError):
        host.generate(script, p, *(guided | {"adapter": "people/fair"}).values(), interrupt=True)
    p = p if again else host.Processing(model, door.folder, ["a doctor"])
    moved, infotexts = host.generate(script, p, "None", 1.0)
    # In a batch as the host's, with guidance: rows of another batch may differ by a rounding.
    own = model.model.diffusion_model(torch.ones(2, 4), torch.zeros(2))[0]
    assert moved == [own.tolist()] and infotexts == [{}]


@pytest.fixture
def heads(door):
    """Heads in models/ddm: whatever they see is a man, and they push one number up for a woman, and down for a man."""
    folder = door.folder / "models" / "ddm"
    folder.mkdir()
    push = torch.stack([-torch.ones(4, 1, 1), torch.ones(4, 1, 1)])[None]
    for name, attribute, channels in (("gender", "gender", 4), ("age", "age", 4), ("other", "gender", 8)):
        weight, bias = torch.zeros(1, 2, channels, 1, 1), torch.tensor([[1e-3, 0.0]])
        own = push.repeat(1, 1, channels // 4, 1, 1)
        HSpaceClassifier(("man", "woman"), attribute, (500,), weight, bias, own, (1.0,)).save(
            folder / f"{name}.safetensors"
        )


GUIDED = {"heads": ["gender"], "scale": 2.0}
UP, DOWN = 2.0, -2.0


def test_images_that_are_made_together_are_guided_to_the_target(run, heads, model):
    calls = []
    model.model.diffusion_model.register_forward_hook(lambda unet, inputs, made: calls.append(made))
    run(prompts=["a doctor"] * 2)
    moved, infotexts, p = run(prompts=["a doctor"] * 2, **GUIDED)
    assert sorted(round(one, 2) for one in moved) == [DOWN, UP]
    assert torch.equal(calls[1][2:], calls[0][2:])  # the half without a prompt
    assert infotexts[0] == infotexts[1]
    said = {name.removeprefix("DDM guidance").strip(): value for name, value in infotexts[0].items()}
    assert len(said.pop("hash")) == 12
    assert said == {"": "gender", "scale": "2", "mode": "queue", "target": "uniform"}
    assert "made for another model" in p.comments[0] and len(p.comments) == 1


def test_single_images_are_counted_over_runs_unless_each_is_by_itself(run, heads):
    assert [round(run(**GUIDED)[0][0], 2) for _ in range(3)] == [DOWN, UP, UP]
    assert [round(run(keep_counts=False, **GUIDED)[0][0], 2) for _ in range(2)] == [DOWN, DOWN]


def test_a_second_pass_over_the_images_does_not_count_them_twice(run, heads, door):
    from comfyui_ddm.webui import guiding

    run(prompts=["a doctor"] * 2, p={"passes": 2}, **GUIDED)
    (tally,) = guiding.TALLIES._kept.values()
    assert tally.total.sum() == 2


def test_it_asks_for_other_shares_of_several_attributes_and_goes_with_an_adapter(run, heads):
    moved, infotexts, _ = run(
        "people/fair", 0.5, heads=["gender", "age"], scale=2.0, targets="man=0,woman=1; man=1,woman=0"
    )
    assert round(moved[0], 2) == 0.5
    assert infotexts[0]["DDM guidance target"] == "man=0,woman=1; man=1,woman=0"
    assert infotexts[0]["DDM guidance"] == "gender, age" and infotexts[0]["DDM alpha"] == "0.5"
    assert round(run(targets="man=0,woman=1", mode="batch", **GUIDED)[0][0], 2) > 1


def test_a_prompt_that_says_who_is_meant_is_left_alone(run, heads):
    asked = {"prompts": ["a doctor", "a woman doctor", "a boy"]}
    moved, infotexts, p = run(**asked, **GUIDED)
    assert [one != 0 for one in moved] == [True, False, False] and "DDM guidance words" not in infotexts[0]
    assert "DDM: guidance leaves alone what the prompt says itself (woman, boy)." in p.comments
    moved, infotexts, _ = run(words="boy, girl", **asked, **GUIDED)
    assert [one != 0 for one in moved] == [True, True, False]
    assert infotexts[0]["DDM guidance words"] == "boy, girl"


def test_an_image_that_guidance_left_alone_claims_none_and_says_why(run, heads, door):
    both = {"heads": ["gender", "age"], "scale": 2.0, "targets": "uniform; uniform", "words": "lady; elderly"}
    _, infotexts, _ = run(prompts=["a doctor", "a lady"], **both)
    if issubclass(door.module.DDMScript, host.NewerScript):
        assert "DDM guidance left alone" not in infotexts[0]
        assert infotexts[0]["DDM guidance"] == "gender, age" and infotexts[1]["DDM guidance"] == "age"
        assert (infotexts[1]["DDM guidance target"], infotexts[1]["DDM guidance words"]) == ("uniform", "elderly")
    assert infotexts[1]["DDM guidance left alone"] == "lady"
    _, infotexts, _ = run(prompts=["a lady"], **GUIDED)
    assert infotexts == [{"DDM guidance left alone": "lady"}]


def test_scale_0_is_the_model_as_it_was(run, heads):
    assert run(heads=["gender"], scale=0.0)[0] == [0.0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"heads": ["gone"]}, "There is no head called 'gone'"),
        ({"heads": ["../ddm/gender"]}, "There is no head called"),
        ({"heads": ["gender", "other"]}, "for one attribute"),
        ({"heads": ["gender"], "targets": "cat=1,dog=0"}, "cat"),
        ({"heads": ["gender"], "targets": "uniform; uniform"}, "2 targets for 1 heads"),
        ({"heads": ["gender"], "scale": "much"}, "is a number"),
        ({"heads": ["gender"], "mode": "sideways"}, "queue or batch"),
        ({"heads": ["gender"], "prompts": ["a doctor AND a pilot"]}, "Prompts with AND"),
        ({"heads": ["other"]}, "reads 8 channels"),
    ],
)
def test_what_cannot_be_guided_is_said_and_not_claimed(run, heads, asked, said):
    moved, infotexts, p = run(**asked)
    assert moved == [0.0] and infotexts == [{}]
    assert p.comments[-1].startswith("DDM: these images were not guided.") and said in p.comments[-1]


def test_a_report_tells_guided_images_from_others(run, heads, door):
    run(prompts=["a pilot"], **PROBE)
    run(prompts=["a pilot"], **GUIDED, **PROBE)
    run("people/fair", 0.5, prompts=["a pilot"], **GUIDED, **PROBE)
    (made,) = (door.folder / "images" / "ddm").glob("*.json")
    first, *guided = [one["label"] for one in json.loads(made.read_text("utf-8"))["conditions"]]
    assert first == "α = 0"
    assert [re.sub(" [0-9a-f]{12}", " #", one) for one in guided] == [
        *("α = 0, guidance gender, #, 2, queue, uniform", "α = 0.5, guidance gender, #, 2, queue, uniform"),
    ]


def conditions(door):
    (made,) = (door.folder / "images" / "ddm").glob("*.json")
    report = json.loads(made.read_text("utf-8"))
    return {one["label"]: one["images"] for one in report["conditions"]}, report


@pytest.mark.parametrize(
    ("other", "label"),
    [
        ({"p": {"settings": {"Sampler": "Euler", "Steps": 2, "Model hash": "ffff"}}}, "Model hash ffff"),
        ({"p": {"settings": {"Sampler": "Euler", "Steps": 9, "Model hash": "abcd"}}}, "Steps 9"),
        ({"p": {"all_negative_prompts": ["ugly,  bad"]}}, "negative prompt ugly, bad"),
        ({"prompts": ["a pilot <lora:foreign:0.3>"]}, "with <lora:foreign:0.3>"),
    ],
)
def test_images_made_otherwise_are_not_pooled(run, door, other, label):
    run(prompts=["a pilot"], **PROBE)
    run(**{"prompts": ["a pilot"]} | other, **PROBE)
    run(prompts=["a pilot"], p={"all_seeds": [6]}, **PROBE)
    counted, report = conditions(door)
    assert any(label in name and images == 1 for name, images in counted.items()), counted
    assert sorted(counted.values()) == [1, 2]  # another seed is the same condition
    assert any("All images were made with: " in note and "Sampler Euler" in note for note in report["notes"])


def test_images_of_two_adapters_and_of_a_schedule_are_told_apart(run, door):
    save_adapter(door.folder / "models" / "Lora" / "fairer.safetensors", LORA, CARD)
    for adapter, alpha, shape in (
        *(("None", 1.0, "constant"), ("people/fair", 0.0, "constant"), ("people/fair", 1.0, "constant")),
        *(("fairer", 1.0, "constant"), ("people/fair", 1.0, "ramp")),
    ):
        run(adapter, alpha, shape=shape, prompts=["a pilot"], **PROBE)
    counted, _ = conditions(door)
    # At α = 0 all adapters are alike, and the same image counts once.
    assert {re.sub(r" \([0-9a-f]{8}\)", "", name): images for name, images in counted.items()} == {
        "α = 0": 1,
        "α = 1, adapter people/fair": 1,
        "α = 1, adapter fairer": 1,
        "adapter people/fair, schedule alpha 1, ramp, alpha end 0": 1,
    }
    page = next((door.folder / "images" / "ddm").glob("*.html")).read_text("utf-8")
    assert "fairer" in page and "over α" not in page


def test_a_pasted_infotext_switches_off_what_it_does_not_speak_of(door, script):
    params = {"DDM alpha": "0.7"}
    door.registered["on_infotext_pasted"][0]("", params)
    assert (params["DDM adapter"], params["DDM alpha"], params["DDM schedule"]) == ("None", "0.7", "constant")
    assert set(script.paste_field_names) <= set(params)
    *named, (_, heads) = script.infotext_fields
    assert [name for _, name in named] == script.paste_field_names[:-1]
    assert heads(params) == [] and heads({"DDM guidance": "gender, tones/skin"}) == ["gender", "tones/skin"]


def test_the_report_grows_beside_the_gallery_and_lies_beside_the_images(run, script, door):
    run(prompts=["a doctor <lora:x:1>", "a pilot <lora:x:1>"], **PROBE)
    run("people/fair", 0.5, prompts=["a doctor <lora:x:1>"], **PROBE)
    (made,) = (door.folder / "images" / "ddm").glob("*.json")
    report = json.loads(made.read_text("utf-8"))
    assert [(one["label"], one["images"]) for one in report["conditions"]] == [("α = 0", 2), ("α = 0.5", 1)]
    assert {row["prompt"] for row in report["attributes"][0]["prompts"]} == {"a doctor", "a pilot"}
    box = host.Component()
    script.after["generation_info_txt2img"](SimpleNamespace(component=box))
    shown = box.events["change"][0]()
    assert "Open the whole page" in shown and "too few" in shown


def test_a_report_begins_anew_with_a_job_and_not_with_a_cell_of_its_plot(run, door):
    from modules import shared

    def counted():
        return [
            sum(one["images"] for one in json.loads(made.read_text("utf-8"))["conditions"])
            for made in sorted((door.folder / "images" / "ddm").glob("*.json"))
        ]

    run(prompts=["a pilot"] * 2, **PROBE)
    shared.state.job_timestamp = "2"
    for alpha in (0.0, 1.0):
        run("people/fair", alpha, prompts=["a pilot"], collect=False, **PROBE)
    assert counted() == [2, 2]


def test_a_report_that_cannot_be_made_is_said_in_both_places(run, script):
    _, _, p = run(probe="gone")
    assert p.comments == [
        "DDM: no report. There is no probe called 'gone' in models/ddm. Refresh the list, and choose another."
    ]
    _, _, p = run(probe="gender", target="cat=1,dog=0")
    assert "DDM: no report." in p.comments[0] and "cat" in p.comments[0]


def test_the_lists_hold_our_adapters_and_all_probes(script, door):
    from comfyui_ddm.webui import files

    (door.folder / "more_loras").mkdir()
    save_adapter(door.folder / "more_loras" / "else.safetensors", LORA, CARD)
    neo = issubclass(door.module.DDMScript, host.NeoScript)
    assert sorted(files.adapter_names()) == ["None", *(["else"] if neo else []), "people/fair"]
    assert {"None", "gender", "role", "skin_tone"} <= set(files.probe_names())


@pytest.fixture
def tab(door, monkeypatch):
    """The tab, with a stand-in for the trainer: says where the host was while it worked."""
    from comfyui_ddm.hosts import background
    from comfyui_ddm.webui import tab

    started = []

    class Trainer:
        def __init__(self, command):
            started.append((read_config(Path(command.arguments[1])), list(door.registered["memory"])))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def events(self):
            save_adapter(started[-1][0]["out"], LORA, CARD)
            yield {"phase": "training", "done": 5, "total": 5, "seconds_left": 0.0, "loss": 0.5, "ess": 1.0}

    monkeypatch.setattr(background, "Trainer", Trainer)
    return SimpleNamespace(module=tab, started=started)


def training(folder, name="mine", model="the selected checkpoint", groups="labels:folder"):
    return (str(folder), model, groups, "uniform", "a shade", name, False, False)


def test_a_training_takes_the_selected_checkpoint_while_the_host_waits_and_lands_among_the_loras(tab, door, tmp_path):
    more = {"steps": 5, "rank": 2, "calibrate": 0, "by_prompt": 16, "batch_size": None, "learning_rate": 0.0}
    more |= {"probe": ["gender"], "reg_data": str(tmp_path), "flip": True}
    *_, shown = tab.module._started(list(more), *training(tmp_path), *more.values())
    assert "mine.safetensors is among your LoRAs" in shown
    ((config, memory),) = tab.started
    neo = issubclass(door.module.DDMScript, host.NeoScript)
    assert memory == ["away"] and door.registered["memory"] == (["away"] if neo else ["away", "back"])
    wanted = {"folder": tmp_path, "base": tmp_path / "models" / "chosen.safetensors", "reg_data": tmp_path}
    wanted |= {"probe": [ROOT / "examples" / "probes" / "gender.safetensors"], "caption": "a shade"}
    wanted |= {"steps": 5, "by_prompt": 16, "flip": True}
    assert {name: config.get(name) for name in wanted} == wanted
    assert not {"batch_size", "learning_rate", "resolution"} & set(config)
    assert (tmp_path / "models" / "Lora" / "mine.safetensors").is_file()
    from comfyui_ddm.webui import files

    assert "mine" in files.adapter_names()
    assert "A training" not in shown and "man 50%, woman 50%" in tab.module.card_html("mine")


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


def test_the_trainer_is_told_where_the_model_is_that_a_probe_reads_and_the_host_does_not_open_it(tab, door, tmp_path):
    folder = door.folder / "models" / "ddm" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    Probe(("man", "woman"), "gender", torch.nn.Linear(4, 2), identity="CLIP small (0a1b)").save(
        folder.parent / "read.safetensors"
    )
    more = {"probe": ["read"], "measure": 2}
    *_, shown = tab.module._started(list(more), *training(tmp_path), *more.values())
    ((config, *_),) = tab.started
    wanted = {"probe": [folder.parent / "read.safetensors"], "clip": folder, "measure": 2}
    assert wanted.items() <= config.items() and "mine.safetensors is among your LoRAs" in shown
    (folder / "config.json").unlink()
    (shown,) = tab.module._started(list(more), *training(tmp_path, name="other"), *more.values())
    assert "CLIP small (0a1b), which is not there" in shown and len(tab.started) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folder": "/nowhere"}, "There is no folder"),
        ({"folder": ""}, "There is no folder"),
        ({"name": "../mine"}, "is no name for an adapter"),
        ({"name": "foreign"}, "was not made by ComfyUI-DDM"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence_and_nothing_is_started(tab, tmp_path, given, said):
    (shown,) = tab.module.train(*training(**{"folder": tmp_path, **given}))
    assert said in shown and "ddm-problem" in shown and tab.started == []


def test_a_server_that_hides_folders_lets_nobody_name_one(tab, tmp_path):
    from modules import shared

    shared.cmd_opts.hide_ui_dir_config = True
    (shown,) = tab.module.train(*training(tmp_path))
    assert "--hide-ui-dir-config" in shown
    assert "--hide-ui-dir-config" in tab.module.audit(str(tmp_path), "", "discovered", "uniform", "")
