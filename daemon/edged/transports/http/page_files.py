"""The web page for browsers: `/` where HTML is asked for, and the files it loads.

They are given without the API key, because a browser cannot send one before it has the page. They are the
same on every box and hold nothing of it; what they show they ask from the API, with the key that the person
at the browser types in. All other guards stand before them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    # Nothing from elsewhere, nothing inline, no frame around it: what a model says can only ever be text.
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "vary": "accept",
}


class PageFiles:
    """Answers for the page; what is not part of it goes on to ``app``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        names = (path.name for path in FOLDER.iterdir() if path.name != INDEX)
        self._files = {"/": INDEX} | {f"/page/{name}": name for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = self._files.get(scope["path"]) if scope["method"] in {"GET", "HEAD"} else None
        if name is None or (name == INDEX and not _wants_html(scope)):
            await self._app(scope, receive, send)
            return
        path = FOLDER / name
        answer = Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=HEADERS)
        await answer(scope, receive, send)


def _wants_html(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/html" in value.lower() for name, value in scope["headers"])
