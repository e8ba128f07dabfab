"""The imbalanced sets of the benchmarks; the demo draws the same ones, without labels."""

from comfyui_ddm.training.embedded.imbalance import BOTH_WAYS, IMBALANCES, LIGHT, OCCUPATIONS, draw_imbalanced

__all__ = ["BOTH_WAYS", "IMBALANCES", "LIGHT", "OCCUPATIONS", "draw_imbalanced"]
