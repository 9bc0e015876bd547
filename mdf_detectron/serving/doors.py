"""Guard the web page: whose requests are answered, how much one may hold, and that uploads outlive no page."""

import hmac
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mdf_detectron.errors import UserError
from mdf_detectron.locks import LOCK_FILE_NAME, FolderLock

COOKIE, UPLOADS = "mdf_token", "mdf_page_"


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is this machine's alone."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _name(netloc: str) -> str:
    with suppress(ValueError):
        return urlsplit(f"//{netloc}").hostname or ""  # in lower case
    return ""


@dataclass
class Door:
    """ASGI middleware that answers requests that are meant for this page, and refuses others in one line.

    A web page from elsewhere can make its visitor's browser ask this one: under a name of its own that it points to
    this machine (DNS rebinding: the ``Host`` is foreign), or across origins (the ``Origin`` is foreign).

    Attributes:
        names: host names of this machine, besides its addresses.
        front: host names of servers that stand before the page.
        token: only who has opened the page with ``?token=`` is answered; empty: everybody is.
        most_bytes: of a request.
    """

    app: Callable[..., Awaitable]
    names: Collection[str]
    front: Collection[str]
    token: str
    most_bytes: int

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        status, text, more = (0, "", {}) if scope["type"] == "lifespan" else self._refusal(scope)
        if not status:
            return await self.app(scope, receive, send)
        headers = [(key.encode(), value.encode()) for key, value in {"content-type": "text/plain", **more}.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    def _refusal(self, scope: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        """Return status, text and headers of a refusal; status 0 for a request to answer."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get("host", "")
        if not (_is_address(_name(host)) or _name(host) in {*self.names, *self.front}):
            return 403, "This page is not known by that name; mdf serve --name tells it another.", {}
        asking = headers.get("origin", f"//{host}").partition("//")[2]
        if asking != host and _name(asking) not in self.front:
            return 403, "Requests of other pages are refused.", {}
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit() or int(length) > self.most_bytes:
            return 413, f"A request may hold {self.most_bytes / 2**20:g} MB.", {}
        if not self.token or scope["path"].endswith("/startup-events"):  # Gradio's call to itself
            return 0, "", {}
        if self._is_token(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]):
            return 303, "", {"location": "./", "set-cookie": f"{COOKIE}={self.token}; HttpOnly; SameSite=Lax; Path=/"}
        cookies = (one.strip().partition("=") for one in headers.get("cookie", "").split(";"))
        if any(name == COOKIE and self._is_token(value) for name, _, value in cookies):
            return 0, "", {}
        return 401, "Open the address with its token, which mdf serve printed.", {}

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())


@contextmanager
def uploads_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """Make a folder for uploads, in memory where possible; remove it at the end, and what killed pages left."""
    parent = Path(parent or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=UPLOADS, dir=parent))
    with FolderLock(folder):
        for left in [lock.parent for lock in parent.glob(f"{UPLOADS}*/{LOCK_FILE_NAME}")]:
            with suppress(OSError, UserError):  # a page that runs holds its lock
                if left != folder and left.lstat().st_uid == folder.stat().st_uid:  # never through another's link
                    with FolderLock(left):
                        shutil.rmtree(left)
        try:
            yield folder / "uploads"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
