"""ComfyUI-DDM: fair adapters for diffusion models.

The repository root is the package: ComfyUI loads it by path, pip installs it as `comfyui_ddm`.
Nothing heavy is imported here.
"""

__version__ = "0.1.0"

# ComfyUI serves this folder to the browser: the front-end extension and the nodes' help pages.
WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's door: the extension with all nodes."""
    from .nodes.extension import DDMExtension

    return DDMExtension()
