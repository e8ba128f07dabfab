"""Small stand-ins of A1111's modules and of gradio: what our script and tab need of them, and nothing more.

They are stand-ins: that they behave as the hosts do is seen in `tests/webui`, with a real one.
"""

import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace

import torch
from comfyui_ddm import install as install_script
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from torch import nn

ROOT = Path(install_script.__file__).parent
GRADIO = ("Accordion", "Blocks", "Button", "Checkbox", "Column", "Dropdown", "HTML", "Number", "Radio", "Row", "Slider")
GRADIO += ("Group", "Markdown", "TabItem", "Tabs", "Textbox")
CALLBACKS = ("on_before_ui", "on_ui_tabs", "on_infotext_pasted", "on_app_started", "on_cfg_denoiser")


class Component:
    """A control: remembers what it was made with, and what happens to it."""

    def __init__(self, *values, **options):
        self.value, self.events = options.get("value", values[-1] if values else None), {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        if name not in ("blur", "click", "change", "load"):
            raise AttributeError(name)
        return lambda fn, **wires: self.events.setdefault(name, (fn, wires))


class Layer(nn.Module):
    """One attention layer with LDM's names."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return x + self.to_q(x)


class UNet(nn.Module):
    """A U-Net with one layer, LDM's input_blocks.1.1.transformer_blocks.0.attn1.to_q, and an h-space [4, 1, 1]."""

    def __init__(self):
        super().__init__()
        self.middle_block = nn.Identity()
        attention = nn.ModuleDict({"attn1": Layer()})
        spatial = nn.ModuleDict({"transformer_blocks": nn.ModuleList([attention])})
        self.input_blocks = nn.ModuleList([nn.Identity(), nn.ModuleList([nn.Identity(), spatial])])

    def forward(self, x, timesteps, context=None):
        made = self.input_blocks[1][1]["transformer_blocks"][0]["attn1"](x)
        return self.middle_block(made[:, :, None, None])[:, :, 0, 0]


CARD = AdapterCard(target={"man": 0.5, "woman": 0.5}, concepts=["a doctor"])
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
# Adds α to every number.
LORA = {LAYER: Lora(torch.ones(1, 4) / 4, torch.ones(4, 1), 1.0)}
PROBE = {"probe": "gender", "watch": "role"}
GUIDED = {"heads": ["gender"], "scale": 2.0}


class Script:
    """The base class of scripts, of A1111 1.8."""

    tabname = "txt2img"

    def elem_id(self, name):
        return f"script_{self.tabname}_ddm_{name}"

    def before_process(self, p, *values):
        pass

    def on_after_component(self, callback, *, elem_id):
        self.after = {**getattr(self, "after", {}), elem_id: callback}

    def postprocess_image(self, p, shown, *values):
        pass

    def postprocess_batch(self, p, *values, **batch):
        pass


class NewerScript(Script):
    """Of 1.10."""

    def process_before_every_sampling(self, p, *values, **sampling):
        pass

    def postprocess_image_after_composite(self, p, shown, *values):
        pass


class NeoScript(NewerScript):
    """Of Forge Neo, which lacks functions that extensions for A1111 call."""


class NeoModel:
    """A loaded model of Forge Neo around a U-Net."""

    def __init__(self, unet):
        self.forge_objects = SimpleNamespace(unet=NeoPatcher(SimpleNamespace(diffusion_model=unet)))
        self.forge_objects.unet.model.storage_dtype = torch.float16
        self.model = self.forge_objects.unet.model


class NeoPatcher:
    """What makes the U-Net's patches: here they are in the weights at once."""

    def __init__(self, model):
        self.model = model

    def clone(self):
        return NeoPatcher(self.model)

    def add_patches(self, *, filename, patches, strength_patch, online_mode):
        for key, (down, up) in patches.items():
            place = self.model.diffusion_model.get_submodule(
                key.removeprefix("diffusion_model.").removesuffix(".weight")
            )
            place.weight += strength_patch * up @ down
        return list(patches)


def neo_backend():
    """Neo's backend.args and backend.patcher.lora, as far as LoRAs go."""

    class Meta(type):
        def get(cls, key, default=None):
            return getattr(cls, key, default)

    place = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    keys = {"lora_unet_" + LAYER.replace(".", "_"): place}

    def load_lora(tensors, to_load):
        found = {
            key: (tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"])
            for name, key in to_load.items()
        }
        return found, {}

    args = Meta("dynamic_args", (), {"online_lora": False, "nunchaku": False, "ops": "Default"})
    return {
        "args": {"dynamic_args": args},
        "patcher": {},
        "patcher.lora": {"load_lora": load_lora, "model_lora_keys_unet": lambda model, found: found | keys},
    }


class Processing(SimpleNamespace):
    """A run of the host."""

    def __init__(self, model, folder, prompts, seed=5, batch_size=None):
        count = len(prompts)
        super().__init__(
            sd_model=model,
            all_prompts=prompts,
            all_seeds=[seed + i for i in range(count)],
            all_subseeds=[0] * count,
            all_negative_prompts=[""] * count,
            settings={"Steps": 2, "Sampler": "Euler", "Model hash": "abcd"},
            batch_size=batch_size or count,
            extra_generation_params={},
            outpath_samples=str(folder),
            comments=[],
            on_step=[],
            passes=1,
        )

    def comment(self, text):
        self.comments.append(text)


def generate(script, p, *values, interrupt=False):
    """Call the script as the host does; returns (images' latents, infotexts).

    With `interrupt`, the host's own error ends the run while it samples.
    """
    newer = isinstance(script, NewerScript)
    script.before_process(p, *values)
    script.process(p, *values)
    made, infotexts = [], []
    for number in range(len(p.all_prompts) // p.batch_size):
        p.iteration = number
        here = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
        p.prompts, p.seeds, p.subseeds = p.all_prompts[here], p.all_seeds[here], p.all_subseeds[here]
        p.negative_prompts = p.all_negative_prompts[here]
        script.process_batch(p, *values, prompts=p.prompts)
        for _ in range(p.passes):
            if newer:
                script.process_before_every_sampling(p, *values, x=None)
            if interrupt:
                raise RuntimeError("out of memory")
            for callback in p.on_step:
                callback(None)
            twice = torch.ones(2 * p.batch_size, 4)  # with guidance
            latents = p.sd_model.model.diffusion_model(twice, torch.full((len(twice),), 999.0))[: p.batch_size]
        script.postprocess_batch(p, *values)
        for place, latent in enumerate(latents):
            p.batch_index = place
            made.append(latent.tolist())
            shown = SimpleNamespace(image=image(p.seeds[place]))
            script.postprocess_image(p, shown, *values)
            if newer:
                script.postprocess_image_after_composite(p, shown, *values)
            infotexts.append(said_of(p, p.prompts, place))
    processed = SimpleNamespace(comments="".join(f"{one}\n" for one in p.comments))
    script.postprocess(p, processed, *values)
    p.comments = processed.comments.splitlines()
    return made, [{name: one for name, one in said.items() if one is not None} for said in infotexts]


def said_of(p, all_prompts, index):
    """What extensions say in an infotext; as the host does, its index is that in the batch."""
    facts = {"p": p, "all_prompts": all_prompts, "index": index, "iteration": 0}
    said = p.extra_generation_params.items()
    return {name: one(**facts) if callable(one) else one for name, one in said}


def create_infotext(p, all_prompts, all_seeds, all_subseeds, *, index, all_negative_prompts):
    said = {**p.settings, "Seed": all_seeds[index], **said_of(p, all_prompts, index), "Version": "v1"}
    negative = f"\nNegative prompt: {all_negative_prompts[index]}" if all_negative_prompts[index] else ""
    settings = ", ".join(f'{name}: "{one}"' if "," in str(one) else f"{name}: {one}" for name, one in said.items())
    return f"{all_prompts[index]}{negative}\n{settings}"


def save_head(path, attribute="gender", channels=4, base_hash=""):
    """A head: whatever it sees is a man, and it pushes one number up for a woman, and down for a man."""
    path.parent.mkdir(parents=True, exist_ok=True)
    push = torch.stack([-torch.ones(4, 1, 1), torch.ones(4, 1, 1)])[None].repeat(1, 1, channels // 4, 1, 1)
    weight, bias = torch.zeros(1, 2, channels, 1, 1), torch.tensor([[1e-3, 0.0]])
    HSpaceClassifier(("man", "woman"), attribute, (500,), weight, bias, push, (1.0,), base_hash).save(path)


def image(seed):
    from PIL import Image

    return Image.new("RGBA", (64, 64), (seed * 40 % 256, 90, 120, 255))


def install(monkeypatch, folder: Path, script_class):
    """Put the stand-ins where Python looks for the host's modules; returns what was registered."""
    registered = {}

    def module(name, **content):
        made = types.ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def record(name):
        return lambda callback: registered.setdefault(name, []).append(callback)

    checkpoint = SimpleNamespace(filename=str(folder / "models" / "chosen.safetensors"), sha256="c" * 64)
    checkpoint.calculate_shorthash = lambda: "c" * 10
    module("gradio", update=lambda **values: values, **{name: type(name, (Component,), {}) for name in GRADIO})
    parts = {
        "call_queue": {"queue_lock": threading.Lock()},
        "extra_networks": {"parse_prompt": lambda text: (text.partition("<lora:")[0], {})},
        "processing": {"create_infotext": create_infotext},
        "paths": {name: str(folder / where) for name, where in PLACES.items()},
        "script_callbacks": {name: record(name) for name in CALLBACKS},
        "scripts": {"Script": script_class, "AlwaysVisible": object(), "scripts_data": []},
        "sd_samplers": {"all_samplers": [SimpleNamespace(name="Euler")]},
        "sd_models": {
            "checkpoints_list": {"chosen": checkpoint},
            "select_checkpoint": lambda: checkpoint,
            "model_data": SimpleNamespace(sd_model="the model"),
            "unload_model_weights": lambda: registered.setdefault("memory", []).append("away"),
            "send_model_to_device": lambda model: registered["memory"].append("back"),
        },
        "shared": {
            "cmd_opts": SimpleNamespace(lora_dir=str(folder / "models" / "Lora"), hide_ui_dir_config=False),
            "device": torch.device("cpu"),
            "opts": SimpleNamespace(),
            "state": SimpleNamespace(job_timestamp="1", interrupted=False, textinfo=None),
        },
        "ui_components": {"ToolButton": type("ToolButton", (Component,), {})},
    }
    if script_class is NeoScript:
        del parts["sd_models"]["send_model_to_device"]
        parts["shared"]["cmd_opts"].lora_dirs = [str(folder / "more_loras")]
        backend = module("backend")
        for name, content in neo_backend().items():
            setattr(backend, name, module(f"backend.{name}", **content))
    host = module("modules")
    for name, content in parts.items():
        setattr(host, name, module(f"modules.{name}", **content))
    return registered


PLACES = {"models_path": "models", "data_path": "", "script_path": ""}
