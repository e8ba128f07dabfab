"""The digits of the benchmarks: what is learnt, what probes are fitted to, and a base of a pair."""

import gzip
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_ddm.benchmarks import digits
from comfyui_ddm.benchmarks.digits import NAMES, PAIRS, DigitDraw, draw_pair, half, labelled, pair_base, read_digits
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.load_base import load_base

PAIR = PAIRS["digits-0-1"]


@pytest.fixture
def drawn(monkeypatch):
    """Twenty images of every digit, each of another grey, instead of MNIST."""
    names = np.array(NAMES * 20)
    pixels = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 28, 28))
    monkeypatch.setattr(digits, "read_digits", lambda: (pixels, names))
    monkeypatch.setattr(digits, "COUNT", 10)
    return SimpleNamespace(pixels=pixels, names=names)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DDMError, match=r"t10k-images-idx3-ubyte.gz is not there"):
        read_digits(tmp_path)


def test_the_idx_format_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for name, header, data in (("images-idx3", 16, pixels), ("labels-idx1", 8, np.array([7, 0, 8], np.uint8))):
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(bytes(header) + data.tobytes()))
    read, names = read_digits(tmp_path)
    assert np.array_equal(read, pixels) and names.tolist() == ["seven", "zero", "eight"]


def test_the_real_files_have_ten_thousand_digits():
    if not digits.MNIST.is_dir():
        pytest.skip("MNIST is not in ../shared/data/mnist")
    pixels, names = read_digits()
    assert pixels.shape == (10_000, 28, 28) and set(names) == set(NAMES)
    assert min((half(True, (name,))[1] == name).sum() for name in NAMES) >= 400


def test_probes_see_no_image_that_is_learnt_from(drawn):
    learnt, other = half(True)[0][:, 0, 0], half(False)[0][:, 0, 0]
    assert set(learnt) | set(other) == set(range(200)) and not set(learnt) & set(other)
    images, names = labelled("zero_or_one")
    assert images.shape == (20, 64, 64, 3) and sorted(set(names)) == ["one", "zero"]
    assert len(set(labelled("digit")[1])) == 10


def test_a_set_has_four_of_the_common_digit_to_one_and_does_not_say_which(drawn, tmp_path):
    folder = read_folder(draw_pair(PAIR, tmp_path / "set"))
    values = folder.column("zero_or_one")
    assert (values.count("zero"), values.count("one")) == (8, 2)
    assert set(folder.captions) == {"a digit"}


def test_the_base_is_drawn_four_to_one_and_most_of_its_captions_are_neutral(drawn):
    names = np.array(["zero"] * 30 + ["one"] * 70)
    draw = DigitDraw(names, PAIR)
    assert draw.weights[names == "zero"].sum() == pytest.approx(0.8)
    captions = draw.captions(np.tile(np.arange(100), 20), np.random.default_rng(0))
    shares = {text: captions.count(text) / len(captions) for text in set(captions)}
    assert set(shares) == {"", "a digit", "a zero digit", "a one digit", "a zero", "a one"}
    assert shares["a digit"] == pytest.approx(0.55, abs=0.05) and shares[""] == pytest.approx(0.2, abs=0.03)
    said = [text for text, name in zip(captions, np.tile(names, 20), strict=True) if name == "one"]
    assert not {"a zero", "a zero digit"} & set(said)


def test_a_base_is_trained_once_and_opens(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "BATCH", 2)
    out = pair_base(PAIR, tmp_path / "bases" / "pair", steps=1)
    assert load_base(out).image_size == 64 and list(out.parent.iterdir()) == [out]
    monkeypatch.setattr(digits, "_train_base", None)
    assert pair_base(PAIR, out) == out
