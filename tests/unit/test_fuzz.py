"""Whatever a file or a line says is a value or a sentence: no other exception, and no memory beyond the file's size.

Each parser gets what is almost right: a file of ours with some of it changed, or a text put together of its own parts.
`DDM_FUZZ=2000 pytest tests/unit/test_fuzz.py` tries so many of each, new ones each time.
"""

import json
import math
import ntpath
import os
from pathlib import Path

import pytest
import torch
from comfyui_ddm.debias.adapter.alpha_schedule import AlphaSchedule
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, check_layers, kohya_name, load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.image import check_image, open_image, open_opacity
from comfyui_ddm.debias.core.io import load_tensors, named_file, save_tensors
from comfyui_ddm.debias.core.option import settings_of
from comfyui_ddm.debias.evaluation.report import FairnessReport
from comfyui_ddm.debias.groups.diffusion_classifier import parse_words
from comfyui_ddm.debias.groups.target import Target, check_target
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.hosts.adapter_card import LoadedCard
from comfyui_ddm.hosts.infotext import SETTINGS, Dial, parse_alphas
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.commands.config_file import read_config
from comfyui_ddm.training.commands.numbers import read_numbers
from comfyui_ddm.training.data.file_index import FileIndex
from comfyui_ddm.training.data.group_images import check_source
from comfyui_ddm.training.data.read_folder import read_folder, stays_inside
from comfyui_ddm.training.evaluation.adapter_page import render
from comfyui_ddm.training.models.diffusers_folder import read_config as read_config_of
from comfyui_ddm.training.models.load_base import check_weights
from comfyui_ddm.training.models.soft_tokens import SoftTokens
from comfyui_ddm.training.sampling.prompts import read_prompts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .corpus import files

COUNT = int(os.environ.get("DDM_FUZZ", "40"))
MEMORY = 200 << 10  # KiB that all of it may need beyond what was in use
FUZZ = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize="DDM_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SCALARS = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6)
JSON = st.recursive(
    SCALARS | st.sampled_from([10**30, -1, "../../x", "\ud800", "x" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True, scope="module")
def bounded():
    """No parser needs much memory, whatever it is told."""
    resource = pytest.importorskip("resource")
    # What parsers import only when they need it is not what a file makes them take.
    from diffusers import UNet2DConditionModel  # noqa: F401
    from transformers import AutoTokenizer, CLIPTextModel  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@pytest.fixture
def place(tmp_path):
    return tmp_path / "file"


def only_sentences(call, *given):
    """Call a parser; its sentence can be printed everywhere."""
    try:
        return call(*given)
    except DDMError as error:
        text = str(error)
        assert text.strip() and text.encode("utf-8") and "\n" not in text
        return None


def changed(value, draw):
    """A JSON value with one place in it changed, removed or added to."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 4)):
            return {name: item for name, item in value.items() if name != key}
        return value | {key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], changed(value[at], draw), *value[at + 1 :]]
    return draw(JSON)


@st.composite
def json_like(draw, value):
    """A JSON text that is almost `value`."""
    for _ in range(draw(st.integers(0, 3))):
        value = changed(value, draw)
    text = json.dumps(value)
    return text[: draw(st.integers(0, len(text)))] if not draw(st.integers(0, 9)) else text


@st.composite
def bytes_like(draw, data):
    """A file with some bytes changed, cut or doubled."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))]) if not draw(st.integers(0, 3)) else bytes(data)


@st.composite
def tensors_like(draw, tensors, metadata):
    """Tensors and metadata of a file with some of both changed."""
    tensors, metadata = dict(tensors), dict(metadata)
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(tensors)))
        how = draw(st.sampled_from(["drop", "shape", "kind", "nan", "name"]))
        value = tensors.pop(key)
        if how == "shape":
            tensors[key] = torch.zeros(draw(st.lists(st.integers(0, 5), max_size=5)))
        elif how == "kind":
            tensors[key] = value.to(draw(st.sampled_from([torch.int8, torch.float8_e4m3fn, torch.bool, torch.float64])))
        elif how == "nan":
            tensors[key] = torch.full(value.shape, math.nan)
        elif how == "name":
            tensors[key + draw(st.sampled_from(["x", ".dora_scale", ".lora_mid.weight"]))] = value
        if not tensors:
            tensors["a"] = torch.zeros(1)
    for key in draw(st.lists(st.sampled_from(sorted(metadata) or ["ddm.kind"]), max_size=3)):
        try:
            metadata[key] = draw(json_like(json.loads(metadata.get(key, ""))))
        except ValueError:
            metadata[key] = draw(st.text(max_size=9))
    return tensors, {key: value.encode("utf-8", "replace").decode() for key, value in metadata.items()}


