"""Measuring prompts on a real server: what is generated, what is kept, what is counted again."""

import io
import json

import pytest
from comfyui_ddm.debias.core.image import fit
from PIL import Image, ImageChops

from . import graphs
from .listener import Listener
from .server import PACK, Failed, Refused, Server


def panel(outputs):
    (made,) = outputs["measure"]["ddm_panel"]
    return made


def counts(outputs):
    return {one["prompt"]: one["n"] for one in panel(outputs)["prompts"]}


def kept(server, outputs):
    """The images on disk behind a panel, by the name of their prompt's folder."""
    folder = server.base / "output" / panel(outputs)["files"]["json"]["subfolder"]
    return {place.name: sorted(place.glob("*.png")) for place in folder.iterdir() if place.is_dir()}


def times(files):
    return {path: path.stat().st_mtime_ns for some in files.values() for path in some}


def test_every_prompt_is_measured_without_an_adapter_and_the_worst_comes_first(server):
    outputs = server.run(graphs.measured("a firefighter; a doctor\na nurse", count=8, steps=6))
    made = panel(outputs)
    assert counts(outputs) == {"a firefighter": 8, "a doctor": 8, "a nurse": 8}
    distances = [one["fd"] for one in made["prompts"]]
    assert distances == sorted(distances, reverse=True)
    assert made["kind"] == "measure" and made["headline"]["worst"]["prompt"] == made["prompts"][0]["prompt"]
    figures = json.loads(server.view(made["files"]["json"]))
    assert figures["summary"] == made["summary"]
    assert server.view(made["files"]["html"]).startswith(b"<!doctype html>")
    gallery = Image.open(io.BytesIO(server.view(outputs["gallery"]["images"][0])))
    assert gallery.height > 3 * 128 and gallery.width > 8 * 128


def test_counts_go_on_with_other_seeds_and_no_image_is_generated_twice(server):
    first = server.run(graphs.measured("a pilot", count=3))
    assert counts(first) == {"a pilot": 3}
    before = times(kept(server, first))
    more = server.run(graphs.measured("a pilot", count=5))
    assert counts(more) == {"a pilot": 5}
    assert counts(server.run(graphs.measured("a pilot", count=4, seed=100))) == {"a pilot": 9}
    after = times(kept(server, more))
    assert {path: after[path] for path in before} == before
    assert counts(server.run(graphs.measured("a pilot", count=4, seed=100, collect=False))) == {"a pilot": 4}


def test_counts_go_on_when_a_prompt_is_added_or_another_probe_looks(server):
    before = times(kept(server, server.run(graphs.measured("a chef\na judge"))))
    outputs = server.run(graphs.measured("a singer\na judge"))
    assert counts(outputs) == {"a singer": 3, "a judge": 3}
    assert len(kept(server, outputs)) >= 3
    tones = graphs.measured("a chef\na judge", probe=["tone", 0]) | graphs.probe("skin_tone.safetensors", "tone")
    outputs = server.run(tones)
    assert panel(outputs)["attributes"][0]["name"] == "skin_tone"
    after = times(kept(server, outputs))
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("other", [{"steps": 3}, {"cfg": 4.0}, {"width": 128}, {"sampler_name": "heun"}])
def test_images_of_other_settings_are_not_mixed(server, other):
    assert counts(server.run(graphs.measured("a guard", count=2))) == {"a guard": 2}
    assert counts(server.run(graphs.measured("a guard", count=1, **other))) == {"a guard": 1}


def test_images_of_another_model_are_not_mixed(server):
    assert counts(server.run(graphs.measured("a farmer", count=2))) == {"a farmer": 2}
    for alpha in (1.0, 0.5):
        adapted = graphs.measured("a farmer", count=1, model="adapter") | graphs.adapter(alpha)
        outputs = server.run(adapted)
        assert counts(outputs) == {"a farmer": 1}
        figures = json.loads(server.view(panel(outputs)["files"]["json"]))
        assert figures["conditions"][0]["alpha"] == alpha


def test_its_images_are_those_that_a_graph_makes_of_the_same_seed(server):
    files = kept(server, server.run(graphs.measured("a mechanic", count=1, steps=6)))
    (file,) = next(own for name, own in files.items() if name.startswith("a-mechanic"))
    graph = graphs.load() | graphs.sample(prompt="a mechanic", seed=int(file.stem), batch=1, steps=6)
    (made,) = server.run(graph)["image"]["images"]
    alone = fit(Image.open(io.BytesIO(server.view(made))).convert("RGB"), 64)
    difference = ImageChops.difference(alone, Image.open(file))
    assert max(high for _, high in difference.getextrema()) <= 1  # the host cuts off where it saves, and ours rounds


def test_counts_survive_a_restart(host, tmp_path):
    graph = graphs.measured("a doctor", count=2)
    with Server(host, tmp_path) as first:
        before = times(kept(first, first.run(graph)))
    with Server(host, tmp_path) as second:
        outputs = second.run(graph)
        assert counts(outputs) == {"a doctor": 2}
        assert times(kept(second, outputs)) == before
        assert counts(second.run(graphs.measured("a doctor", count=2, seed=50))) == {"a doctor": 4}


