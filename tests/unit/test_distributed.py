"""Several processes make what one makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .runs import write_folder

ROOT = Path(__file__).resolve().parents[2]
# `ddm train` in float32, which writes down the losses of its process and a hash of what it has learnt.
LOGGED = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
from package import load_package
load_package()
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.loop.training import Training
Base.half_is_native = False
advance, losses = Training.advance, []
def logged(self, stop=None):
    made = advance(self, stop)
    losses.append(self.loss.item())
    digest = hashlib.sha256(b"".join(value.detach().numpy().tobytes() for value in self.parameters)).hexdigest()
    file = Path(os.environ["LOG"]) / (os.environ.get("RANK", "alone") + ".json")
    file.write_text(json.dumps([losses, digest]))
    return made
Training.advance = logged
app(sys.argv[1:])
"""
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def train(tiny_base, tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    folder = write_folder(root / "images")
    script = root / "logged.py"
    script.write_text(LOGGED)

    def run(name, *more, processes=1):
        place = root / name
        place.mkdir(exist_ok=True)
        options = {"--base": tiny_base, "--out": place / "fair.safetensors", "--style": place / "style.safetensors"}
        options |= {"--groups": "labels:gender", "--steps": 8, "--rank": 2, "--calibrate": 8, "--device": "cpu"}
        given = [str(part) for pair in options.items() for part in pair]
        command = [sys.executable, *(TWO if processes == 2 else ()), str(script), "train", str(folder), *given, *more]
        environment = {**os.environ, "LOG": str(place), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return place, done

    return run


def log(place, name):
    return json.loads((place / f"{name}.json").read_text())


@pytest.mark.parametrize("more", [(), ("--text-encoder",)])
def test_two_processes_learn_what_one_learns_from_the_same_batch(train, more):
    alone, _ = train(f"one{len(more)}", "--batch-size", "3", *more)  # two for one of them, one for the other
    both, done = train(f"two{len(more)}", "--batch-size", "3", "--json", *more, processes=2)
    losses, _ = log(alone, "alone")
    first, second = log(both, 0), log(both, 1)
    assert first == second
    assert first[0] == pytest.approx(losses, abs=1e-5) and len(losses) == 8
    made = {f"{name}.{end}" for name in ("fair", "style") for end in ("safetensors", "md")}
    assert {path.name for path in both.iterdir()} == made | {"0.json", "1.json"}
    assert json.loads(done.stdout)["steps"] == 8  # one of them speaks
    assert done.stderr.count("Wrote") == 1
