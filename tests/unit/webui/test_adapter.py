"""The accordion of A1111 1.8, 1.10 and Forge Neo: an adapter, its α, and what infotexts claim."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import Lora, save_adapter

from . import host
from .host import CARD, LORA


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


def test_a_pasted_infotext_switches_off_what_it_does_not_speak_of(door, script):
    params = {"DDM alpha": "0.7"}
    door.registered["on_infotext_pasted"][0]("", params)
    assert (params["DDM adapter"], params["DDM alpha"], params["DDM schedule"]) == ("None", "0.7", "constant")
    assert set(script.paste_field_names) <= set(params)
    *named, (_, heads) = script.infotext_fields
    assert [name for _, name in named] == script.paste_field_names[:-1]
    assert heads(params) == [] and heads({"DDM guidance": "gender, tones/skin"}) == ["gender", "tones/skin"]


def test_the_lists_hold_our_adapters_and_all_probes(script, door):
    from comfyui_ddm.webui import files

    (door.folder / "more_loras").mkdir()
    save_adapter(door.folder / "more_loras" / "else.safetensors", LORA, CARD)
    neo = issubclass(door.module.DDMScript, host.NeoScript)
    assert sorted(files.adapter_names()) == ["None", *(["else"] if neo else []), "people/fair"]
    assert {"None", "gender", "role", "skin_tone"} <= set(files.probe_names())
