"""The adapter file: a LoRA with a card that says what it was trained for.

Of a U-Net it has kohya's key names; of a transformer diffusers', without alphas, as ComfyUI and diffusers both take it.

Only names, shapes and metadata are handled here; `training/models/lora.py` puts the matrices on a model. Metadata keys:
`modelspec.*` (the model metadata standard sai_model_spec 1.0.0), `ss_*` (as kohya's trainer writes) and `ddm.*` (ours;
every value is JSON). Nothing of the date or the machine is written: training twice gives the same bytes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from ..core.error import DDMError
from ..core.io import check_finite, check_tensors, load_tensors, save_tensors
from ..core.strict_json import read_fields, write_json
from .alpha_schedule import ALPHA_MAX
from .card_fields import Measurement, Predicted, Training
from .lora_keys import from_ldm, to_ldm

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
# SDXL's files call the first one lora_te1_ (see `ldm`).
TEXT_PARTS = {"text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
# What else a layer may have in a file, by the method that it is part of: without it, other images would be made.
METHODS = {
    "a DoRA": r"dora_scale",
    "a LoHa": r"hada_.+",
    "a LoKr": r"lokr_.+",
    "an OFT": r"oft_.+",
    "a GLoRA": r"[ab][12]\.weight",
    "an IA³": r"on_input",
    "a LoCon with decomposed kernels": r"lora_mid\..+",
    "a LoRA that also replaces weights": r"diff(_b)?|set_weight|reshape_weight|[wb]_norm|bias_.+",
}
# Embeddings that some trainers put beside a LoRA; without their words in a prompt they change nothing.
EMBEDDINGS = "bundle_emb."
# Of a transformer.
TRANSFORMER, DIFFUSERS_DOWN, DIFFUSERS_UP = "transformer.", ".lora_A.weight", ".lora_B.weight"
UNETS = ("stable-diffusion-v1", "stable-diffusion-v2", "stable-diffusion-xl")


class Lora(NamedTuple):
    """The update of one layer: W + strength · alpha / rank · up @ down.

    Attributes:
        down: [rank, in] or, for a convolution, [rank, in, kernel, kernel]; of 1×1 either.
        up: [out, rank] or [out, rank, 1, 1], as `down`.
        alpha: kohya's scale, not the strength α of the adapter.
    """

    down: "torch.Tensor"
    up: "torch.Tensor"
    alpha: float

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return self.down.shape[0]


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter was trained for, and what it was measured to do. All values must be JSON.

    Attributes:
        objective: "ddm", "ddm-paper", "alignment", ...; "style" for the style file of a joint training.
        groups: source of the groups, as given to `--groups`.
        target: share of each group at α = 1, or None where there are no named groups.
        alpha_max: largest strength that was seen in training.
        recommended_alpha: from the prediction, or from a measurement when there is one.
        base_hash: sha256 of the base's U-Net weight files.
        concepts: captions without attribute words, for which it was trained.
        predicted: the predicted curve, one mapping per α.
        measured: the measured fairness card, or None before a measurement.
        training: settings it was trained with (steps, seed, rank, ...).
        architecture: of the base, as `modelspec.architecture` names it, with "/lora".
        prediction: what the base predicts, "epsilon", "v_prediction" or "flow_prediction".
    """

    objective: str = "ddm"
    groups: str = "discovered"
    target: dict[str, float] | None = None
    alpha_max: float = ALPHA_MAX
    recommended_alpha: float = 1.0
    base_hash: str = ""
    concepts: list[str] = field(default_factory=list)
    predicted: list[Predicted] = field(default_factory=list)
    measured: Measurement | None = None
    training: Training = field(default_factory=dict)
    title: str = "DDM adapter"
    description: str = "Fair adapter: its strength is α. 0 is the model as it was, 1 the target distribution."
    architecture: str = "stable-diffusion-v1/lora"
    prediction: str = "epsilon"
    format_version: int = FORMAT_VERSION

    @property
    def is_xl(self) -> bool:
        """Whether it is made for SDXL."""
        return self.architecture.startswith("stable-diffusion-xl")

    @property
    def is_unet(self) -> bool:
        """Whether it is made for a U-Net."""
        return self.architecture.startswith(UNETS)

    def to_metadata(self) -> dict[str, str]:
        """The `ddm.*` metadata: a JSON text for each field."""
        return {f"ddm.{item.name}": write_json(getattr(self, item.name), sort_keys=True) for item in fields(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "AdapterCard | None":
        """The card in a file's metadata; None when it holds no `ddm.format_version`. Unknown `ddm.*` are ignored.

        Raises:
            DDMError: a value is no JSON or of another type, or the file is of a newer format.
        """
        if "ddm.format_version" not in metadata:
            return None
        values = read_fields(metadata, _field_types(), "The adapter's card")
        newer = values["format_version"] > FORMAT_VERSION
        if newer:
            raise DDMError(
                f"The adapter was written in format {values['format_version']}, this version reads up to "
                f"{FORMAT_VERSION}. Update ComfyUI-DDM."
            )
        return cls(**values)


@lru_cache(1)
def _field_types() -> dict[str, Any]:
    return get_type_hints(AdapterCard)


@dataclass(frozen=True)
class Adapter:
    """A LoRA as read from a file.

    Attributes:
        modules: updates by kohya's layer name, for instance "lora_unet_mid_block_resnets_0_conv1"; a file of SDXL has
            LDM's names, which are translated (see `ldm`), one for a transformer diffusers'.
        card: None for a LoRA that this project did not write.
        left_out: a sentence on what in the file is not used; empty if there is nothing.
    """

    modules: dict[str, Lora]
    card: AdapterCard | None = None
    left_out: str = ""


def kohya_name(module: str) -> str:
    """kohya's layer name of a diffusers module: of the U-Net, or of "text_encoder.…" or "text_encoder_2.…".

    Not every version of transformers names the inner model "text_model", but all files do.
    """
    part, _, inner = module.partition(".")
    if part not in TEXT_PARTS:
        return "lora_unet_" + module.replace(".", "_")
    outer = "" if inner.startswith(("text_model.", "text_projection")) else "text_model_"
    return TEXT_PARTS[part] + outer + inner.replace(".", "_")


def save_adapter(path: str | Path, lora: Mapping[str, Lora], card: AdapterCard | None = None) -> None:
    """Write a LoRA atomically; the same LoRA and card always give the same bytes.

    Args:
        path: a .safetensors file.
        lora: by diffusers module name (see `kohya_name`).
        card: without one, only `modelspec.*` and `ss_*` are written. Its architecture decides on the names in the file:
            LDM's for SDXL (see `ldm`), diffusers' for transformers, where up holds the scale.

    Raises:
        DDMError: the LoRA is empty or not finite, the name is not .safetensors, or the disk refuses.
    """
    import torch

    if Path(path).suffix.lower() != ".safetensors":
        raise DDMError(f"An adapter is saved as .safetensors, not as {Path(path).name}. Change the name.")
    if not lora:
        raise DDMError(f"There is nothing to save to {path}: the LoRA has no layers.")
    unet = card is None or card.is_unet
    if not unet:
        lora = {
            module: Lora(one.down, one.up * (one.alpha / one.rank), float(one.rank)) for module, one in lora.items()
        }
    tensors = {}
    for module, (down, up, alpha) in lora.items():
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise DDMError(
                f"The adapter is not saved to {path}: its layer {module} is not finite, so training has diverged. "
                "Train again with a lower learning rate."
            )
        if not unet:
            tensors[TRANSFORMER + module + DIFFUSERS_DOWN] = down
            tensors[TRANSFORMER + module + DIFFUSERS_UP] = up
            continue
        name = to_ldm(kohya_name(module)) if card and card.is_xl else kohya_name(module)
        tensors[name + DOWN] = down
        tensors[name + UP] = up
        tensors[name + ALPHA] = torch.tensor(float(alpha))
    save_tensors(path, tensors, _metadata(lora, card))


def load_adapter(path: str | Path) -> Adapter:
    """Read a LoRA file in kohya's key names, ours or foreign. Nothing in it is passed over in silence.

    Raises:
        DDMError: missing, pickled or truncated file; no LoRA, or of another method; incomplete layers; a card that
            cannot be read.
    """
    return parse_adapter(path, *load_tensors(path))


def parse_adapter(path: str | Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str]) -> Adapter:
    """The LoRA in what was read from `path`; errors as in `load_adapter`."""
    check_finite(path, tensors)
    given, tensors = tensors, {as_kohya(key): tensor for key, tensor in tensors.items()}
    if twice := next((key for key in given if key not in tensors and as_kohya(key) in given), None):
        raise _holds_twice(path, twice)
    for key in sorted(tensors):
        method = next((kind for kind, part in METHODS.items() if re.fullmatch(part, key.partition(".")[2])), None)
        if method:
            raise DDMError(
                f"{path} is {method}, which is not read here: without its {key} it would make other images. Choose a "
                "plain LoRA."
            )
    if not any(key.endswith(DOWN) for key in tensors):
        raise DDMError(
            f"{path} is not a LoRA in kohya's format: it holds no key that ends in {DOWN}. "
            "Choose an adapter file, or convert it to kohya's names first."
        )
    modules: dict[str, Lora] = {}
    embeddings = {key for key in tensors if key.startswith(EMBEDDINGS)}
    for key in sorted(tensors.keys() - embeddings):
        name, dot, part = key.partition(".")
        if dot + part not in (DOWN, UP, ALPHA) or name + DOWN not in tensors:
            raise DDMError(f"{path} holds {key}, which is no part of a LoRA that is known here. Choose another file.")
        if dot + part == DOWN:
            ours = from_ldm(name)
            if ours in modules:
                raise _holds_twice(path, ours)
            modules[ours] = _layer(path, name, tensors)
    left_out = f"The file also brings embeddings ({len(embeddings)} tensors), which are left out." if embeddings else ""
    return Adapter(modules, AdapterCard.from_metadata(metadata), left_out)


def _holds_twice(path: str | Path, name: str) -> DDMError:
    return DDMError(f"{path} is broken: it holds the layer {name} twice. Copy or train it again.")


def as_kohya(key: str) -> str:
    """kohya's name of a transformer's layer, or of a matrix for it, that is called as in diffusers; others stay."""
    if not key.startswith(TRANSFORMER):
        return key
    layer = key.removeprefix(TRANSFORMER)
    for theirs, ours in ((DIFFUSERS_DOWN, DOWN), (DIFFUSERS_UP, UP)):
        if layer.endswith(theirs):
            return kohya_name(layer.removesuffix(theirs)) + ours
    return kohya_name(layer)


def _layer(path: str | Path, name: str, tensors: "Mapping[str, torch.Tensor]") -> Lora:
    """The matrices of a layer, whose down matrix is there; a 1×1 convolution may have them as a linear layer has."""
    down, up, alpha = (tensors.get(name + part) for part in (DOWN, UP, ALPHA))
    if (
        up is None
        or min(down.ndim, up.ndim) < 2
        or up.shape[1] != down.shape[0]
        or up.numel() != up.shape[0] * up.shape[1]
        or 0 in (*down.shape, *up.shape)
        or not (down.is_floating_point() and up.is_floating_point())
    ):
        raise DDMError(f"{path} is broken: its layer {name} has no up matrix that fits. Copy or train it again.")
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex()):
        raise DDMError(f"{path} is broken: the alpha of its layer {name} is no number. Copy or train it again.")
    up = up.reshape(*up.shape[:2], *[1] * (down.ndim - 2))
    return Lora(down, up, float(down.shape[0] if alpha is None else alpha))


