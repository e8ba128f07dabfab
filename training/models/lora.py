"""LoRA on a U-Net or a text encoder (by peft), with a strength α of its own for every row of the batch.

peft scales an adapter's output by one float; a hook between the two matrices, where there are only as many numbers as
the rank, multiplies them by α, which is a float or one value per row. An adapter whose α is 0 everywhere is switched
off, so that the base computes what it always did.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ...debias.adapter.lora_file import Adapter, Lora, check_base, kohya_name
from ...debias.core.error import DDMError

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
RESNET = ("conv1", "conv2", "time_emb_proj")
PROJECTION = ("proj_in", "proj_out")
TARGETS = ATTENTION + FEED_FORWARD + RESNET + PROJECTION
# Of a text encoder.
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass
class Strength:
    """The strength α of one adapter on a model: a float, or a tensor with one value per image."""

    alpha: "float | torch.Tensor" = 1.0
    active: bool = True
    trainable: bool = False

    def __call__(self, module: "torch.nn.Module", inputs: tuple, output: "torch.Tensor") -> "torch.Tensor":
        """Forward hook of a down matrix: its output [B, ...] times α."""
        if isinstance(self.alpha, float):
            return output if self.alpha == 1.0 else output * self.alpha
        copies, rest = divmod(len(output), len(self.alpha))
        if rest:
            raise ValueError(f"{len(self.alpha)} strengths for a batch of {len(output)}")
        alpha = self.alpha.to(output.dtype).repeat(copies)
        return output * alpha.view(-1, *[1] * (output.ndim - 1))


def add_lora(model: "torch.nn.Module", name: str, rank: int, targets: Sequence[str] = TARGETS, seed: int = 0) -> None:
    """Put a new, trainable LoRA on a model, in float32 and at α = 1. It changes nothing yet: its up matrices are 0.

    Args:
        model: a diffusers UNet2DConditionModel or a CLIP text encoder; may carry other LoRAs.
        name: for instance "debias" or "style".
        rank: rank, and kohya's alpha: the update is up @ down.
        targets: last parts of the names of the layers (see TARGETS and TEXT_TARGETS).
        seed: of the down matrices, which are drawn alike on every device and whatever was drawn before.

    Raises:
        DDMError: no layer of this base is among the targets.
    """
    import torch

    modules = [
        module
        for module in base_shapes(model)
        if any(module == target or module.endswith("." + target) for target in targets)
    ]
    if not modules:
        raise DDMError(
            f"No layer of the base is called {', '.join(targets)}. Choose among {', '.join(TARGETS + TEXT_TARGETS)}."
        )
    _inject(model, name, dict.fromkeys(modules, rank), trainable=True)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in _layers(model, name):
        down = layer.lora_A[name].weight
        # Kaiming-uniform with a = √5, as kohya and peft start: ± 1/√(fan in).
        bound = down[0].numel() ** -0.5
        with torch.no_grad():
            down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
            layer.lora_B[name].weight.zero_()


def set_alpha(model: "torch.nn.Module", name: str, alpha: "float | Sequence[float] | torch.Tensor") -> None:
    """Set the strength α of a LoRA: one for all images, or one for each.

    Args:
        alpha: a float, or [B]. A batch of k·B rows (as classifier-free guidance makes) repeats them k times.
    """
    import torch

    strengths = _strengths(model)
    if name not in strengths:
        raise DDMError(f"There is no LoRA called {name!r} on this model, only {', '.join(strengths) or 'none'}.")
    strength = strengths[name]
    values = torch.as_tensor(alpha, dtype=torch.float32)
    active = bool(values.cpu().numpy().any())  # no device is waited for, unless α comes from one
    if values.ndim:
        with torch.inference_mode(False):  # whoever sets it, those who learn take it too
            strength.alpha = values.clone().to(next(model.parameters()).device, non_blocking=True)
    else:
        strength.alpha = float(alpha)
    if active != strength.active:
        strength.active = active
        _refresh(model)


@contextmanager
def at_alpha(model: "torch.nn.Module", name: str, alpha: "float | torch.Tensor") -> Iterator[None]:
    """Give a LoRA another strength for a while, if one of this name is on the model."""
    if name not in lora_names(model):
        yield
        return
    before = _strengths(model)[name].alpha
    set_alpha(model, name, alpha)
    try:
        yield
    finally:
        set_alpha(model, name, before)


@contextmanager
def without_loras(models: "Iterable[torch.nn.Module]") -> Iterator[None]:
    """Let models compute for a while what they did before LoRAs were put on them."""
    with ExitStack() as off:
        for model in models:
            for name in lora_names(model):
                off.enter_context(at_alpha(model, name, 0.0))
        yield


def lora_acts(model: "torch.nn.Module") -> bool:
    """Whether a LoRA is on a model at another strength than 0."""
    return any(strength.active for strength in _strengths(model).values())


def set_trainable(model: "torch.nn.Module", name: str, trainable: bool) -> None:
    """Let a LoRA learn, or freeze it as it is."""
    strength = _strengths(model)[name]
    if trainable != strength.trainable:
        strength.trainable = trainable
        _refresh(model)


def lora_names(model: "torch.nn.Module") -> list[str]:
    """Names of the LoRAs on a model."""
    return list(_strengths(model))


def lora_parameters(model: "torch.nn.Module", name: str) -> list["torch.nn.Parameter"]:
    """The matrices of a LoRA, down and up of each layer, in the order of the layers."""
    return [matrix[name].weight for _, layer in _layers(model, name) for matrix in (layer.lora_A, layer.lora_B)]


def export_lora(model: "torch.nn.Module", name: str, part: str = "") -> dict[str, Lora]:
    """Copies of a LoRA's matrices on the CPU, by diffusers module name, as `debias.adapter.save_adapter` takes them.

    Args:
        part: what the names begin with: nothing for the U-Net, "text_encoder" or "text_encoder_2" for these.
    """
    return {
        _joined(part, module): Lora(
            layer.lora_A[name].weight.detach().cpu().clone(),
            layer.lora_B[name].weight.detach().cpu().clone(),
            layer.scaling[name] * layer.r[name],
        )
        for module, layer in _layers(model, name)
    }


def export_parts(parts: "Mapping[str, torch.nn.Module]", name: str) -> dict[str, Lora]:
    """As `export_lora`, of all models that a LoRA is on, by their part of the base (see `Base.parts`)."""
    return {layer: lora for part, model in parts.items() for layer, lora in export_lora(model, name, part).items()}


def scale_lora(model: "torch.nn.Module", name: str, factor: float) -> None:
    """Multiply a LoRA's kohya alpha, rounded to float32 as a file keeps it: what is in memory is what is saved."""
    import torch

    for _, layer in _layers(model, name):
        alpha = torch.tensor(layer.scaling[name] * layer.r[name] * factor, dtype=torch.float32)
        layer.scaling[name] = alpha.item() / layer.r[name]


