"""Whole reports and their images, as pages of the host's server."""

import mimetypes
import uuid
from pathlib import Path
from typing import Any

_files: dict[str, Path] = {}
ROUTE = "/ddm/page/"


def link(file: Path) -> str:
    """An address for a file that this project wrote; nobody can guess it."""
    known = next((token for token, path in _files.items() if path == file), None)
    token = known or uuid.uuid4().hex
    _files[token] = file
    return f".{ROUTE}{token}"


def serve(app: Any) -> None:
    """Let the host's server (a FastAPI) answer these addresses."""
    from fastapi.responses import FileResponse, HTMLResponse

    def page(token: str):
        file = _files.get(token)
        if file is None or not file.is_file():
            return HTMLResponse("This page is not there any more. Make the report again.", 404)
        kind = mimetypes.guess_type(file.name)[0]
        return FileResponse(file, media_type=kind, headers={"Content-Security-Policy": "sandbox allow-popups"})

    app.add_api_route(ROUTE + "{token}", page, methods=["GET"], response_model=None)
