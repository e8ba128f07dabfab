"""Latents are encoded once, kept on disk by content, and read back as they were."""

import os
import shutil
import time

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import ABANDONED
from comfyui_ddm.training.data import cache as cache_module
from comfyui_ddm.training.data import file_index
from comfyui_ddm.training.data.file_index import FileIndex
from comfyui_ddm.training.data.latents import Encoder, Latents, View
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.load_base import load_base
from PIL import Image, ImageOps

from .runs import write_folder


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "set")


@pytest.fixture
def encoded(monkeypatch):
    """How many images the VAE was given, batch by batch."""
    counts, real = [], Encoder._encode
    monkeypatch.setattr(Encoder, "_encode", lambda self, pixels: counts.append(len(pixels)) or real(self, pixels))
    return counts


def encode(base, images, progress=None, batch_size=None, cache=None, size=(64, 64), flip=False):
    """Mean and deviation of every image of a folder."""
    views = [View(item, size, flip) for item in images.items]
    return [cache_module.read(row) for row in Encoder(base, cache, batch_size).rows(views, progress)]


def same(one, two):
    return all(torch.equal(a, b) for pair in zip(one, two, strict=True) for a, b in zip(*pair, strict=True))


def test_a_second_pass_encodes_nothing_and_gives_the_same_bits(base, folder, tmp_path, encoded):
    images = read_folder(folder)
    plain = encode(base, images, batch_size=4)
    first = encode(base, images, batch_size=4, cache=tmp_path / "cache")
    del encoded[:]
    assert same(encode(base, images, batch_size=4, cache=tmp_path / "cache"), first)
    assert encoded == [] and same(first, plain)
    assert all(mean.shape == (4, 8, 8) and (deviation > 0).all() for mean, deviation in first)


def test_only_what_is_new_is_encoded_and_a_copy_or_a_new_name_is_not_new(base, folder, tmp_path, encoded):
    encode(base, read_folder(folder), cache=tmp_path / "cache")
    (folder / "metadata.jsonl").unlink()
    (folder / "0.png").rename(folder / "zero.png")
    shutil.copy(folder / "1.png", folder / "copy.png")
    Image.new("RGB", (70, 90), "red").save(folder / "new.png")
    del encoded[:]
    assert len(encode(base, read_folder(folder), cache=tmp_path / "cache")) == 10 and encoded == [1]


def test_another_vae_shares_nothing(base, tiny_base, folder, tmp_path, encoded):
    encode(base, read_folder(folder), cache=tmp_path / "cache")
    other = load_base(tiny_base)
    with torch.no_grad():
        next(other.vae.parameters()).add_(0.1)
    del encoded[:]
    encode(other, read_folder(folder), cache=tmp_path / "cache")
    assert encoded == [8]


def test_a_stopped_pass_goes_on_where_it_was_in_the_same_batches(base, folder, tmp_path, encoded):
    whole = encode(base, read_folder(folder), batch_size=2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(base, read_folder(folder), stop, batch_size=2, cache=tmp_path / "cache")
    del encoded[:]
    told = []
    rest = encode(base, read_folder(folder), lambda *done: told.append(done), batch_size=2, cache=tmp_path / "cache")
    assert encoded == [2, 2] and told == [(6, 8), (8, 8)] and same(rest, whole)


def test_a_damaged_shard_is_encoded_again_and_no_temporary_file_stays(base, folder, tmp_path, encoded):
    first = encode(base, read_folder(folder), cache=tmp_path / "cache")
    shard = next((tmp_path / "cache").iterdir())
    shard.write_bytes(shard.read_bytes()[:-100])
    assert same(encode(base, read_folder(folder), cache=tmp_path / "cache"), first)
    assert encoded == [8, 8] and [path.name for path in (tmp_path / "cache").iterdir()] == [shard.name]


def test_a_full_disk_is_said_before_any_work(base, folder, tmp_path, encoded, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DDMError, match="keep these elsewhere, or nowhere"):
        encode(base, read_folder(folder), cache=tmp_path / "cache")
    assert encoded == []


def test_what_is_too_large_for_the_memory_is_read_from_the_disk_with_the_same_bits(base, folder, tmp_path, monkeypatch):
    held = encode(base, read_folder(folder), cache=tmp_path / "cache")
    monkeypatch.setattr(cache_module, "MEMORY", 8 * 2 * 4 * 4 * 64 - 1)
    views = [View(item, (64, 64)) for item in read_folder(folder).items]
    rows = Encoder(base, tmp_path / "cache").rows(views)
    assert all(isinstance(row, cache_module.Place) for row in rows)
    latents = Latents(base.device, rows, [None] * 8, [None] * 8)
    picked = np.array([5, 0, 5])
    mean, deviation, weight = latents.fetch(picked, np.zeros(3, dtype=bool))
    assert same([(mean[i], deviation[i]) for i in range(3)], [held[row] for row in picked]) and weight is None
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DDMError, match="There is no file"):
        latents.fetch(picked, np.zeros(3, dtype=bool))


