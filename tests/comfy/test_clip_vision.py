"""Probes on the features of the host's CLIP vision model."""

import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.probes.probe import Probe

from . import graphs
from .server import PACK, Failed, Refused, run_in_host

# A real CLIP vision model of the host's own class, small and random.
LOOK = """
import importlib.util, json, sys
from comfy.cli_args import args
args.cpu = True
import numpy as np, torch
import comfy.clip_vision
pack, config, saved = sys.argv[1:]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.debias.probes.probe import Probe
from pack.debias.probes.fit_probe import fit_linear_probe
from pack.nodes.clip_vision import ClipVision
def made(seed):
    model = comfy.clip_vision.ClipVisionModel(config)
    values = torch.Generator().manual_seed(seed)
    state = {k: torch.randn(v.shape, generator=values) * .1 if v.is_floating_point() else v
             for k, v in model.get_sd().items()}
    model.load_sd(state)
    return ClipVision(model)
rng = np.random.default_rng(0)
levels = np.repeat([40, 210], 20)
images = np.clip(rng.normal(levels[:, None, None, None], 9, (40, 50, 40, 3)), 0, 255).astype(np.uint8)
with torch.inference_mode():
    one, same, other = made(0), made(0), made(1)
    features = one(images)
    probe = fit_linear_probe(images, ["light" if level > 99 else "dark" for level in levels], "shade", one)
    probe.save(saved)
    again = Probe.load(saved, same).predict(images)
    try:
        refused = str(Probe.load(saved, other))
    except Exception as error:
        refused = str(error)
print(json.dumps({
    "shape": features.shape, "length": float(np.linalg.norm(features, axis=1).mean()), "accuracy": probe.accuracy,
    "same": bool(np.allclose(again, probe.predict(images))), "identity": one.identity == same.identity,
    "refused": refused,
}))
"""

# The text half of the embedded model, with a projection, and image halves that it does not belong to.
READ = """
import importlib.util, json, sys
from comfy.cli_args import args
args.cpu = True
import torch, comfy.clip_vision
pack, config = sys.argv[1:]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from pack.nodes.clip_text import ClipText
from pack.nodes.native import load_clip
from pack.nodes.words_probe import ProbeFromWords
clip = load_clip(Path(pack) / "examples" / "tiny_people")
encoder = clip.cond_stage_model.clip_l
weight = encoder.transformer.text_projection.weight
with torch.no_grad():
    weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * .1)
texts = ["a man", "a woman", "a doctor"]
ours = ClipText(clip)(texts)
encoder.options_default = (*encoder.options_default[:2], True)
theirs = torch.cat([clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1] for text in texts])
def refused(width):
    values = json.load(open(config)) | {"projection_dim": width}
    json.dump(values, open(config, "w"))
    model = comfy.clip_vision.ClipVisionModel(config)
    model.load_sd({k: torch.randn(v.shape) * .1 if v.is_floating_point() else v for k, v in model.get_sd().items()})
    try:
        with torch.inference_mode():
            ProbeFromWords.execute("gender", "man: a man\\nwoman: a woman", "an object", model, clip)
    except Exception as error:
        return str(error)
print(json.dumps({
    "shape": ours.shape, "difference": float((theirs - torch.from_numpy(ours)).abs().max()),
    "other width": refused(ours.shape[1] + 1), "other model": refused(ours.shape[1]),
}))
"""
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_channels": 3,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
    "hidden_act": "quick_gelu",
    "model_type": "clip_vision_model",
}


@pytest.fixture(scope="module")
def seen(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    (folder / "config.json").write_text(json.dumps(VISION))
    said = run_in_host(host, LOOK, str(PACK), str(folder / "config.json"), str(folder / "shade.safetensors"))
    return json.loads(said.splitlines()[-1])


def test_images_become_embeddings_of_length_one(seen):
    assert seen["shape"] == [40, 16]
    assert seen["length"] == pytest.approx(1, abs=1e-5)


def test_a_probe_is_fitted_on_them_and_read_back_with_the_same_model(seen):
    assert seen["accuracy"] > 0.7
    assert seen["same"]
    assert seen["identity"]


def test_another_model_is_refused_in_a_sentence(seen):
    assert "Give the same model" in seen["refused"]


def test_without_its_model_such_a_probe_says_which_one_to_connect(server):
    head = torch.nn.Linear(4, 2)
    file = server.base / "models" / "ddm" / "on clip.safetensors"
    probe = Probe(("a", "b"), "letter", head, None, None, "CLIP vision (0123456789ab)")
    probe.confusion = np.eye(2)
    probe.save(file)
    graph = graphs.probe(file.name) | graphs.report()
    graph["decoder"] = {"class_type": "EmptyImage", "inputs": dict(width=8, height=8, batch_size=1, color=0)}
    with pytest.raises(Failed, match=r"CLIP vision \(0123456789ab\).*clip_vision"):
        server.run(graph)


@pytest.fixture(scope="module")
def read(host, tmp_path_factory):
    config = tmp_path_factory.mktemp("words") / "config.json"
    config.write_text(json.dumps(VISION))
    return json.loads(run_in_host(host, READ, str(PACK), str(config)).splitlines()[-1])


def test_texts_become_the_projected_embeddings_that_images_are_compared_with(read):
    assert read["shape"][0] == 3
    assert read["difference"] < 1e-4


def test_two_halves_that_are_not_of_one_model_are_refused_in_a_sentence(read):
    assert "they are not of one model" in read["other width"]
    assert "does not belong to the image encoder" in read["other model"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"classes": "man: a man"}, "fewer than two classes"),
        ({"classes": "man: a man\nman: another"}, "is no class"),
        ({"attribute": " "}, "has no name"),
        ({"unclear": " ,"}, "no phrase"),
    ],
)
def test_words_that_are_no_classes_are_refused_before_anything_runs(server, inputs, said):
    file = server.base / "models" / "clip_vision" / "any.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    values = {"attribute": "gender", "classes": "man: a man\nwoman: a woman", "unclear": "an object"}
    wires = {"clip_vision": ["vision", 0], "clip": ["base", 1]}
    graph = graphs.load() | {"words": {"class_type": "DDMProbeFromWords", "inputs": wires | values | inputs}}
    graph["vision"] = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": file.name}}
    graph |= graphs.report(probe=["words", 0])
    graph["decoder"] = {"class_type": "EmptyImage", "inputs": dict(width=8, height=8, batch_size=1, color=0)}
    with pytest.raises(Refused) as refused:
        server.queue(graph)
    assert said in str(refused.value.node_errors["words"])