def load_lora_into(
    denoiser: "torch.nn.Module",
    adapter: Adapter,
    name: str,
    base_hash: str = "",
    text_encoders: "Mapping[str, torch.nn.Module] | None" = None,
) -> str | None:
    """Put the LoRA of a file on a base, frozen, in float32 and at α = 1.

    Args:
        base_hash: sha256 of the base's U-Net weight files.
        text_encoders: of the base, by the names of `Base.text_encoders`. Without them, layers of text encoders are
            left out.

    Returns:
        A warning when the adapter was trained on a base of another hash, or layers of it are left out.

    Raises:
        DDMError: its layers do not fit this base, or none is for the models that were given.
    """
    parts = {"": denoiser, **(text_encoders or {})}
    shapes = {part: base_shapes(model) for part, model in parts.items()}
    named = {_joined(part, module): shape for part in parts for module, shape in shapes[part].items()}
    warnings = [check_base(adapter, base_hash, named)]
    known = {kohya_name(module) for module in named}
    if known.isdisjoint(adapter.modules):
        what = "base" if text_encoders else "U-Net"
        raise DDMError(f"The LoRA changes no layer of the {what}, so it cannot be used here. Choose another file.")
    if not known.issuperset(adapter.modules):
        warnings.append("The LoRA also changes the text encoder; this part is not applied.")
    for part, model in parts.items():
        keys = {module: kohya_name(_joined(part, module)) for module in shapes[part]}
        loras = {module: adapter.modules[key] for module, key in keys.items() if key in adapter.modules}
        if loras:
            _load_part(model, loras, name)
    return " ".join(warning for warning in warnings if warning) or None


