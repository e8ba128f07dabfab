"""DDM Distribution Guidance and DDM Invariant Guidance, in a real server."""

import io

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.methods.distribution_guidance import Guidance
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from PIL import Image
from safetensors.torch import load as load_safetensors

from . import graphs
from .listener import Listener
from .server import PACK, Failed, Refused
from .test_sampling import euler

HEAD = "gender_head.safetensors"
MODULE = "tiny_people_invariant.safetensors"


@pytest.fixture(scope="module")
def base():
    from comfyui_ddm.training.models.load_base import load_base

    return load_base(PACK / "examples" / "tiny_people")


def latents(server, outputs):
    (file,) = outputs["latent"]["latents"]
    return load_safetensors(server.view(file))["latent_tensor"]


def women(server, outputs):
    """How many of the images the probe takes for women."""
    shown = [np.asarray(Image.open(io.BytesIO(server.view(file)))) for file in outputs["image"]["images"]]
    probe = Probe.load(PACK / "examples" / "probes" / "gender.safetensors")
    return int((probe.predict(np.stack(shown)).argmax(1) == probe.names.index("woman")).sum())


def test_scale_0_is_the_model_bit_for_bit(server):
    plain = server.run(graphs.load() | graphs.sample(steps=3))
    same = server.run(graphs.load() | graphs.guidance(scale=0.0) | graphs.sample("guidance", steps=3))
    other = server.run(graphs.load() | graphs.guidance() | graphs.sample("guidance", steps=3))
    assert torch.equal(latents(server, plain), latents(server, same))
    assert not torch.equal(latents(server, plain), latents(server, other))


def test_single_images_of_a_queue_come_out_balanced(server):
    seen = []
    for seed in range(6):
        graph = graphs.load() | graphs.guidance(counts="single", scale=8.0)
        outputs = server.run(graph | graphs.sample("guidance", seed=seed, batch=1, steps=12))
        seen.append(women(server, outputs))
    assert sum(seen) == 3


def test_every_prompt_is_balanced_by_itself(server):
    found = {"a firefighter": 0, "a doctor": 0}
    for seed in range(8):
        prompt = list(found)[seed % 2]
        graph = graphs.load() | graphs.guidance(counts="prompts", scale=8.0)
        outputs = server.run(graph | graphs.sample("guidance", prompt=prompt, seed=seed, batch=1, steps=12))
        found[prompt] += women(server, outputs)
    assert list(found.values()) == [2, 2]


def test_a_batch_is_balanced_in_one_run_and_others_are_forgotten_if_asked_for(server):
    graph = graphs.load() | graphs.guidance(scale=8.0, keep_counts=False)
    for seed in (1, 2):
        assert women(server, server.run(graph | graphs.sample("guidance", seed=seed, batch=6, steps=12))) == 3


def test_a_prompt_that_says_who_is_meant_is_left_alone_and_a_person_is_told(server):
    def made(prompt, **inputs):
        graph = graphs.load() | graphs.guidance(keep_counts=False, prompt=prompt, **inputs)
        return server.run(graph | graphs.sample("guidance", prompt=prompt, steps=3))

    plain = latents(server, server.run(graphs.load() | graphs.sample(prompt="a woman doctor", steps=3)))
    said = made("a woman doctor")
    assert torch.equal(latents(server, said), plain)
    assert "“woman”" in said["guidance"]["text"][-1]
    assert not torch.equal(latents(server, made("a woman doctor", words="girl")), plain)


def test_targets_other_than_equal_shares_are_met(server):
    graph = graphs.load() | graphs.guidance(scale=8.0, keep_counts=False, target="man=0,woman=1")
    assert women(server, server.run(graph | graphs.sample("guidance", batch=4, steps=12))) == 4


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_guided_half_is_the_conditional_one_as_in_our_own_sampler(server, base, cfg):
    from comfyui_ddm.training.sampling.guidance import SamplingGuidance

    graph = graphs.load() | graphs.guidance(keep_counts=False) | graphs.sample("guidance", cfg=cfg, seed=7, batch=1)
    ours = latents(server, server.run(graph))
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    head = HSpaceClassifier.load(PACK / "examples" / "guidance" / HEAD)
    with SamplingGuidance([Guidance(head)]).on(base, [graphs.PROMPT]):
        theirs = euler(base, noise, graphs.PROMPT, 8, cfg)
    assert (ours - theirs).norm() / theirs.norm() < 1e-3


