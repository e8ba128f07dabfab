"""ComfyUI nodes: thin faces over debias/ and training/. Imported by ComfyUI only (see `comfy_entrypoint`)."""