def check_base(adapter: Adapter, base_hash: str, base_shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Whether an adapter fits a base.

    Args:
        adapter: its text encoder layers are only compared when `base_shapes` holds "text_encoder.…" modules.
        base_hash: sha256 of the base's U-Net weight files.
        base_shapes: weight shape (out, in, ...) of the base's layers by diffusers module name.

    Returns:
        A warning when it fits but was trained on another base's weights, or not all of its file is used; else None.

    Raises:
        DDMError: the base has no such layers, or of another shape.
    """
    return check_layers(adapter, base_hash, {kohya_name(name): shape for name, shape in base_shapes.items()})


def check_layers(adapter: Adapter, base_hash: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """As `check_base`, with the shapes by kohya's layer names."""
    has_text = any(name.startswith("lora_te_") for name in shapes)
    for name, (down, up, _) in adapter.modules.items():
        if name.startswith("lora_te") and not has_text:
            continue
        if name not in shapes:
            raise DDMError(
                f"The adapter was made for another base model: this one has no layer {name}. "
                "Use the base it was trained on, or one of the same architecture."
            )
        shape = (up.shape[0], *down.shape[1:])
        if _plain(shape) != _plain(shapes[name]):
            raise DDMError(
                f"The adapter was made for another base model: its layer {name} changes weights of shape "
                f"{_times(shape)}, here they are {_times(shapes[name])}. "
                "Use the base it was trained on, or one of the same architecture."
            )
    warning = ""
    if adapter.card and adapter.card.base_hash and base_hash and adapter.card.base_hash != base_hash:
        warning = (
            f"The adapter was trained on another base (hash {adapter.card.base_hash[:10]}, this one is "
            f"{base_hash[:10]}). It fits, but its effect was never measured here: "
            "sample and report before you rely on it."
        )
    return " ".join(filter(None, (warning, adapter.left_out))) or None


def update_card(path: str | Path, card: AdapterCard) -> None:
    """Write a new card into an adapter file, atomically; matrices, content hash and other metadata stay.

    Raises:
        DDMError: as in `load_adapter` and `save_adapter`.
    """
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | card.to_metadata())


