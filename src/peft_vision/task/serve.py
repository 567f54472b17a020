"""This module serves the adapters of finished runs over HTTP, all on one backbone."""

import logging
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from peft_vision.core.config import ConfigError, component
from peft_vision.core.distributed import world
from peft_vision.core.output import one_line, say
from peft_vision.core.stopping import Stopped
from peft_vision.runs.saved import open_several
from peft_vision.serve.pictures import ServedAdapter, Service
from peft_vision.task.base import Task

_NEEDED = ("fastapi", "uvicorn")
_GRACE_SECONDS = 3  # for answers that are on their way when the server is told to end
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_log = logging.getLogger("peft_vision")


@component
class Serve(Task):
    """A task that answers pictures over HTTP until it is stopped. `host`, `port`: where it listens; port 0: a free one.
    `hosts`: the names by which it may be called besides those of this machine. `max_mib`: the largest body;
    `max_megapixels`: the largest picture; `max_requests`: how many may wait at the same time; `body_seconds`: within
    which a body has to arrive. `batch_size`, `wait_ms`: how many images are computed at once, and how long the first of
    them waits for others. `resize`: as in data; None: each run's own."""

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    hosts: tuple[str, ...]
    max_mib: PositiveFloat
    max_megapixels: PositiveFloat
    max_requests: PositiveInt
    body_seconds: PositiveFloat
    batch_size: PositiveInt
    wait_ms: Annotated[float, Field(ge=0)]
    resize: Literal["squash", "crop"] | None

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """Listen, open the runs, and answer until a signal comes."""
        if missing := [name for name in _NEEDED if find_spec(name) is None]:
            raise ConfigError(f"task=serve needs {', '.join(missing)}: pip install 'peft-vision[serve]'")
        folders = named_runs(config["runs"])
        with self._listening() as listener, world(config["device"]) as here:
            if self.host not in _LOOPBACK:
                _log.warning("task.host=%s: whoever reaches this machine can ask it, without a password", self.host)
            adapters, opened = open_several(folders, checkpoint=config["checkpoint"], device=here.device)
            served = {name: ServedAdapter.of(name, saved, resize=self.resize) for name, saved in opened.items()}
            backbone = next(iter(opened.values())).recipe.backbone["name"]
            for name, reason in adapters.apart.items():
                _log.info("apart     %s: %s", one_line(name), reason)
            self._answer(Service(adapters, served, backbone), listener)

    def _listening(self) -> socket.socket:
        """Return a socket that is bound, so that a port in use is known before any weights are loaded."""
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(f"task.host: {one_line(self.host)}: {error.strerror or error}") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
        except OSError as error:
            listener.close()
            raise ConfigError(
                f"task.port: cannot listen on port {self.port} of {one_line(self.host)} ({error.strerror}); "
                "task.port=0 takes a free one"
            ) from error
        return listener

    def _answer(self, service: Service, listener: socket.socket) -> None:
        """Answer requests at the socket until a signal comes."""
        import uvicorn

        from peft_vision.serve.app import Limits, application, host_names

        limits = Limits(
            most_bytes=int(self.max_mib * 2**20),
            most_pixels=int(self.max_megapixels * 1e6),
            most_requests=self.max_requests,
            seconds=self.body_seconds,
            hosts=host_names(self.host, self.hosts),
            batch_size=self.batch_size,
            wait_seconds=self.wait_ms / 1000,
        )
        shown = f"[{self.host}]" if ":" in self.host else self.host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        count = f"{len(service.served)} {'adapter' if len(service.served) == 1 else 'adapters'}"

        def ready() -> None:
            say(f"serving   {address}   {count} on {service.backbone}; Ctrl-C ends it")
            sys.stdout.flush()  # a pipe would keep it until it is full

        app = application(service, limits, ready)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        listener.listen()  # so that who reads the address is not refused
        with suppress(Stopped, KeyboardInterrupt):  # the signal, which the server has heard and passes on
            server.run(sockets=[listener])
        say("stopped")


def named_runs(runs: Any) -> dict[str, str]:
    """Return the folders of runs by the names of their adapters: those given, or the names of the folders. Raise
    ConfigError where there are none, or two of one name."""
    if isinstance(runs, Mapping) and runs:
        return {str(name): str(folder) for name, folder in runs.items()}
    given = runs if isinstance(runs, list) else [] if runs is None or isinstance(runs, Mapping) else [runs]
    folders = [str(folder) for folder in given]
    if not folders:
        raise ConfigError("runs: names no run; write runs=[FOLDER,FOLDER] or 'runs={pets: FOLDER}'")
    names = [Path(folder).expanduser().absolute().name for folder in folders]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"runs: two folders are called {one_line(twice[0])}; write 'runs={{one: FOLDER, other: FOLDER}}'"
        )
    return dict(zip(names, folders, strict=True))
