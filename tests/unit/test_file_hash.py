"""Weight files are hashed by what they hold; big ones only once."""

import hashlib

import pytest
from comfyui_ddm.training.models import file_hash
from comfyui_ddm.training.models.file_hash import hash_files, remembered_hashes


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hash, "REMEMBERED", 10)
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_bytes(path.name.encode() * 5)
    return paths


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_the_hash_is_that_of_all_bytes_in_order(files):
    assert hash_files(files) == hash_files(files) == sha256(b"one" * 5 + b"two" * 5)
    assert hash_files(files[::-1]) == sha256(b"two" * 5 + b"one" * 5)


def test_a_known_file_is_not_read_again_and_a_changed_one_is(files, monkeypatch):
    first = hash_files(files[:1])
    with monkeypatch.context() as patch:
        patch.setattr(file_hash, "_digest", lambda files: "read")
        assert hash_files(files[:1]) == first
        assert hash_files(files[1:]) == "read"
    files[0].write_bytes(b"another file")
    assert hash_files(files[:1]) == sha256(b"another file")


def test_small_files_are_not_remembered(files, monkeypatch):
    monkeypatch.setattr(file_hash, "REMEMBERED", 100)
    assert hash_files(files[:1]) == sha256(b"one" * 5)
    assert not remembered_hashes().exists()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_memory_is_written_anew(files, content):
    remembered_hashes().parent.mkdir(parents=True)
    remembered_hashes().write_text(content)
    assert hash_files(files[:1]) == sha256(b"one" * 5)
    assert sha256(b"one" * 5) in remembered_hashes().read_text()
