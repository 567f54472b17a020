"""This module answers over HTTP: what is served, and predictions of a picture by one adapter or several.

    GET  /                         a page to drop a picture on
    GET  /health                   {"status": "ok", ...}
    GET  /adapters                 the adapters with their classes
    POST /predict?adapter=A&top=5  the body is the picture itself; adapter= may be repeated

An error is JSON, {"error": one line}, with the status that says whose fault it is. Nothing is fetched for a client: a
URL is refused.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor

from peft_vision import __version__
from peft_vision.core.output import one_line
from peft_vision.serve.batches import Batches
from peft_vision.serve.pictures import Refused, ServedAdapter, Service, image_of

_PAGE = Path(__file__).with_name("page.html")
_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]", "::1")
_READERS = 2  # threads that decode pictures
_MOST_NAMES = 64  # adapters that one request names
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Limits:
    """The bounds on what a server takes. `most_bytes`: of a body; `most_pixels`: of a picture; `most_requests`: that
    are answered or wait at the same time; `seconds`: within which a body has to arrive; `hosts`: the names by which the
    server may be called (empty: any); `batch_size`, `wait_seconds`: as for `Batches`."""

    most_bytes: int
    most_pixels: int
    most_requests: int
    seconds: float
    hosts: frozenset[str]
    batch_size: int
    wait_seconds: float


def host_names(host: str, named: tuple[str, ...]) -> frozenset[str]:
    """Return the names by which a server bound to `host` may be called: where only this machine reaches it, those of
    this machine, so that no page of the web can reach it by a name of its own; otherwise any, unless some are named,
    which then are further ones."""
    if host not in _OWN_NAMES and not named:
        return frozenset()
    return frozenset(name.lower() for name in (*_OWN_NAMES, host, f"[{host}]", *named))


def application(service: Service, limits: Limits, ready: Callable[[], None] = lambda: None) -> FastAPI:
    """Return the ASGI application; `ready` is called when it begins to answer."""
    answers = _Answers(service, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with answers.batches:
            ready()
            yield
        answers.readers.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="peft-vision", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    page, policy = _page()

    @app.get("/", response_class=HTMLResponse)
    async def show_page() -> Response:
        """Return the page to drop a picture on."""
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health() -> dict:
        """Return that the server answers, and what it has computed so far."""
        done = {"batches": answers.batches.computed, "images": answers.batches.images}
        return {"status": "ok", "version": __version__, "adapters": len(service.served), **done}

    @app.get("/adapters")
    async def adapters() -> dict:
        """Return the adapters, and the name of their backbone."""
        return {"backbone": service.backbone, "adapters": [served.described() for served in service.served.values()]}

    @app.post("/predict")
    async def predict(
        request: Request,
        adapter: Annotated[list[str] | None, Query(max_length=_MOST_NAMES)] = None,
        top: Annotated[int, Query(ge=1, le=1000)] = 5,
    ) -> dict:
        """Return the answers of the adapters named, by default of all, for the picture in the body."""
        return {"answers": await answers.of(request, adapter, top)}

    _guard(app, limits)
    return app


class _Answers:
    """The answers to `predict`: the body is read, the picture is decoded once for each geometry, and each adapter's
    image goes to the batches."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self.service = service
        self.limits = limits
        self.batches = Batches(service.predictions, size=limits.batch_size, seconds=limits.wait_seconds)
        self.readers = ThreadPoolExecutor(_READERS, thread_name_prefix="pictures")
        self.present = 0

    async def of(self, request: Request, names: list[str] | None, top: int) -> list[dict]:
        """Return the answer of each adapter named, by default of all, with the `top` likeliest classes. Raise Refused
        for a request that cannot be answered."""
        chosen = [self.service.of(name) for name in dict.fromkeys(names or self.service.served)]
        if self.present >= self.limits.most_requests:
            raise Refused(503, "too many requests at once; try again in a moment")
        self.present += 1
        try:
            content = await self._body(request)
            images = await self._images(content, chosen)
            found = await asyncio.gather(
                *(self.batches.predictions(image, served.name) for image, served in zip(images, chosen, strict=True))
            )
        finally:
            self.present -= 1
        return [served.answer(predicted, top=top) for served, predicted in zip(chosen, found, strict=True)]

    async def _body(self, request: Request) -> bytes:
        """Return the body of a request, of which no more is read than is taken."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("application/json", "text/plain", "multipart/form-data"):
            raise Refused(415, f"the body should be the picture itself, not {kind}; no URL is fetched for a client")
        said = request.headers.get("content-length", "")
        too_large = Refused(413, f"the body is larger than {self.limits.most_bytes:,} bytes")
        if said.isdecimal() and int(said) > self.limits.most_bytes:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > self.limits.most_bytes:
                        raise too_large
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {self.limits.seconds:g} seconds") from error
        except ClientDisconnect as error:
            raise Refused(400, "the client left before its body had arrived") from error
        if not content:
            raise Refused(400, "the body is empty; it should be a picture")
        return bytes(content)

    async def _images(self, content: bytes, chosen: list[ServedAdapter]) -> list[Tensor]:
        """Return the image of each adapter, decoded in other threads, once for all of the same geometry."""
        loop, found = asyncio.get_running_loop(), {}
        for geometry in dict.fromkeys(served.geometry for served in chosen):
            found[geometry] = await loop.run_in_executor(
                self.readers, lambda geometry=geometry: image_of(content, geometry, most_pixels=self.limits.most_pixels)
            )
        return [found[served.geometry] for served in chosen]


def _guard(app: FastAPI, limits: Limits) -> None:
    """Answer every error by one line of JSON, and refuse requests that a page of another site makes."""

    @app.middleware("http")
    async def check(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        host = re.sub(r":\d+$", "", request.headers.get("host", "")).lower()
        if limits.hosts and host not in limits.hosts:
            return _error(421, f"this server is not called {one_line(host, longest=100)!r}; task.hosts names others")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method != "GET":
            return _error(403, "a page of another site may not ask this server")
        response = await call(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _error(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        what = {404: "no such address", 405: f"this address takes no {request.method}"}
        return _error(error.status_code, what.get(error.status_code, one_line(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _error(400, one_line(f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _error(500, "the server failed at this request; its own output says why")


def _error(status: int, message: str) -> Response:
    headers = {**_HEADERS, "Retry-After": "1"} if status == 503 else _HEADERS
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def _page() -> tuple[str, str]:
    """Return the page, and the policy by which a browser runs its script and no other, and loads nothing."""
    page = _PAGE.read_text(encoding="utf-8")
    hashes = {}
    for tag in ("script", "style"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", page, flags=re.S)[1]
        digest = hashlib.sha256(inside.encode()).digest()
        hashes[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    allowed = [f"{tag}-src {found}" for tag, found in hashes.items()]
    rest = ["img-src blob:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return page, "; ".join(["default-src 'none'", *allowed, *rest])
