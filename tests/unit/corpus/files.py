"""Small good files of every kind that is read, built by code."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter
from comfyui_ddm.debias.core.io import save_tensors
from comfyui_ddm.debias.evaluation.evaluate import build_report
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantCard, InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.probe_network import ProbeNetwork
from comfyui_ddm.debias.probes.records import Attribute, Condition, EvaluationData
from comfyui_ddm.training.models.soft_tokens import SoftTokens
from PIL import Image

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
POINT = {"alpha": 1.0, "images": 60, "shares": [0.5, 0.5], "fd": 0.1, "fd_high": 0.2, "floor_high": 0.2}
CARD = AdapterCard(
    target={"man": 0.5, "woman": 0.5},
    base_hash="ab" * 32,
    concepts=["a doctor"],
    predicted=[{"alpha": 1.0, "shares": [0.5, 0.5], "fd": 0.0, "ess": 0.9}],
    measured={
        "attribute": "gender",
        "classes": ["man", "woman"],
        "prompts": 1,
        "steps": 20,
        "cfg": 3.0,
        "recommended_alpha": 1.0,
        "points": [POINT | {"alpha": 0.0}, POINT | {"worst_prompt": {"prompt": "a", "group": "man", "share": 0.9}}],
    },
    training={
        "steps": 3,
        "images": 2,
        "fingerprint": "cd" * 32,
        "found": [{"source": "labels:gender", "shares": {"man": 0.5}}],
        "calibration": {"scale": 1.5},
    },
)


def adapter(path: Path, card: AdapterCard | None = CARD, **card_values: object) -> Path:
    """A LoRA of one layer of 32 × 32."""
    layer = Lora(torch.full((2, 32), 0.1), torch.full((32, 2), 0.1), 2.0)
    save_adapter(path, {LINEAR: layer}, card and replace(card, **card_values))
    return path


def lora(path: Path, *keys: str, **parts: torch.Tensor) -> Path:
    """A foreign LoRA of one layer, with other parts of that layer, and other keys."""
    layer = {"lora_down.weight": torch.ones(2, 32), "lora_up.weight": torch.ones(32, 2), **parts}
    name = "lora_unet_" + LINEAR.replace(".", "_")
    save_tensors(
        path, {f"{name}.{part}": value for part, value in layer.items()} | {key: torch.ones(1) for key in keys}
    )
    return path


def probe(path: Path) -> Path:
    """A probe that tells nothing."""
    made = Probe(("man", "woman"), "gender", torch.nn.Linear(8, 2), ProbeNetwork(8))
    made.confusion, made.accuracy = np.eye(2), 1.0
    made.save(path)
    return path


def linear_probe(path: Path, identity: str = "CLIP tiny (abcd)") -> Path:
    """A probe on the features of a model of that name."""
    made = Probe(("man", "woman"), "gender", torch.nn.Linear(4, 2), identity=identity)
    made.confusion, made.accuracy = np.eye(2), 1.0
    made.save(path)
    return path


def head(path: Path) -> Path:
    """A head for a U-Net of 4 channels in the middle."""
    tables = torch.zeros(2, 2, 4, 2, 2)
    HSpaceClassifier(("man", "woman"), "gender", (100, 800), tables, torch.zeros(2, 2), tables + 1, (0.9, 0.6)).save(
        path
    )
    return path


def module(path: Path) -> Path:
    """A module for invariant guidance."""
    InvariantModule(InvariantCard(4, 8, 8, "ab" * 32, training={"steps": 3})).save(path)
    return path


def embedding(path: Path) -> Path:
    """Two soft tokens."""
    SoftTokens({"text_encoder": torch.ones(2, 8)}).save(path, CARD)
    return path


def report() -> str:
    """The JSON of a report over two strengths and two attributes."""
    rows = np.tile([[0.9, 0.1], [0.2, 0.8]], (20, 1))
    attributes = [
        Attribute("gender", ("man", "woman"), rows, Target.uniform(("man", "woman")), 0.9),
        Attribute("tone", ("dark", "light"), rows[::-1], None, 0.9),
    ]
    conditions = [Condition(float(row >= 20)) for row in range(40)]
    prompts = ["a doctor", "a judge"] * 20
    data = EvaluationData.of(prompts, attributes, conditions, [row % 20 for row in range(40)])
    return build_report(data, resamples=50).to_json()


def image(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0, **options: object) -> Path:
    """An image that shows something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


# Red, green and blue of colour spaces in XYZ (D50), and their gamma.
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 563 / 256
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)), 1.8
SRGB = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)])


def icc(primaries: tuple, gamma: float) -> bytes:
    """An ICC profile (version 2, matrix and curve) of a colour space; of grey where there are no primaries."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    text = b"a colour space"
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(80)}
    tags |= {b"cprt": b"text" + bytes(4) + text + b"\0", b"wtpt": (0.9642, 1.0, 0.8249)}
    tags |= {name + b"XYZ": one for name, one in zip((b"r", b"g", b"b"), primaries, strict=False)}
    tags |= {name + b"TRC": curve for name in ((b"r", b"g", b"b") if primaries else (b"k",))}
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, one in tags.items():
        one = one if isinstance(one, bytes) else b"XYZ " + bytes(4) + b"".join(map(number, one))
        one += bytes(-len(one) % 4)
        table += name + struct.pack(">II", start + len(data), len(one))
        data += one
    size = start + len(data)
    header = (
        struct.pack(">I4sI", size, b"none", 0x02400000)
        + b"mntr"
        + (b"RGB " if primaries else b"GRAY")
        + b"XYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
    )
    header += b"".join(map(number, (0.9642, 1.0, 0.8249)))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def in_colours(pixels: np.ndarray, primaries: tuple, gamma: float) -> np.ndarray:
    """The same colours [H, W, 3] as another colour space has them; sRGB in, uint8 both."""
    values = pixels / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    other = linear @ SRGB @ np.linalg.inv(np.array(primaries))
    return (255 * np.clip(other, 0, 1) ** (1 / gamma)).round().astype(np.uint8)