def test_mirror_images_and_sizes_are_kept_apart(base, folder, tmp_path, encoded):
    images, cache = read_folder(folder), tmp_path / "cache"
    ways = [{}, {"flip": True}, {"size": (80, 48)}]
    first = [encode(base, images, cache=cache, **way) for way in ways]
    assert first[2][0][0].shape == (4, 6, 10) and not same(first[0], first[1])
    del encoded[:]
    assert all(same(encode(base, images, cache=cache, **way), kept) for way, kept in zip(ways, first, strict=True))
    assert encoded == []


def test_a_mirror_image_is_that_of_the_mirrored_file(base, tmp_path):
    write_folder(tmp_path / "set", 4)
    for file in (tmp_path / "set").glob("*.png"):
        ImageOps.mirror(Image.open(file)).save(tmp_path / "set" / f"{file.stem}_mirrored.png")
    (tmp_path / "set" / "metadata.jsonl").unlink()
    images = read_folder(tmp_path / "set", "a doctor")
    plain, flipped = encode(base, images, batch_size=8), encode(base, images, batch_size=8, flip=True)
    assert same(plain[::2], flipped[1::2]) and same(plain[1::2], flipped[::2])


def test_unchanged_files_are_not_read_again_and_changed_ones_are(folder, tmp_path, monkeypatch):
    looked, real = [], file_index._look
    monkeypatch.setattr(file_index, "_look", lambda file: looked.append(file.name) or real(file))
    monkeypatch.setattr(file_index, "YOUNG", -1)

    def read():
        del looked[:]
        return read_folder(folder, index=FileIndex(tmp_path / "files.json", folder)).fingerprint()

    first = read()
    assert len(looked) == 8
    assert read() == first and looked == []
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "3.png")
    assert read() != first and looked == ["3.png"]
    (tmp_path / "files.json").write_text("[1", encoding="utf-8")
    read()
    assert len(looked) == 8


def test_a_file_that_was_just_written_is_not_trusted_the_next_time(folder, tmp_path):
    old = time.time() - 60
    index = FileIndex(tmp_path / "files.json", folder)
    for file in folder.glob("*.png"):
        os.utime(file, (old, old))
    read_folder(folder, index=index)
    assert index.entries == {}  # ctime is of now, whatever mtime says


def test_half_written_files_in_a_cache_are_removed_once_nobody_can_be_writing_them(tmp_path):
    cache, old = tmp_path / "cache", time.time() - 2 * ABANDONED
    index = FileIndex.of(tmp_path, cache).path
    shard = "latents-0123456789abcdef.safetensors"
    stray = [cache / f".{name}.{end}.tmp" for name in (shard, index.name) for end in ("oldwrite", "newwrite")]
    others = [cache / name for name in (".something.else.tmp", ".latents.tmp", "latents-1.safetensors.oldwrite.tmp")]
    cache.mkdir()
    for path in (*stray, *others):
        path.write_bytes(b"half")
        if "newwrite" not in path.name:
            os.utime(path, (old, old))
    cache_module.TensorCache(cache, "latents", "", ("mean",))
    FileIndex.of(tmp_path, cache)
    assert set(cache.iterdir()) == {*stray[1::2], *others}