def content_hash(path: str | Path) -> str:
    """sha256 (hex) of a LoRA file without its header, as A1111 computes it.

    It changes when a file is trained again under the same name, not when its card is rewritten.
    """
    data = check_tensors(path).read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a weight; a 1×1 convolution has that of a linear layer, which some files take it for."""
    return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _metadata(lora: Mapping[str, Lora], card: AdapterCard | None) -> dict[str, str]:
    about = card or AdapterCard()
    rank = max(layer.rank for layer in lora.values())
    alphas = {layer.alpha for layer in lora.values()}
    is_v2 = about.architecture.startswith("stable-diffusion-v2")
    base_version = "sdxl_base_v1-0" if about.is_xl else "sd_v2" if is_v2 else "sd_v1"
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": about.architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.prediction_type": "v" if about.prediction == "v_prediction" else about.prediction,
        "modelspec.title": about.title,
        "modelspec.description": about.description,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alphas.pop() if len(alphas) == 1 else float(rank)),
        "ss_base_model_version": base_version if about.is_unet else about.architecture.removesuffix("/lora"),
        "ss_v2": str(is_v2),
        "ss_output_name": about.title,
    }
    if any(layer.down.ndim == 4 and layer.down.shape[-1] > 1 for layer in lora.values()):
        # kohya's LoRA of 3×3 convolutions is a network argument of its own.
        metadata["ss_network_args"] = json.dumps({"conv_dim": str(rank), "conv_alpha": metadata["ss_network_alpha"]})
    for ours, theirs in {"steps": "ss_steps", "seed": "ss_seed", "learning_rate": "ss_learning_rate"}.items():
        if ours in about.training:
            metadata[theirs] = str(about.training[ours])
    return metadata | (card.to_metadata() if card else {})
