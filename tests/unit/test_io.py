"""Files on disk: whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import (
    atomic_path,
    check_output,
    load_tensors,
    read_metadata,
    save_tensors,
    write_bytes,
    write_text,
)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writing_makes_the_folder_and_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "text.txt"
    write_text(path, "one")
    write_text(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert names(path.parent) == ["text.txt"]


def test_a_written_file_has_the_rights_of_an_ordinary_one(tmp_path):
    write_bytes(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.write_bytes", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(call, full)
    with pytest.raises(DDMError, match=r"No space left.*untouched"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(DDMError, match="Cannot write"):
        write_text(tmp_path / "file" / "a.txt", "")


def test_tensors_and_metadata_survive(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"b": torch.arange(3), "a": torch.eye(2).T}, {"key": "grüße"})
    tensors, metadata = load_tensors(path)
    assert torch.equal(tensors["b"], torch.arange(3))
    assert metadata == read_metadata(path) == {"key": "grüße"}


def test_the_order_of_tensors_and_metadata_does_not_change_the_bytes(tmp_path):
    one, two = torch.ones(2), torch.zeros(3)
    save_tensors(tmp_path / "a", {"x": one, "y": two}, {"k": "1", "l": "2"})
    save_tensors(tmp_path / "b", {"y": two, "x": one}, {"l": "2", "k": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("length", [0, 7, 40, -1])
def test_a_truncated_file_is_a_sentence(tmp_path, length):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(8)})
    path.write_bytes(path.read_bytes()[:length])
    for read in (load_tensors, read_metadata):
        with pytest.raises(DDMError, match="truncated"):
            read(path)


def test_garbage_is_a_sentence(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x04not tensors at all" * 10)
    with pytest.raises(DDMError, match="not a complete safetensors"):
        load_tensors(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".CKPT", ".pt", ".pth", ".bin", ".pkl"])
def test_a_pickle_is_refused_by_name_with_a_hint(tmp_path, suffix):
    with pytest.raises(DDMError, match=r"can run code.*Convert"):
        load_tensors(tmp_path / f"model{suffix}")


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(DDMError, match="no file"):
        load_tensors(tmp_path / "a.safetensors")


def test_a_result_takes_the_place_of_its_own_kind_only(tmp_path):
    path = tmp_path / "result.safetensors"
    check_output(path, "head")
    save_tensors(path, {}, {"ddm.kind": "head"})
    check_output(path, "head")
    with pytest.raises(DDMError, match="it is no probe that ddm wrote"):
        check_output(path, "probe")
    save_tensors(path, {}, {"ddm.format_version": "1"})
    check_output(path, "adapter")
    with pytest.raises(DDMError, match="it is no head that ddm wrote"):
        check_output(path, "head")
