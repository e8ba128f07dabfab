"""A checkpoint of SD 1.5's shapes, with random weights, trains on a CPU within 8 GB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comfyui_ddm.training.models.ldm_checkpoint import FAMILIES
from safetensors.torch import save_file

from .checkpoints import ldm_tensors, make_models, make_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
# Three steps at 256 px in a process of its own, which then tells the most memory that it held.
TRAIN = """
import json, resource, sys
from importlib.util import module_from_spec, spec_from_file_location
root, path, tokenizer = sys.argv[1:]
spec = spec_from_file_location("comfyui_ddm", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["comfyui_ddm"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
import torch
from comfyui_ddm.debias.groups.groups import Groups, concepts
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import Weighting
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.data.group_images import Grouping
from comfyui_ddm.training.data.latents import Latents
from comfyui_ddm.training.loop.settings import TrainSettings
from comfyui_ddm.training.loop.training import Training
from comfyui_ddm.training.objectives.ddm import DDM
from comfyui_ddm.training.data.caption_table import CaptionTable

base = load_base(path, "cpu", tokenizer=tokenizer)
captions, target = ["a doctor"] * 4, Target.uniform(("man", "woman"))
groups = Groups.from_labels(["man", "man", "man", "woman"], "test")
weighting = Weighting.of_groups(groups, target, concepts(captions)[1])
table = CaptionTable.build(base, captions, Grouping("test", [groups], [target], weighting))
moments = torch.randn(2, 4, 4, 32, 32)
latents = Latents.of(moments[0], moments[1].abs())
training = Training(DDM(base, latents, table, weighting, TrainSettings(steps=3, batch_size=2, rank=4)))
losses = []
for _ in range(3):
    training.advance()
    losses.append(training.loss.item())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6 / 1.024)
facts = {"losses": losses, "gigabytes": round(peak, 2), "size": base.image_size, "hash": base.hash}
print(json.dumps(facts | {"architecture": base.architecture, "tokens": table.table[table.neutral[:, 0]].tokens.shape}))
"""


@pytest.fixture
def checkpoint(tmp_path):
    """Half-precision weights drawn so that activations stay finite: 2 GB, gone after the test."""
    config = json.loads((FAMILIES / "sd1.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        tensors = ldm_tensors("sd1", make_models(config))
    generator = torch.Generator().manual_seed(0)
    for key, value in tensors.items():
        if value.ndim == 1:
            tensors[key] = torch.full(value.shape, float(key.endswith("weight"))).half()  # norms are 1, biases 0
        elif value.is_floating_point():
            tensors[key] = torch.empty(value.shape, dtype=torch.float16).normal_(0, 0.02, generator=generator)
        else:
            tensors[key] = torch.arange(77)[None]
    path = tmp_path / "sd15.safetensors"
    save_file(tensors, path)
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the most memory that a process held")
def test_a_checkpoint_of_sd_15_shapes_takes_three_steps_at_256_px_within_8_gb(checkpoint, tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(ROOT), str(checkpoint), str(tokenizer)],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert len(facts["losses"]) == 3 and all(0 < loss < 100 for loss in facts["losses"])
    assert facts["gigabytes"] < 8
    assert (facts["size"], facts["architecture"]) == (512, "stable-diffusion-v1/lora")
    assert facts["tokens"][1:] == [77, 768]
    assert (tmp_path / "cache" / "comfyui-ddm" / "hashes.json").is_file()
    print(facts)