def start_lora(parts: "Mapping[str, torch.nn.Module]", name: str, adapter: Adapter) -> None:
    """Let a LoRA that is on models begin as one of a file.

    Args:
        parts: the models, by the part of the base that they are.

    Raises:
        DDMError: the file has other layers, or another rank.
    """

    layers = {
        kohya_name(_joined(part, path)): layer for part, model in parts.items() for path, layer in _layers(model, name)
    }
    if unlike := sorted(set(layers) ^ set(adapter.modules)):
        raise DDMError(
            f"The LoRA to begin with changes other layers than this training does ({len(unlike)} of them, such as "
            f"{unlike[0]}). Choose one that was trained alike, with or without the text encoders.",
            "init_from",
            "text_encoder",
        )
    for key, layer in layers.items():
        lora = adapter.modules[key]
        if lora.rank != layer.r[name]:
            raise DDMError(
                f"The LoRA to begin with has rank {lora.rank}, and this training {layer.r[name]}. Give the same rank.",
                "init_from",
                "rank",
            )
        _fill(layer, name, lora)


def _fill(layer: "LoraLayer", name: str, lora: Lora) -> None:
    """Give a layer's LoRA the matrices and the scale of one of a file."""
    import torch

    layer.scaling[name] = lora.alpha / lora.rank
    with torch.no_grad():
        for matrix, values in ((layer.lora_A[name], lora.down), (layer.lora_B[name], lora.up)):
            matrix.weight.copy_(values.reshape(matrix.weight.shape))


def _load_part(model: "torch.nn.Module", loras: Mapping[str, Lora], name: str) -> None:

    _inject(model, name, {module: lora.rank for module, lora in loras.items()}, trainable=False)
    for module, layer in _layers(model, name):
        _fill(layer, name, loras[module])


def base_shapes(model: "torch.nn.Module") -> dict[str, tuple[int, ...]]:
    """Weight shape (out, in, ...) of every linear layer and convolution, by module name, whatever LoRAs are on it."""
    import torch
    from peft.tuners.lora import LoraLayer

    shapes = {}
    inside: tuple[str, ...] = ()
    for module, layer in model.named_modules():
        if module.startswith(inside) and inside:
            continue
        if isinstance(layer, LoraLayer):
            inside = (*inside, module + ".")
            layer = layer.base_layer
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            shapes[module] = tuple(layer.weight.shape)
    return shapes


def _joined(part: str, module: str) -> str:
    return f"{part}.{module}" if part else module