def test_what_is_guided_at_once_shares_the_push_and_scale_0_takes_no_part(server):
    graph = graphs.load() | graphs.guidance(keep_counts=False)
    alone = latents(server, server.run(graph | graphs.sample("guidance", steps=4, batch=1)))

    def beside(scale):
        second = graphs.guidance("guidance", scale=scale, keep_counts=False)["guidance"]
        return latents(server, server.run(graph | {"second": second} | graphs.sample("second", steps=4, batch=1)))

    assert torch.equal(beside(0.0), alone)
    assert (beside(0.001) - alone).norm() > 0.005 * alone.norm()


def test_a_module_at_strength_r_is_as_in_our_own_sampler(server, base):
    from comfyui_ddm.training.sampling.guidance import SamplingGuidance

    graph = graphs.load() | graphs.invariant(strength=1.5) | graphs.sample("invariant", seed=7, batch=1)
    ours = latents(server, server.run(graph))
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    module = InvariantModule.load(PACK / "examples" / "guidance" / MODULE)
    with SamplingGuidance(invariant=module, strength=1.5).on(base, [graphs.PROMPT]):
        theirs = euler(base, noise, graphs.PROMPT, 8, 3.0)
    assert (ours - theirs).norm() / theirs.norm() < 1e-3


def test_strength_0_is_the_model_bit_for_bit(server):
    plain = server.run(graphs.load() | graphs.sample(steps=3))
    same = server.run(graphs.load() | graphs.invariant(strength=0.0) | graphs.sample("invariant", steps=3))
    assert torch.equal(latents(server, plain), latents(server, same))


def test_both_guidances_and_an_adapter_work_together(server):
    graph = graphs.load() | graphs.adapter(0.5) | graphs.guidance("adapter") | graphs.invariant("guidance")
    assert server.run(graph | graphs.sample("invariant", steps=2))["image"]["images"]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "heun"])
def test_any_sampler_will_do(server, sampler):
    graph = graphs.load() | graphs.guidance(scale=8.0, keep_counts=False)
    assert women(server, server.run(graph | graphs.sample("guidance", batch=6, steps=10, sampler=sampler))) in (2, 3, 4)


def test_lists_hold_files_of_their_kind_only(server):
    assert HEAD in server.options("DDMDistributionGuidance", "head")
    assert MODULE in server.options("DDMInvariantGuidance", "module")
    assert not {HEAD, MODULE} & set(server.options("DDMLoadProbe", "probe"))
    assert "gender.safetensors" not in server.options("DDMDistributionGuidance", "head")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"target": "man=2,woman=1"}, "sum to 3"),
        ({"head": "../x.safetensors"}, "There is no DDM file"),
        ({"head": MODULE}, "is not a head for distribution guidance"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(server, inputs, said):
    with pytest.raises(Refused, match=said):
        server.queue(graphs.load() | graphs.guidance(**inputs) | graphs.sample("guidance"))


def test_a_target_over_other_classes_is_a_sentence(server):
    with pytest.raises(Failed, match="the classes are"):
        server.run(graphs.load() | graphs.guidance(target="cat=.5,dog=.5") | graphs.sample("guidance"))


def test_the_node_shows_what_was_counted_and_forgets_it_when_asked(server):
    counted = []
    graph = graphs.load() | graphs.guidance(counts="shown", prompt="a pilot") | graphs.sample("guidance", steps=2)
    with Listener(server) as listener:
        prompt = server.queue(graph)
        for message in listener.messages():
            if message["type"] == "ddm.guidance":
                counted.append(message["data"]["panel"])
            if message["type"] == "execution_success" and message["data"]["prompt_id"] == prompt:
                break
    (panel,) = counted
    assert panel["verdict"]["text"] == "The head was made for this model."
    ((row),) = panel["prompts"]
    assert (row["prompt"], row["n"], sum(group["count"] for group in row["groups"])) == ("a pilot", 2, 2)
    assert [group["target"] for group in panel["attributes"][0]["groups"]] == [0.5, 0.5]
    server.request("/ddm/guidance/reset", {"key": panel["key"]})
    again = graphs.load() | graphs.guidance(counts="shown", prompt="a pilot", scale=1.0) | graphs.sample("guidance")
    assert server.run(again)["guidance"]["ddm_panel"][0]["n"] == 0
