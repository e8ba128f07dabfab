"""An adapter file as the nodes use it: read once, checked against the model before it is applied."""

from collections.abc import Mapping
from dataclasses import dataclass

import comfy.lora
import comfy.model_patcher
import torch

from ..debias.adapter.lora_file import Adapter, AdapterCard, as_kohya, check_layers, parse_adapter
from ..debias.core.error import DDMError
from ..debias.core.io import check_finite, load_tensors, read_metadata
from ..hosts.adapter_card import UNKNOWN_BASE, LoadedCard
from .files import ADAPTERS, resolve
from .native import BASE_HASH

# How people call kinds of models: by the host's names for them, and by those in our files.
KINDS_BY_HOST = {
    "SD15": "Stable Diffusion 1.x",
    "SD20": "Stable Diffusion 2.x",
    "SD21UnclipL": "Stable Diffusion 2.x",
    "SD21UnclipH": "Stable Diffusion 2.x",
    "SDXL": "Stable Diffusion XL",
    "SDXLRefiner": "Stable Diffusion XL Refiner",
    "SD3": "Stable Diffusion 3",
    "Flux": "Flux",
    "FluxSchnell": "Flux",
    "Flux2": "Flux 2",
    "Chroma": "Chroma",
    "Krea2": "Krea 2",
    "QwenImage": "Qwen-Image",
    "ZImage": "Z-Image",
    "PixArtAlpha": "PixArt",
    "PixArtSigma": "PixArt",
    "AuraFlow": "AuraFlow",
}
KINDS_BY_ARCHITECTURE = {
    "stable-diffusion-v1": "Stable Diffusion 1.x",
    "stable-diffusion-v2": "Stable Diffusion 2.x",
    "stable-diffusion-v3": "Stable Diffusion 3",
    "stable-diffusion-xl": "Stable Diffusion XL",
    "z-image": "Z-Image",
    "chroma-1": "Chroma",
    "krea-2": "Krea 2",
}


def kind_of(model: comfy.model_patcher.ModelPatcher) -> str | None:
    """What people call the kind of a MODEL; None for one that has no name, as the small one."""
    return KINDS_BY_HOST.get(type(model.model.model_config).__name__)


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA file; the tensors are as in the file, for the host's own functions.

    Attributes:
        adapter: the parsed LoRA; None for a file that this project did not write.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    adapter: Adapter | None

    @classmethod
    def load(cls, name: str) -> "AdapterFile":
        """Read a file of the host's list of LoRAs.

        Raises:
            DDMError: it is not there, truncated, a pickle, or its card cannot be read.
        """
        path = resolve(ADAPTERS, name)
        tensors, metadata = load_tensors(path)
        check_finite(path, tensors)
        ours = AdapterCard.from_metadata(metadata) is not None
        return cls(name, tensors, parse_adapter(path, tensors, metadata) if ours else None)

    @property
    def card(self) -> AdapterCard | None:
        """What the file says of itself, if this project wrote it."""
        return self.adapter.card if self.adapter else None

    @property
    def changes_text(self) -> bool:
        """Whether it has layers for the text encoder."""
        return any(key.startswith(("lora_te", "text_encoder")) for key in self.tensors)

    def check(self, model: comfy.model_patcher.ModelPatcher, base: str = "") -> str | None:
        """Whether it fits a model.

        Args:
            base: hash of the model's base, where it is known otherwise than by the model itself.

        Returns:
            A warning when the model is not, or may not be, the one that it was trained on.

        Raises:
            DDMError: the adapter was made for another kind of model.
        """
        shapes = {
            name: shape
            for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()
            if (shape := _shape(model.model, key)) is not None
        }
        here = kind_of(model)
        if self.adapter is None:
            if not any(key.startswith(name + ".") for name in shapes for key in self.tensors):
                raise DDMError(
                    f"{self.name} changes no layer of this {f'{here} ' if here else ''}model: it is not a LoRA, or was "
                    "made for another kind of model. Choose another file."
                )
            return None
        known = KINDS_BY_ARCHITECTURE.items()
        made_for = next((kind for name, kind in known if self.card.architecture.startswith(name)), None)
        if here and made_for and here != made_for:
            raise DDMError(
                f"This is a {here} model, and {self.name} was made for {made_for}. Use a model of that kind, or train "
                "an adapter for this one."
            )
        base = base or model.attachments.get(BASE_HASH, "")
        warning = check_layers(self.adapter, base, {as_kohya(name): shape for name, shape in shapes.items()})
        return warning or (None if base and self.card.base_hash else UNKNOWN_BASE)

    def loaded(self, alpha: float, *warnings: str | None) -> LoadedCard:
        """What goes along the wire: this file in use at strength `alpha`, with what a user should know of that."""
        return LoadedCard(self.name, alpha, self.card, " ".join(filter(None, warnings)) or None)


def check_name(name: str | None) -> str | None:
    """A sentence when an adapter of this name cannot be used, else None. Only the file's header is read."""
    if name is None:  # comes from another node: known when it runs
        return None
    try:
        read_card(name)
    except DDMError as error:
        return str(error)
    return None


def read_card(name: str) -> AdapterCard | None:
    """What a LoRA file says of itself; None for one that this project did not write. Only its header is read.

    Raises:
        DDMError: it is not there, truncated, a pickle, or its card cannot be read.
    """
    return AdapterCard.from_metadata(read_metadata(resolve(ADAPTERS, name)))


def recommended_alpha(name: str) -> float:
    """The strength that an adapter file recommends.

    Raises:
        DDMError: as in `AdapterFile.load`; or the file recommends none.
    """
    card = read_card(name)
    if card is None:
        raise DDMError(
            f"{name} recommends no strength: it was not made by ComfyUI-DDM. Set strength_from to alpha, and α to the "
            "strength you want."
        )
    return card.recommended_alpha


def _shape(model: torch.nn.Module, key: str | tuple) -> tuple[int, ...] | None:
    """The shape of the weight that the host's map names, or of those of its rows that are a layer of diffusers'."""
    name, rows, *_ = key if isinstance(key, tuple) else (key, None)
    try:
        whole = tuple(model.get_parameter(name).shape)
    except AttributeError:
        return None
    return whole if rows is None else (rows[2], *whole[1:])
