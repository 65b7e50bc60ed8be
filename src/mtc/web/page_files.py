"""The style and the icon that all pages share."""

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from mtc.web.frame import name_endpoint
from mtc.web.objects import not_found

_TYPES = {"mtc.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}


class PageFiles:
    """Both files, read once. style: changes with the style, for URLs that caches keep."""

    def __init__(self) -> None:
        """Read them."""
        folder = files("mtc.web") / "static"
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}
        self.style = hashlib.sha256(self._files["mtc.css"]).hexdigest()[:12]

    async def answer(self, request: Request) -> Response:
        """Answer with the file that the path parameter `name` names. Raises HTTPException (404)."""
        name_endpoint(request, "static")
        name = request.path_params["name"]
        if name not in _TYPES:
            raise not_found()
        headers = {"Cache-Control": "public, max-age=86400", "Content-Type": _TYPES[name]}
        return Response(self._files[name], headers=headers)