def use_adapter(path):
    adapter = load_adapter(path)
    check_layers(adapter, "", {kohya_name(files.LINEAR): (32, 32)})
    if adapter.card:
        show(adapter.card)


def show(card):
    """What pages show of a card."""
    json.dumps(LoadedCard("fair", 1.0, card, None).panel(), allow_nan=False)
    render(card, "fair.safetensors")


FILES = {
    "adapter": (use_adapter, files.adapter),
    "lora": (use_adapter, files.lora),
    "probe": (Probe.load, files.probe),
    "linear probe": (Probe.load, files.linear_probe),
    "head": (HSpaceClassifier.load, files.head),
    "module": (InvariantModule.load, files.module),
    "embedding": (SoftTokens.load, files.embedding),
    "checkpoint": (check_weights, files.adapter),
}


@pytest.mark.parametrize("kind", FILES)
def test_tensor_files(kind, place):
    load, build = FILES[kind]
    path = build(place.with_suffix(".safetensors"))
    whole = path.read_bytes()

    @FUZZ
    @given(tensors_like(*load_tensors(path)))
    def check_content(made):
        save_tensors(path, *made)
        only_sentences(load, path)

    @FUZZ
    @given(bytes_like(whole[:2000]))
    def check_bytes(beginning):
        path.write_bytes(beginning + whole[2000:])
        only_sentences(load, path)

    check_content()
    check_bytes()


def use_report(text):
    report = FairnessReport.from_json(text)
    FairnessReport.from_json(report.to_json())


def use_card(text):
    fields = json.loads(text)
    if isinstance(fields, dict) and (
        card := AdapterCard.from_metadata({f"ddm.{key}": json.dumps(fields[key]) for key in fields})
    ):
        show(card)


CARD = {key.removeprefix("ddm."): json.loads(value) for key, value in files.CARD.to_metadata().items()}


@pytest.mark.parametrize(("use", "value"), [(use_report, json.loads(files.report())), (use_card, CARD)])
def test_json(use, value):
    @FUZZ
    @given(json_like(value))
    def check(text):
        try:
            only_sentences(use, text)
        except json.JSONDecodeError:
            assert use is use_card  # each value is JSON of its own there

    check()


TABLES = {
    "metadata.jsonl": [{"file_name": "a.png", "text": ["a doctor", "b"], "gender": "man"}],
    "metadata.csv": [["file_name", "text"], ["a.png", "a doctor"]],
    "meta_cap.json": [{"a.png": {"caption": "a doctor", "tags": "b, c"}}],
}
WORDS = st.sampled_from(
    ['"', ",", "\n", "a.png", "{", "}", "[", "../", "file_name", "text", "\ufeff", ":", "\0", "=", ";"]
)


@pytest.mark.parametrize("name", [*TABLES, "a.txt", "a.caption"])
def test_captions(name, place):
    files.image(place / "a.png")

    @FUZZ
    @given(st.data())
    def check(data):
        if name in TABLES and data.draw(st.booleans()):
            rows = [data.draw(json_like(row)) for row in TABLES[name]]
            raw = "\n".join(rows).encode("utf-8", "surrogatepass")
        else:
            raw = data.draw(st.lists(WORDS | st.text(max_size=5), max_size=12).map("".join))
            raw = raw.encode(data.draw(st.sampled_from(["utf-8", "utf-16"])), "surrogatepass")
        (place / name).write_bytes(raw)
        if images := only_sentences(read_folder, place):
            images.remarks(), images.columns, images.captions, images.fingerprint()
            "".join((*images.captions, *images.remarks())).encode("utf-8")

    check()


OPTIONS = [setting.key for setting in settings_of(TrainConfig).values()]


