"""Latents are encoded once, kept on disk by content, and read back as they were."""

import os
import shutil
import time

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.error import DDMError
from comfyui_ddm.training import file_index, latents
from comfyui_ddm.training.base import load_base
from comfyui_ddm.training.file_index import FileIndex
from comfyui_ddm.training.folder import read_folder
from comfyui_ddm.training.latents import encode_moments
from PIL import Image

from .runs import write_folder


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "set")


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures the VAE was given, batch by batch."""
    counts, real = [], latents._encode
    monkeypatch.setattr(latents, "_encode", lambda base, pixels: counts.append(len(pixels)) or real(base, pixels))
    return counts


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_second_pass_encodes_nothing_and_gives_the_same_bits(base, folder, tmp_path, encoded):
    pictures = read_folder(folder)
    plain = encode_moments(base, pictures, batch=4)
    first = encode_moments(base, pictures, batch=4, cache=tmp_path / "cache")
    del encoded[:]
    assert same(encode_moments(base, pictures, batch=4, cache=tmp_path / "cache"), first)
    assert encoded == [] and same(first, plain)
    assert first[0].shape == (8, 4, 8, 8) and (first[1] > 0).all()


def test_only_what_is_new_is_encoded_and_a_copy_or_a_new_name_is_not_new(base, folder, tmp_path, encoded):
    encode_moments(base, read_folder(folder), cache=tmp_path / "cache")
    (folder / "metadata.jsonl").unlink()
    (folder / "0.png").rename(folder / "zero.png")
    shutil.copy(folder / "1.png", folder / "copy.png")
    Image.new("RGB", (70, 90), "red").save(folder / "new.png")
    del encoded[:]
    mean, _ = encode_moments(base, read_folder(folder), cache=tmp_path / "cache")
    assert encoded == [1] and len(mean) == 10


def test_another_vae_shares_nothing(base, tiny_base, folder, tmp_path, encoded):
    encode_moments(base, read_folder(folder), cache=tmp_path / "cache")
    other = load_base(tiny_base)
    with torch.no_grad():
        next(other.vae.parameters()).add_(0.1)
    del encoded[:]
    encode_moments(other, read_folder(folder), cache=tmp_path / "cache")
    assert encoded == [8]


def test_a_stopped_pass_goes_on_where_it_was_in_the_same_batches(base, folder, tmp_path, encoded):
    whole = encode_moments(base, read_folder(folder), batch=2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_moments(base, read_folder(folder), stop, batch=2, cache=tmp_path / "cache")
    del encoded[:]
    told = []
    rest = encode_moments(base, read_folder(folder), lambda *done: told.append(done), batch=2, cache=tmp_path / "cache")
    assert encoded == [2, 2] and told == [(6, 8), (8, 8)] and same(rest, whole)


def test_a_damaged_shard_is_encoded_again_and_no_temporary_file_stays(base, folder, tmp_path, encoded):
    first = encode_moments(base, read_folder(folder), cache=tmp_path / "cache")
    shard = next((tmp_path / "cache").iterdir())
    shard.write_bytes(shard.read_bytes()[:-100])
    assert same(encode_moments(base, read_folder(folder), cache=tmp_path / "cache"), first)
    assert encoded == [8, 8] and [path.name for path in (tmp_path / "cache").iterdir()] == [shard.name]


def test_a_full_disk_is_said_before_any_work(base, folder, tmp_path, encoded, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DDMError, match="--no-cache"):
        encode_moments(base, read_folder(folder), cache=tmp_path / "cache")
    assert encoded == []


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
