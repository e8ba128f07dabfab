"""Our script and tab between stand-ins of A1111 1.8, 1.10 and Forge Neo (a real host is in `tests/webui`)."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import save_adapter

from . import host
from .host import CARD, LORA, ROOT


@pytest.fixture(params=[host.Script, host.NewerScript, host.NeoScript], ids=["1.8", "1.10", "Neo"])
def door(request, monkeypatch, tmp_path):
    """The loaded scripts/ddm.py, and what it has registered."""
    for name in [name for name in sys.modules if name.startswith("comfyui_ddm.webui")]:
        monkeypatch.delitem(sys.modules, name)
    registered = host.install(monkeypatch, tmp_path, request.param)
    (tmp_path / "models" / "Lora" / "people").mkdir(parents=True)
    save_adapter(tmp_path / "models" / "Lora" / "people" / "fair.safetensors", LORA, CARD)
    save_adapter(tmp_path / "models" / "Lora" / "foreign.safetensors", LORA)
    spec = importlib.util.spec_from_file_location("ddm.py", ROOT / "scripts" / "ddm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield SimpleNamespace(module=module, registered=registered, folder=tmp_path)
    for name in [name for name in sys.modules if name.startswith("comfyui_ddm.webui")]:
        del sys.modules[name]


@pytest.fixture
def script(door):
    """The script, with its controls made."""
    made = door.module.DDMScript()
    made.controls = made.ui(False)
    return made


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=host.UNet().requires_grad_(False)))


@pytest.fixture
def run(script, model, door):
    """Makes images; returns how far each is from the model's own, the infotexts, and the comments."""
    own = model.model.diffusion_model(torch.ones(1, 4), torch.zeros(1))[0]

    def make(*values, prompts=("a doctor",), **settings):
        names = ["adapter", "alpha", "each", "same_seed", "shape", "end", "switch", "points"]
        names += ["probe", "watch", "target", "collect", "heads", "scale", "mode", "targets", "keep_counts", "words"]
        settings |= dict(zip(names, values, strict=False))
        given = [settings.get(name, one.value) for name, one in zip(names, script.controls, strict=True)]
        p = host.Processing(model, door.folder / "images", list(prompts), batch_size=min(len(prompts), 3))
        p.__dict__.update({"on_step": door.registered["on_cfg_denoiser"], **settings.get("p", {})})
        latents, infotexts = host.generate(script, p, *given)
        return [round(sum(one) / 4 - float(own.mean()), 4) for one in latents], infotexts, p

    return make


@pytest.fixture
def heads(door):
    """Heads in models/ddm (see `host.save_head`)."""
    for name, attribute, channels in (("gender", "gender", 4), ("age", "age", 4), ("other", "gender", 8)):
        host.save_head(door.folder / "models" / "ddm" / f"{name}.safetensors", attribute, channels)