def test_toml(place):
    @FUZZ
    @given(st.lists(st.tuples(st.sampled_from(OPTIONS) | st.text(max_size=5), JSON | st.dates()), max_size=4))
    def check(lines):
        text = "\n".join(f"{key} = {json.dumps(value, default=str)}" for key, value in lines)
        place.write_bytes(text.encode("utf-8", "surrogatepass"))
        if found := only_sentences(read_config, place):
            only_sentences(lambda: TrainConfig(**{"out": Path("a.safetensors")} | found))

    check()


NAMES = ("man", "woman")
LINES = {
    "numbers": (lambda text: read_numbers(text, "--alpha"), "0,", ".5", "1e9", "nan", "-", "inf", ","),
    "alphas": (parse_alphas, "0", ",.5", ";", "nan", "1e999", "-1"),
    "schedule": (lambda text: AlphaSchedule.parse(text).steps(), "0:1", ",", ".4:.5", ":", ";", "nan", "1", "-"),
    "infotext": (
        lambda text: Dial.of(parse_alphas(text), *(["custom", "early"][:1]), 0.0, 0.5, text).infotext(SETTINGS[0], 2),
        "0:1",
        ",",
        "1",
        ":",
        ".5",
    ),
    "target": (lambda text: Target.parse(text, NAMES), "man=.5", ",", "woman=", ".5", "uniform", "nan", "1e400", "="),
    "target of unknown classes": (check_target, "man=.5", ",", "woman=", ".5", "uniform", "nan", "="),
    "groups": (check_source, "words:", "labels:", "man", "|", ",", "discovered", "auto", ":"),
    "words": (parse_words, "man", "|", ",", " ", "a"),
    "prompts": (read_prompts, "a doctor", ";", "roles.csv", "./", "~/", "\0", "C:\\", ".txt"),
    "file name": (lambda text: named_file("/tmp", text), "..", "/", "\\", "con", ".safetensors", "\udce9", "\ud800"),
}


@pytest.mark.parametrize("kind", LINES)
def test_lines(kind):
    call, *parts = LINES[kind]

    @FUZZ
    @given(st.lists(st.sampled_from(parts) | st.text(max_size=4), max_size=8).map("".join))
    def check(text):
        only_sentences(call, text)

    check()


PARTS = st.sampled_from(
    ["..", ".", "\\", "/", "C:", "\\\\srv\\x", "con", "NUL.txt", " ", "a", "~", "?", "\0", ":s", "COM¹"]
)


def test_names_on_windows():
    """What is taken for a name in a folder leads out of it on Windows as little as here; devices are none."""

    @FUZZ
    @given(st.lists(PARTS, max_size=6).map("".join))
    def check(name):
        if stays_inside(name):
            path = ntpath.normpath(ntpath.join("C:\\set", name.replace("/", "\\")))
            assert path == "C:\\set" or path.startswith("C:\\set\\"), path
        if (file := only_sentences(named_file, "/tmp", name)) is not None:
            assert ntpath.basename(file.name) == file.name and not ntpath.splitdrive(file.name)[0]
            stem = file.name.split(".")[0].strip().upper()
            assert stem not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT1") and not file.stem.endswith((" ", "."))

    check()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_images(suffix, place):
    path = files.image(place.with_suffix(suffix), (24, 16))
    whole = path.read_bytes()

    @FUZZ
    @given(bytes_like(whole))
    def check(data):
        path.write_bytes(data)
        for call in (check_image, open_image, open_opacity):
            only_sentences(call, path)

    check()


@pytest.mark.parametrize("name", ["images.json", "config.json"])
def test_json_beside(name, place):
    """What was remembered of a folder, and a part of a model folder."""
    value = {"a.png": [1, 2, 3, "ab", 4, 5, 1]} if name == "images.json" else {"in_channels": 4, "model_type": "x"}
    place.mkdir()
    files.image(place / "a.png")
    (place / "model_index.json").write_text("{}")

    @FUZZ
    @given(json_like(value))
    def check(text):
        (place / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        if name == "images.json":
            FileIndex(place / name, place).look(place / "a.png")
        else:
            only_sentences(read_config_of, place, "", name)

    check()
