"""ComfyUI-DDM: fair adapters for diffusion models.

The repository root is the package: ComfyUI loads it by path, pip installs it as `comfyui_ddm`.
Nothing heavy is imported here.
"""

__version__ = "0.1.0"
