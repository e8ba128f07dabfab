"""Names of a LoRA's layers: diffusers' on the inside, LDM's in the files of SDXL, as kohya's trainer writes them.

Of SD 1.x and 2.x kohya trains diffusers' U-Net, of SDXL one that is built as Stability's: so every tool looks for
`lora_unet_down_blocks_…` there and for `lora_unet_input_blocks_…` here. Both kinds are mapped without a loss for U-Nets
with two residual blocks per level, which all three families have. The first of SDXL's two text encoders is called
`lora_te1_…` there, a single one `lora_te_…`.
"""

import re

PREFIX = "lora_unet_"
TEXT, FIRST_TEXT = "lora_te_", "lora_te1_"
RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
    "add_embedding_linear_1": "label_emb_0_0",
    "add_embedding_linear_2": "label_emb_0_2",
}
MIDDLE = {"resnets_0": "0", "attentions_0": "1", "resnets_1": "2"}
DIFFUSERS = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_(.+)")
DIFFUSERS_MIDDLE = re.compile(r"mid_block_(resnets_0|attentions_0|resnets_1)_(.+)")
LDM = re.compile(r"(input|output)_blocks_(\d+)_(\d+)_(.+)")
LDM_MIDDLE = re.compile(r"middle_block_([012])_(.+)")


def to_ldm(name: str) -> str:
    """SDXL's name of a layer that has kohya's name of a diffusers module; other names stay as they are."""
    if name.startswith(TEXT):
        return FIRST_TEXT + name.removeprefix(TEXT)
    layer = name.removeprefix(PREFIX)
    if layer == name:
        return name
    if layer in OUTSIDE:
        return PREFIX + OUTSIDE[layer]
    if found := DIFFUSERS_MIDDLE.fullmatch(layer):
        part, rest = found.groups()
        return f"{PREFIX}middle_block_{MIDDLE[part]}_{RESNET.get(rest, rest)}"
    found = DIFFUSERS.fullmatch(layer)
    if not found:
        return name
    side, level, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"{PREFIX}input_blocks_{3 * level + 3}_0_op"
    if kind == "upsamplers":
        return f"{PREFIX}output_blocks_{3 * level + 2}_2_conv"
    block = f"input_blocks_{3 * level + number + 1}" if side == "down" else f"output_blocks_{3 * level + number}"
    return f"{PREFIX}{block}_{'0' if kind == 'resnets' else '1'}_{RESNET.get(rest, rest)}"


def from_ldm(name: str) -> str:
    """Undo `to_ldm`; other names stay as they are."""
    if name.startswith(FIRST_TEXT):
        return TEXT + name.removeprefix(FIRST_TEXT)
    layer = name.removeprefix(PREFIX)
    if layer == name:
        return name
    for ours, theirs in OUTSIDE.items():
        if layer == theirs:
            return PREFIX + ours
    resnet = {theirs: ours for ours, theirs in RESNET.items()}
    if found := LDM_MIDDLE.fullmatch(layer):
        part = next(ours for ours, theirs in MIDDLE.items() if theirs == found[1])
        return f"{PREFIX}mid_block_{part}_{resnet.get(found[2], found[2])}"
    found = LDM.fullmatch(layer)
    if not found:
        return name
    side, block, place, rest = found[1], int(found[2]), found[3], found[4]
    level, number = divmod(block - (side == "input"), 3)
    blocks = f"{PREFIX}{'down' if side == 'input' else 'up'}_blocks_{level}"
    if rest == "op":
        return f"{blocks}_downsamplers_0_conv"
    if rest == "conv":
        return f"{blocks}_upsamplers_0_conv"
    return f"{blocks}_{'resnets' if place == '0' else 'attentions'}_{number}_{resnet.get(rest, rest)}"
