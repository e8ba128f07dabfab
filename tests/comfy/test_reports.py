"""Reports on the images of real graphs: what is counted, what is shown, what is refused."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard
from comfyui_ddm.debias.core.io import read_metadata, save_tensors
from comfyui_ddm.debias.probes.probe import Probe
from PIL import Image

from . import graphs
from .server import ADAPTER, PACK, Failed, Refused

GENDER = PACK / "examples" / "probes" / "gender.safetensors"
FAIR = PACK / "examples" / "adapters" / ADAPTER


def panel(outputs, node="report"):
    (made,) = outputs[node]["ddm_panel"]
    return made


def constant(width=8, height=8, batch=1, color=0xFFFFFF):
    """Node `decoder`, as in `sample`: images of one colour."""
    inputs = {"width": width, "height": height, "batch_size": batch, "color": color}
    return {"decoder": {"class_type": "EmptyImage", "inputs": inputs}}


def test_the_shares_are_those_that_the_probe_sees_in_the_saved_images(server):
    outputs = server.run(graphs.reported(batch=12, steps=6, collection="shares"))
    made = panel(outputs)
    saved = np.stack([np.asarray(Image.open(io.BytesIO(server.view(one)))) for one in outputs["image"]["images"]])
    probe = Probe.load(GENDER)
    features, described = probe.look(saved)
    seen = probe.predict_features(features)[~probe.unlike(described)]
    sure = seen[seen.max(1) >= 0.6]
    assert made["n"] == 12
    assert made["attributes"][0]["undetermined"] == 12 - len(sure)
    shares = [group["share"] for group in made["attributes"][0]["groups"]]
    assert shares == pytest.approx(np.eye(2)[sure.argmax(1)].mean(0).tolist())


def test_the_page_and_the_figures_are_files_that_the_host_serves(server):
    evil = "<script>alert('1')</script> a firefighter"
    made = panel(server.run(graphs.reported(prompt=evil, collection="files")))
    figures = json.loads(server.view(made["files"]["json"]))
    assert figures["summary"] == made["summary"]
    assert figures["attributes"][0]["overall"][0]["shares"][0]["value"] == made["attributes"][0]["groups"][0]["share"]
    page = server.view(made["files"]["html"]).decode()
    assert page.startswith("<!doctype html>")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "data:image/jpeg" in page


def test_below_sixty_images_it_is_too_few_to_say_and_above_there_is_a_verdict(server):
    few = panel(server.run(graphs.reported(batch=5, collection="few")))
    assert few["verdict"] == {"tone": "unknown", "text": "too few to say: 5 images, and a verdict needs 60"}
    many = panel(server.run(graphs.reported(batch=60, alpha=-1.0, steps=6, collection="many")))
    assert many["verdict"]["tone"] == "unfair"  # below 0, α makes the bias stronger


def test_runs_add_up_and_the_same_images_count_once(server):
    first, second = (graphs.reported(seed=seed, collection="runs") for seed in (1, 2))
    assert panel(server.run(first))["n"] == 2
    assert panel(server.run(second))["n"] == 4
    assert panel(server.run(first))["n"] == 4  # made again, and the same
    assert panel(server.run(graphs.reported(seed=3, collection="runs")))["n"] == 6


def test_a_collection_keeps_one_page_that_every_run_writes_anew(server):
    places = [panel(server.run(graphs.reported(seed=seed, collection="page")))["files"]["html"] for seed in (1, 2)]
    assert places[0] == places[1]
    other = panel(server.run(graphs.reported(collection="another page")))["files"]["html"]
    assert other != places[0]


def test_starting_again_forgets_and_a_new_name_starts_empty(server):
    for seed in (1, 2):
        server.run(graphs.reported(seed=seed, collection="again"))
    assert panel(server.run(graphs.reported(seed=3, collection="again", collect=False)))["n"] == 2
    assert panel(server.run(graphs.reported(seed=4, collection="again")))["n"] == 4
    assert panel(server.run(graphs.reported(seed=4, collection="new")))["n"] == 2


def test_images_of_two_strengths_are_compared_as_pairs(server):
    server.run(graphs.reported(alpha=0.0, batch=4, collection="dial"))
    made = panel(server.run(graphs.reported(alpha=1.0, batch=4, collection="dial")))
    assert made["n"] == 8
    assert "before" in made["attributes"][0]["groups"][0]
    assert "α = 0" in made["summary"]
    figures = json.loads(server.view(made["files"]["json"]))
    assert figures["quality"][1]["paired_images"] == 4


def test_a_list_of_images_is_counted_as_the_batch_it_was(server):
    graph = graphs.reported(batch=3, collection="list")
    graph["split"] = {"class_type": "RebatchImages", "inputs": {"images": ["decoder", 0], "batch_size": 1}}
    graph |= graphs.report("parts", ("split", 0), seed=1)
    outputs = server.run(graph)
    assert panel(outputs, "parts")["n"] == 3
    shares = [panel(outputs, node)["attributes"][0]["groups"] for node in ("report", "parts")]
    assert shares[0] == shares[1]


def test_images_with_pixels_that_are_not_finite_are_told_and_never_counted(server):
    latent = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent[1, 0, 0, 0] = torch.nan
    tensors = {"latent_tensor": latent, "latent_format_version_0": torch.tensor([])}
    save_tensors(server.base / "input" / "broken.latent", tensors, {})
    graph = graphs.reported(collection="broken")
    graph["sampler"] = {"class_type": "LoadLatent", "inputs": {"latent": "broken.latent"}}
    del graph["adapter"]
    made = panel(server.run(graph))
    assert made["remarks"][0].startswith("1 of 3 images have pixels that are not finite. They do not count.")
    assert made["attributes"][0]["undetermined"] >= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (64, 64), (257, 100)])
def test_one_image_of_any_size_is_a_report(server, size):
    made = panel(server.run(constant(*size) | graphs.probe() | graphs.report(collection=str(size))))
    assert made["n"] == 1
    assert made["verdict"]["text"].startswith("too few to say")


def test_transparent_images_are_read_as_on_white(server):
    graph = constant(16, 16, 1, 0) | graphs.probe()
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 16, "height": 16}}
    graph["clear"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["decoder", 0], "alpha": ["mask", 0]}}
    graph["white"] = constant(16, 16)["decoder"]
    graph |= graphs.report("through", ("clear", 0)) | graphs.report("plain", ("white", 0))
    outputs = server.run(graph)
    assert panel(outputs, "through")["attributes"] == panel(outputs, "plain")["attributes"]


def test_without_a_seed_every_image_stands_alone(server):
    server.run(graphs.reported(alpha=0.0, collection="alone") | graphs.report(alpha=0.0, seed=-1, collection="alone"))
    graph = graphs.reported(alpha=1.0) | graphs.report(alpha=1.0, seed=-1, collection="alone")
    made = panel(server.run(graph))
    assert json.loads(server.view(made["files"]["json"]))["quality"][1]["paired_images"] == 0


def test_a_watched_attribute_and_the_subject_are_reported_beside_the_target(server):
    graph = graphs.reported(batch=4, collection="watched", watch=["tone", 0])
    made = panel(server.run(graph | graphs.probe("skin_tone.safetensors", "tone")))
    assert [one["name"] for one in made["attributes"]] == ["gender", "skin_tone"]
    assert all(group["target"] is None for group in made["attributes"][1]["groups"])
    graph = graphs.reported(batch=4, collection="roles", watch=["role", 0])
    made = panel(server.run(graph | graphs.probe("role.safetensors", "role")))
    assert any("subject is recognised" in line for line in made["remarks"])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"target": "cat=.5,dog=.5"}, "names 'cat', 'dog', but the classes are 'man', 'woman'"),
        ({"target": "man=.5,woman=.3,child=.2"}, "names 'child'"),
        ({"watch": ["probe", 0]}, "Two of the probes are for one attribute"),
    ],
)
def test_a_target_or_probe_that_does_not_fit_is_a_sentence(server, inputs, said):
    with pytest.raises(Failed, match=said):
        server.run(constant() | graphs.probe() | graphs.report(**inputs))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("man=.9,woman=.9", "sum to 1.8"),
        ("men & women", "Write 'uniform'"),
        ("man=1", "at least two different classes"),
        ("man=.5,man=.5", "twice"),
        ("man=half,woman=half", "not a number"),
    ],
)
def test_what_is_no_target_is_refused_before_any_image_is_made(server, target, said):
    for graph, node in ((graphs.reported(target=target), "report"), (graphs.sweep(target=target), "sweep")):
        with pytest.raises(Refused) as refused:
            server.queue(graph)
        assert said in str(refused.value.node_errors[node])


def test_two_graphs_queued_at_once_do_not_mix(server):
    ids = [
        server.queue(graphs.reported(seed=seed, batch=seed, collection=f"queue {seed}", prompt=f"prompt {seed}"))
        for seed in (2, 3, 4)
    ]
    for number, prompt_id in zip((2, 3, 4), ids, strict=True):
        made = panel(server.wait(prompt_id))
        assert (made["n"], made["prompts"][0]["prompt"]) == (number, f"prompt {number}")


def test_a_comparison_pairs_the_seeds_of_two_reports(server):
    graph = graphs.reported(alpha=1.0, batch=6, collection="after")
    base = graphs.sample("base", seed=1, batch=6, steps=2)
    graph |= {f"base {name}": base[name] for name in ("sampler", "decoder")}
    graph["base decoder"]["inputs"]["samples"] = ["base sampler", 0]
    graph |= graphs.report("before", ("base decoder", 0), alpha=0.0)
    wires = {"before": ["before", 1], "after": ["report", 1]}
    graph["compare"] = {"class_type": "DDMCompareReports", "inputs": wires}
    made = panel(server.run(graph), "compare")
    assert (made["kind"], made["n"]) == ("compare", 12)
    assert made["summary"].startswith("At α = 0 ")
    assert json.loads(server.view(made["files"]["json"]))["quality"][1]["paired_images"] == 6


def test_reports_that_cannot_be_compared_are_refused_in_a_sentence(server):
    graph = constant(batch=2) | graphs.probe() | graphs.probe("skin_tone.safetensors", "tone")
    graph |= graphs.report("one") | graphs.report("two", prompt="a judge") | graphs.report("three", probe=["tone", 0])
    for other, said in (("two", "no prompt in common"), ("three", "is on gender")):
        wires = {"before": ["one", 1], "after": [other, 1]}
        with pytest.raises(Failed, match=said):
            server.run(graph | {"compare": {"class_type": "DDMCompareReports", "inputs": wires}})


@pytest.mark.parametrize(
    "name", ["../examples/probes/gender.safetensors", "nobody.safetensors", "/etc/passwd", "x.ckpt"]
)
def test_a_probe_that_is_not_in_the_list_is_refused_before_anything_runs(server, name):
    with pytest.raises(Refused) as refused:
        server.run(constant() | graphs.probe(name) | graphs.report())
    assert "probe" in str(refused.value.node_errors["probe"]).lower()


def test_a_probe_of_any_name_is_found_and_read_again_when_it_changes(server):
    own = server.base / "models" / "ddm" / "männlich weiblich 性別.safetensors"
    shutil.copy(GENDER, own)
    graph = constant() | graphs.probe(own.name) | graphs.report()
    assert panel(server.run(graph))["attributes"][0]["name"] == "gender"
    shutil.copy(GENDER.with_name("art_style.safetensors"), own)
    assert panel(server.run(graph))["attributes"][0]["name"] == "art_style"
    own.unlink()
    with pytest.raises(Refused) as refused:
        server.run(graph)
    assert "There is no" in str(refused.value)


def test_a_file_that_is_no_probe_is_a_sentence(server):
    own = server.base / "models" / "ddm" / "adapter.safetensors"
    shutil.copy(PACK / "examples" / "adapters" / "tiny_people_fair.safetensors", own)
    with pytest.raises(Failed, match="is not a probe"):
        server.run(constant() | graphs.probe(own.name) | graphs.report())
    own.write_bytes(own.read_bytes()[:1000])
    with pytest.raises(Failed, match="truncated"):
        server.run(constant() | graphs.probe(own.name) | graphs.report())


def made_with(server, graph, node="report"):
    """Prompt, α and first seed that a report of the graph's own values says."""
    graph[node]["inputs"] |= {"values_from": "graph", "prompt": "typed", "alpha": 2.0, "seed": 99}
    made = panel(server.run(graph), node)
    figures = json.loads(server.view(made["files"]["json"]))
    caption = figures["sheets"][0]["images"][0][0]["caption"]
    return made["prompts"][0]["prompt"], figures["conditions"][0]["alpha"], caption.split(":")[0].split(",")[0]