def test_a_cancel_shows_what_was_made_and_the_next_run_goes_on(server):
    graph = graphs.measured("a scientist\na police officer", count=64, steps=30)
    told = []
    with Listener(server) as listener:
        server.queue(graph)
        for message in listener.messages(60):
            told.append(message)
            if message["type"] == "ddm.progress" and message["data"]["panel"]["done"] > 32:
                server.request("/interrupt", {})
            if message["type"] == "execution_interrupted":
                break
    progress = [one["data"]["panel"] for one in told if one["type"] == "ddm.progress"]
    assert progress[-1]["total"] == 128 and progress[-1]["seconds_left"] > 0
    assert progress[-1]["doing"] == "Generating"
    (result,) = (one["data"] for one in told if one["type"] == "ddm.result")
    assert result["node"] == "measure"
    made = {one["prompt"]: one["n"] for one in result["panel"]["prompts"]}
    assert 32 <= sum(made.values()) < 128
    assert set(made) == {"a scientist", "a police officer"}  # the prompts take turns
    assert result["panel"]["remarks"][0].startswith("Cancelled")
    again = server.run(graphs.measured("a scientist\na police officer", count=1, steps=30))
    assert counts(again) == made


def test_a_built_in_list_and_a_text_file_in_the_input_folder_are_lists_of_prompts(server):
    assert {"as written", "occupations", "described people"} <= set(server.options("DDMMeasurePrompts", "prompt_list"))
    own = server.base / "input" / "my prompts.txt"
    own.write_text("# remark\na pilot\n\na judge\na pilot\n", encoding="utf-8")
    listed = graphs.measured("not this", prompt_list=own.name, count=1)
    assert set(counts(server.run(listed))) == {"a pilot", "a judge"}
    own.write_text("a dancer\n", encoding="utf-8")
    assert set(counts(server.run(listed))) == {"a dancer"}
    prompts = (PACK / "examples" / "prompts" / "occupations.txt").read_text(encoding="utf-8").splitlines()[1:]
    outputs = server.run(graphs.measured(prompt_list="occupations", count=1, steps=1))
    assert set(counts(outputs)) == set(prompts)


@pytest.mark.parametrize("prompts", ["", " \n ; "])
def test_without_a_prompt_there_is_a_sentence_before_anything_runs(server, prompts):
    with pytest.raises(Refused) as refused:
        server.queue(graphs.measured(prompts))
    assert "no prompt" in str(refused.value.node_errors["measure"])


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "nothing.txt"])
def test_a_list_that_is_not_offered_is_refused(server, name):
    (server.base / "secret.txt").write_text("a spy", encoding="utf-8")
    with pytest.raises(Refused):
        server.queue(graphs.measured(prompt_list=name))


def test_an_image_that_can_no_longer_be_read_is_a_sentence_that_names_it(server):
    graph = graphs.measured("an astronaut", count=2)
    files = kept(server, server.run(graph))
    (file,) = (one[0] for name, one in files.items() if name.startswith("an-astronaut"))
    file.write_bytes(b"no image")
    with pytest.raises(Failed, match=file.name):
        server.run(graphs.measured("an astronaut", count=2, target="man=.5,woman=.5"))
    file.unlink()
    assert counts(server.run(graph | graphs.measure("an astronaut", count=2, target="uniform "))) == {"an astronaut": 2}


def by_words(**inputs):
    """Node `words`: a probe by the embedded model itself."""
    wires = {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2]}
    values = {"attribute": "gender", "classes": "man: a man\nwoman: a woman", "unclear": "an object", "size": 64}
    return {"words": {"class_type": "DDMProbeFromWords", "inputs": wires | values | inputs}}


def test_the_model_itself_tells_by_words_whom_it_draws(server):
    prompts = "a firefighter\na red haired"
    graph = graphs.measured(prompts, count=16, steps=10) | by_words()
    labelled = panel(server.run(graph))
    graph["measure"]["inputs"]["probe"] = ["words", 0]
    made = panel(server.run(graph))
    shares = [{row["prompt"]: row["groups"][0]["share"] for row in one["prompts"]} for one in (labelled, made)]
    assert max(abs(shares[0][name] - shares[1][name]) for name in shares[0]) <= 0.2
    assert any("right is not known" in line for line in made["remarks"])
    assert any("recognises" in line for line in made["remarks"])


def test_without_anything_to_compare_with_words_says_what_to_connect(server):
    graph = graphs.measured("a doctor", count=1) | by_words()
    del graph["words"]["inputs"]["vae"]
    graph["measure"]["inputs"]["probe"] = ["words", 0]
    with pytest.raises(Failed, match="Connect clip_vision and clip"):
        server.run(graph)


def test_words_that_the_model_does_not_tell_apart_are_refused(server):
    graph = graphs.measured("a doctor", count=1) | by_words(classes="cat: a person\ndog: a person")
    graph["measure"]["inputs"]["probe"] = ["words", 0]
    with pytest.raises(Failed, match="does not tell these words apart"):
        server.run(graph)


def test_a_report_is_corrected_by_what_somebody_says_of_thirty_images(server):
    graph = graphs.measured("a woman doctor\na man firefighter", count=20, steps=6)
    graph["check"] = {"class_type": "DDMCheckProbe", "inputs": {"report": ["measure", 2], "answers": ""}}
    (shown,) = server.run(graph)["check"]["ddm_panel"]
    images = shown["check"]["images"]
    assert len(images) == 30
    assert Image.open(io.BytesIO(server.view(images[0]["file"]))).size == (64, 64)
    answers = {one["key"]: [one["said"], one["said"]] for one in images}
    wrong = next(one["key"] for one in images if one["said"] == "woman")
    answers[wrong][1] = "man"
    graph["check"]["inputs"]["answers"] = json.dumps(answers)
    (shown,) = server.run(graph)["check"]["ddm_panel"]
    assert [one["key"] for one in shown["check"]["images"]] == [one["key"] for one in images]
    assert any(line.startswith("Corrected for what its probe gets wrong") for line in shown["remarks"])
    graph["check"]["inputs"]["answers"] = "nonsense"
    with pytest.raises(Failed, match="What was answered"):
        server.run(graph)
