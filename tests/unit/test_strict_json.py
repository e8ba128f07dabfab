"""What files say is a value or a sentence, and what pages get can be read there."""

import json
import math
import sys

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, load_adapter
from comfyui_ddm.debias.core.error import LONGEST, DDMError
from comfyui_ddm.debias.core.io import decode, named_file, read_text, save_tensors, write_text
from comfyui_ddm.debias.core.strict_json import read_fields, read_json, write_json
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.training.commands.config_file import read_config
from comfyui_ddm.training.sampling.prompts import read_prompts
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = ["Infinity", "NaN", "1e999", '"\\ud800"', "[" * 100_000, "9" * 5_000, '{"a": -Infinity}', "", "{"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_json_that_no_page_could_read_is_a_sentence(text):
    with pytest.raises(DDMError, match="cannot be read as JSON"):
        read_json(text, "It")


@pytest.mark.parametrize("name", ["format_version", "recommended_alpha", "target", "concepts", "measured"])
@pytest.mark.parametrize("value", [*TEXTS, '"text"', "true", "[[[]]]"])
def test_an_odd_card_is_a_sentence_and_never_another_exception(name, value):
    with pytest.raises(DDMError):
        AdapterCard.from_metadata(AdapterCard().to_metadata() | {f"ddm.{name}": value})


def test_a_message_can_be_shown_everywhere():
    said = str(DDMError("caf\udce9\x1b[31m\n\u202eevil " + "x" * 9_000))
    assert said.startswith("caf\\udce9 [31m  evil") and len(said) <= LONGEST
    said.encode("utf-8")


def test_what_goes_to_a_page_is_strict_json():
    text = write_json({"a": [math.nan, -math.inf, 1.5], "b\ud800": "\udce9"})
    assert json.loads(text) == {"a": [None, None, 1.5], "b\\ud800": "\\udce9"}


def test_a_text_with_half_a_character_is_written_all_the_same(tmp_path):
    write_text(tmp_path / "a.html", "n\udce9")
    assert read_text(tmp_path / "a.html") == "n\\udce9"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_a_text_is_read_in_the_encoding_that_it_was_written_in(encoding):
    assert decode("café “noir”".encode(encoding))[0] == "café “noir”"


def test_what_powershell_wrote_is_a_configuration(tmp_path):
    (tmp_path / "run.toml").write_bytes("steps = 30\n# α\n".encode("utf-16"))
    assert read_config(tmp_path / "run.toml")["steps"] == 30


@pytest.mark.parametrize("line", ["learning-rate = nan", "learning-rate = inf", "steps = " + "9" * 40])
def test_a_number_that_is_none_does_not_pass_the_bounds_of_an_option(tmp_path, line):
    (tmp_path / "run.toml").write_text(line, encoding="utf-8")
    with pytest.raises(DDMError):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adapter_that_is_not_finite_is_refused(tmp_path, value):
    down, up = torch.full((2, 4), value), torch.zeros(4, 2)
    save_tensors(tmp_path / "a.safetensors", {"lora_unet_a.lora_down.weight": down, "lora_unet_a.lora_up.weight": up})
    with pytest.raises(DDMError, match="is not finite"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["CON", "nul", "com1.x", "ä" * 120, "a.", "n\udce9"])
def test_a_name_that_some_system_cannot_have_is_refused(tmp_path, name):
    with pytest.raises(DDMError, match="is no name"):
        named_file(tmp_path, name)


@pytest.mark.parametrize("text", ["roles.csv", "prompts.txt", "./roles", "C:\\roles.txt"])
def test_a_file_of_prompts_that_is_not_there_is_no_prompt(text):
    with pytest.raises(DDMError, match="There is no file"):
        read_prompts(text)


def about_probe(**changes):
    given = {"names": ["a", "b"], "attribute": "x", "accuracy": 1.0, "confusion": [[1, 0], [0, 1]], "counts": [1, 1]}
    given |= {"temperature": 1.0, "architecture": {"kind": "linear", "identity": "CLIP x (ab)", "features": 4}}
    return {f"ddm.{name}": json.dumps(value) for name, value in {**given, **changes}.items()} | {
        "ddm.kind": "probe",
        "ddm.version": "1",
    }


@pytest.mark.parametrize("identity", ["CLIP ../../x (ab)", "\\\\host\\share", "a\x00b", 3])
def test_a_probe_names_a_model_and_no_path(tmp_path, identity):
    linear = {"kind": "linear", "identity": identity, "features": 4}
    tensors = {"head.weight": torch.zeros(2, 4), "head.bias": torch.zeros(2)}
    save_tensors(tmp_path / "p.safetensors", tensors, about_probe(architecture=linear))
    with pytest.raises(DDMError, match="does not name the model"):
        Probe.load(tmp_path / "p.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="resource is not there")
def test_a_small_file_takes_little_memory_whatever_size_it_claims(tmp_path):
    import resource

    wide = about_probe(architecture={"kind": "network", "width": 8192})
    save_tensors(tmp_path / "p.safetensors", {"head.weight": torch.zeros(2, 8192)}, wide)
    card = {"channels": 4, "text_width": 4, "width": 8192, "base_hash": "", "prediction": "", "training": {}}
    about = {f"ddm.{name}": json.dumps(value) for name, value in card.items()}
    about |= {"ddm.kind": "invariant", "ddm.version": "1"}
    save_tensors(tmp_path / "m.safetensors", {"a": torch.zeros(2)}, about)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for load, name in ((Probe.load, "p"), (InvariantModule.load, "m")):
        with pytest.raises(DDMError):
            load(tmp_path / f"{name}.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["names", "timesteps", "accuracy", "confusion", "architecture", "width", "counts"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
    ),
    st.sampled_from([Probe, HSpaceClassifier, InvariantModule]),
)
def test_whatever_metadata_says_only_our_own_error_is_raised(tmp_path_factory, changes, kind):
    path = tmp_path_factory.mktemp("fuzz") / "f.safetensors"
    about = about_probe(timesteps=[1], base_hash="", channels=4, text_width=4, width=8, prediction="", training={})
    about |= {f"ddm.{name}": json.dumps(value) for name, value in changes.items()}
    about["ddm.kind"] = {Probe: "probe", HSpaceClassifier: "head", InvariantModule: "invariant"}[kind]
    save_tensors(path, {"weight": torch.zeros(1, 2, 1, 1, 1), "bias": torch.zeros(1, 2)}, about)
    with pytest.raises(DDMError):
        kind.load(path)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_a_value_or_a_sentence(text):
    try:
        read_fields({"ddm.a": text}, {"a": dict[str, float] | None}, "it")
    except DDMError as error:
        str(error).encode("utf-8")