def test_alpha_prompt_and_seed_are_those_that_the_images_were_made_with(server):
    graph = graphs.reported(seed=7, alpha=0.25, collection="graph")
    assert made_with(server, graph) == (graphs.PROMPT, 0.25, "seed 7")
    assert any(
        "α = 0.25, seed 7" in line
        for line in panel(server.run(graph | graphs.report(collection="said", values_from="graph")))["remarks"]
    )


@pytest.mark.parametrize("kind", ["lora", "schedule", "primitive", "none", "recommended"])
def test_alpha_is_read_from_whatever_puts_the_adapter_on(server, kind):
    model, graph, expected = "base", {}, 0.0
    if kind == "lora":
        model, graph, expected = "lora", graphs.stock_lora(0.5), 0.5
    if kind in ("primitive", "recommended"):
        model, graph, expected = "adapter", graphs.adapter(0.5), 0.75
    if kind == "primitive":
        graph["adapter"]["inputs"]["alpha"] = ["number", 0]
        graph["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.75}}
    if kind == "recommended":
        graph["adapter"]["inputs"]["strength_from"] = "recommended"
        expected = AdapterCard.from_metadata(read_metadata(FAIR)).recommended_alpha
    graph |= graphs.load() | graphs.probe() | graphs.sample(model, steps=1, seed=3)
    if kind == "schedule":
        graph |= graphs.schedule("constant", alpha=0.3)
        graph["sampler"]["inputs"] |= {"positive": ["schedule", 0], "negative": ["schedule", 1]}
        expected = 0.3
    assert made_with(server, graph | graphs.report(collection=kind)) == (graphs.PROMPT, expected, "seed 3")


def test_what_the_graph_does_not_say_is_taken_as_typed(server):
    graph = constant(16, 16, 1) | graphs.probe() | graphs.report(collection="unknown")
    assert made_with(server, graph) == ("typed", 2.0, "seed 99")


def test_what_is_wired_and_what_is_asked_for_as_typed_goes_before_the_graph(server):
    graph = graphs.reported(alpha=0.25, collection="wired")
    graph["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.5}}
    graph["report"]["inputs"] |= {"values_from": "graph", "alpha": ["number", 0]}
    figures = json.loads(server.view(panel(server.run(graph))["files"]["json"]))
    assert figures["conditions"][0]["alpha"] == 0.5
    graph["report"]["inputs"] |= {"values_from": "typed", "alpha": 0.9, "collection": "as typed"}
    figures = json.loads(server.view(panel(server.run(graph))["files"]["json"]))
    assert figures["conditions"][0]["alpha"] == 0.9


def test_images_that_were_made_otherwise_are_a_row_of_their_own(server):
    """Another negative prompt, other steps, other weights of a second LoRA; another seed and another α are not."""
    collected = {"collection": "unlike", "values_from": "graph"}
    for seed, changes, alpha in (
        *((1, {}, 1.0), (2, {}, 1.0), (1, {}, 0.0)),
        *((1, {"sampler": {"steps": 3}}, 1.0), (1, {"no": {"text": "ugly"}}, 1.0)),
    ):
        graph = graphs.reported(seed=seed, alpha=alpha, batch=1, **collected)
        for node, inputs in changes.items():
            graph[node]["inputs"] |= inputs
        made = panel(server.run(graph))
    figures = json.loads(server.view(made["files"]["json"]))
    assert {one["label"]: one["images"] for one in figures["conditions"]} == {
        "α = 0, KSampler steps 2": 1,
        "α = 1, KSampler steps 2": 2,
        "α = 1, KSampler steps 2, negative prompt ugly": 1,
        "α = 1, KSampler steps 3": 1,
    }
    (note,) = (one for one in figures["notes"] if one.startswith("All images were made with: "))
    assert "KSampler sampler_name euler" in note and f"adapter {ADAPTER} (" in note
