"""What reading a file takes is a stated multiple of its size, whatever it claims: tried under a limit of the system."""

import gc
import json
import math
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.image import PIXEL_BYTES, check_image, open_image, open_opacity
from comfyui_ddm.debias.core.io import load_tensors, save_tensors
from comfyui_ddm.debias.evaluation.report import FairnessReport
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.soft_tokens import SoftTokens
from PIL import Image, PngImagePlugin

from .corpus import files

MB = 1 << 20
# SECURITY.md states these: bytes of memory for each byte of a file, and what any file may take besides.
TENSORS, TEXT, BESIDES = 4, 32, 24 * MB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")


@contextmanager
def limited(more):
    """For as long as the context lasts, the process may take so many bytes more than it has."""
    import resource

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(more), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def within(call, path, multiple):
    """The sentence with which a file is refused, or nothing: without running out of memory."""
    with limited(multiple * path.stat().st_size + BESIDES):
        try:
            call(path)
        except DDMError as error:
            assert not isinstance(error.__cause__, MemoryError) and "allocate" not in str(error)
            return str(error)
    return ""


def claiming(path, **changes):
    """The file with other metadata, and with a tensor that makes it 1 MB."""
    tensors, metadata = load_tensors(path)
    metadata |= {f"ddm.{name}": json.dumps(value) for name, value in changes.items()}
    save_tensors(path, tensors | {"more": torch.zeros(MB // 4)}, metadata)
    return path


KINDS = {
    "adapter": (load_adapter, files.adapter),
    "probe": (Probe.load, files.probe),
    "linear probe": (Probe.load, files.linear_probe),
    "head": (HSpaceClassifier.load, files.head),
    "module": (InvariantModule.load, files.module),
    "embedding": (SoftTokens.load, files.embedding),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [10**4, 10**6, 10**9, 2**62])
def test_a_file_that_claims_to_be_large_takes_no_more_memory(kind, number, tmp_path):
    load, build = KINDS[kind]
    path = build(tmp_path / "a.safetensors")
    load(path)  # what is imported on the way does not count
    fields = {
        name.removeprefix("ddm."): json.loads(value)
        for name, value in load_tensors(path)[1].items()
        if name.startswith("ddm.") and value[:1] in "0123456789["
    }
    for name, value in fields.items():
        within(load, claiming(build(path), **{name: number}), TENSORS)
        if isinstance(value, list):
            within(load, claiming(build(path), **{name: value * 1000}), TENSORS)


@pytest.mark.parametrize("kind", ["adapter", "embedding"])
def test_a_large_file_takes_a_multiple_of_its_size(kind, tmp_path):
    load, build = KINDS[kind]
    path = build(tmp_path / "a.safetensors")
    load(path)
    tensors, metadata = load_tensors(path)
    for name, value in tensors.items():
        if value.ndim == 2 and (kind == "embedding" or "down" in name):
            tensors[name] = torch.zeros(len(value), 8 * MB // len(value))
    save_tensors(path, tensors, metadata)
    within(load, path, TENSORS)


@pytest.mark.parametrize(
    "text",
    ["[" + "[]," * MB + "[]]", '{"a":' + "[1.5]" * 9 + "}", "[" + "0," * 2 * MB + "0]", '["' + "é" * 2 * MB + '"]'],
    ids=["lists", "none", "numbers", "letters"],
)
def test_text_takes_a_multiple_of_its_size(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    assert "not a fairness report" in within(lambda path: FairnessReport.from_json(path.read_text("utf-8")), path, TEXT)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "meta.json", "face.txt"])
def test_captions_take_a_multiple_of_their_size(name, tmp_path):
    files.image(tmp_path / "face.png")
    read_folder(tmp_path)
    row = json.dumps({"file_name": "face.png", "text": "a doctor"})
    (tmp_path / name).write_text("\n".join([row] * (4 * MB // len(row))), "utf-8")
    with limited(TEXT * 4 * MB + BESIDES), suppress(DDMError):  # no row of a table with commas is one here
        read_folder(tmp_path)


MODES = [(mode, "png") for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")]
MODES += [("CMYK", "tif"), ("F", "tif"), ("RGBA", "webp"), ("P", "gif"), ("RGB", "ppm")]
MODES += [("RGB", "avif")] if ".avif" in Image.registered_extensions() else []
MODES += [("CMYK", "jpg"), ("RGB", "jpg")]


@pytest.mark.parametrize(("mode", "suffix"), MODES)
def test_an_image_takes_a_multiple_of_its_pixels(mode, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    options = {"progressive": True} if suffix == "jpg" else {}
    small = Image.new(mode, (8, 8))
    small.save(path, **options)
    calls = (open_image, check_image, open_opacity)
    for call in calls:
        call(path)
    side = 3000
    Image.new(mode, (side, side)).save(path, **options)
    gc.collect()
    for call in calls:
        with limited(PIXEL_BYTES * side * side + BESIDES):
            call(path)


@pytest.mark.parametrize("kind", ["text", "international text", "profile"])
def test_text_in_an_image_takes_a_multiple_of_the_file(kind, tmp_path):
    path = tmp_path / "a.png"
    text, long = PngImagePlugin.PngInfo(), "x" * (60 * MB)
    if kind == "text":
        for name in "ab":
            text.add_text(name, long, zip=True)
    elif kind == "international text":
        text.add_itxt("a", long, zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=text, icc_profile=long.encode() if kind == "profile" else None)
    small = files.image(tmp_path / "small.png")
    for call in (open_image, check_image, open_opacity):
        call(small)
        gc.collect()
        within(call, path, TEXT)


def test_an_image_of_more_pixels_than_are_read_is_refused_before(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (30_000, 30_000)).save(path)
    gc.collect()
    for call in (open_image, check_image, open_opacity):
        assert "decompression bomb" in within(call, path, math.pi)