def _inject(model: "torch.nn.Module", name: str, ranks: dict[str, int], trainable: bool) -> None:
    """Wrap layers by peft with empty matrices of their ranks, and hook the strength in."""
    import re
    import warnings

    import torch
    from peft import LoraConfig, inject_adapter_in_model

    strengths = _strengths(model)
    if name in strengths:
        raise DDMError(f"There is already a LoRA called {name!r} on this model. Remove it first.")
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    # peft before 0.15 looks names up as they are, later ones match them as patterns.
    pattern = {f"^{re.escape(module)}": rank for module, rank in others.items()} | others
    config = LoraConfig(
        r=usual,
        lora_alpha=usual,
        rank_pattern=pattern,
        alpha_pattern=pattern,
        target_modules=f"({'|'.join(re.escape(module) for module in ranks)})",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft warns of several adapters on one model, which are what we want.
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(config, model, name)
    if hasattr(model, "lora_layers"):
        del model.lora_layers  # there may be more of them now
    strengths[name] = Strength(trainable=trainable)
    for _, layer in _layers(model, name):
        layer.lora_A[name].float().register_forward_hook(strengths[name])
        layer.lora_B[name].float()
        # Under autocast the matrices follow their input: to bring it to float32 first costs a tenth of a step.
        layer.cast_input_dtype_enabled = False
        if hasattr(layer, "lora_variant"):  # older ones, such as Forge's, add it in their own way
            layer.lora_variant[name] = Added
        if layer.get_base_layer().weight.dtype != torch.float32:
            for matrix in (layer.lora_A[name], layer.lora_B[name]):
                matrix.__class__ = _following(type(matrix))
    _refresh(model)


@cache
def _following(kind: type) -> type:
    """Linear layers or convolutions whose weights are kept in float32, and which compute in the precision of the input.

    They are a class, as what compiled code knows of a single object would be compiled for each anew.
    """
    import torch

    class Linear(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weight.to(x.dtype))

    class Conv2d(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(x, self.weight.to(x.dtype), None)

    return {torch.nn.Linear: Linear, torch.nn.Conv2d: Conv2d}[kind]


class Added:
    """How a LoRA is put on a layer's output, for peft: as part of the product with its up matrix.

    peft's own way makes the product, scales it and adds it, each time through memory, there and back: on a CPU a tenth
    of a step's time.
    """

    @staticmethod
    def forward(
        module: "LoraLayer", active_adapter: str, x: "torch.Tensor", result: "torch.Tensor", **_: Any
    ) -> "torch.Tensor":
        """The layer's output [B, ..., C] or [B, C, H, W] with the LoRA's added."""
        import torch

        inner = module.lora_A[active_adapter](x)
        up = module.lora_B[active_adapter].weight.flatten(1).to(inner.dtype)
        scaling = module.scaling[active_adapter]
        image = result.ndim == 4
        if image and not result.is_contiguous(memory_format=torch.channels_last):
            up = up.expand(len(result), *up.shape)
            return torch.baddbmm(result.flatten(2), up, inner.flatten(2), alpha=scaling).view(result.shape)
        if image:
            result, inner = result.permute(0, 2, 3, 1), inner.permute(0, 2, 3, 1)
        if result.is_cuda:  # there addmm copies the result first, which takes longer than to add to it
            added = result + torch.nn.functional.linear(inner if scaling == 1 else inner * scaling, up)
            return added.permute(0, 3, 1, 2) if image else added
        rows = torch.addmm(result.reshape(-1, len(up)), inner.reshape(-1, up.shape[1]), up.t(), alpha=scaling)
        added = rows.view(result.shape)
        return added.permute(0, 3, 1, 2) if image else added


def _refresh(model: "torch.nn.Module") -> None:
    """Tell peft which LoRAs act; its own switch also touches requires_grad, which is put right again."""
    strengths = _strengths(model)
    for _, layer in _layers(model):
        layer.set_adapter([name for name, strength in strengths.items() if strength.active])
    for name, strength in strengths.items():
        for parameter in lora_parameters(model, name):
            parameter.requires_grad_(strength.trainable)


def _layers(model: "torch.nn.Module", name: str | None = None) -> Iterator[tuple[str, "LoraLayer"]]:
    """The layers that peft has wrapped, those with a LoRA of this name; looked for once, as a step asks for them."""
    from peft.tuners.lora import LoraLayer

    if not hasattr(model, "lora_layers"):
        model.lora_layers = [pair for pair in model.named_modules() if isinstance(pair[1], LoraLayer)]
    for module, layer in model.lora_layers:
        if name is None or name in layer.lora_A:
            yield module, layer


def _strengths(model: "torch.nn.Module") -> dict[str, Strength]:
    if not hasattr(model, "lora_strengths"):
        model.lora_strengths = {}
    return model.lora_strengths
