"""This module gathers requests that arrive within a few milliseconds of each other into one batch.

The first request opens a batch; it is computed when it is full, or when the deadline that began with the first request
has passed. Meanwhile further requests gather for the next one. One thread computes.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

import torch
from torch import Tensor

Answer = Callable[[Tensor, list[str]], list[Tensor]]


@dataclass(frozen=True)
class ImageRequest:
    """An image, uint8 (C, H, W), the name of its adapter, and where its predictions go."""

    image: Tensor
    name: str
    result: asyncio.Future[Tensor]


class Batches:
    """Batches of at most `size` images, each computed by `answer` at most `seconds` after the first of its images came,
    if none is being computed then. `computed`, `images`: the numbers of batches and of images so far."""

    def __init__(self, answer: Answer, *, size: int, seconds: float) -> None:
        self._answer = answer
        self._size = size
        self._seconds = seconds
        self._jobs: SimpleQueue[tuple[Future[list[Tensor]], Tensor, list[str]]] = SimpleQueue()
        self._waiting: asyncio.Queue[ImageRequest] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self.computed = 0
        self.images = 0

    async def __aenter__(self) -> "Batches":
        Thread(target=self._compute, daemon=True).start()  # a batch may take long: it does not keep the process alive
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        with suppress(asyncio.CancelledError):
            await self._worker

    async def predictions(self, image: Tensor, name: str) -> Tensor:
        """Return the predictions (C,) of an image by the adapter `name`."""
        result = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(ImageRequest(image, name, result))
        return await result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            deadline = loop.time() + self._seconds
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while len(batch) < self._size:
                        batch.append(await self._waiting.get())
            by_size: dict[torch.Size, list[ImageRequest]] = {}
            for request in batch:
                if not request.result.done():  # a client that has gone needs no answer
                    by_size.setdefault(request.image.shape, []).append(request)
            for requests in by_size.values():
                await self._computed(requests)

    async def _computed(self, requests: list[ImageRequest]) -> None:
        """Compute a batch of images of one size and give each request its predictions, or the error."""
        self.computed, self.images = self.computed + 1, self.images + len(requests)
        job: Future[list[Tensor]] = Future()
        try:
            images = torch.stack([request.image for request in requests])
            self._jobs.put((job, images, [request.name for request in requests]))
            found = await asyncio.wrap_future(job)
        except Exception as error:
            for request in requests:
                if not request.result.done():
                    request.result.set_exception(error)
            return
        for request, predicted in zip(requests, found, strict=True):
            if not request.result.done():
                request.result.set_result(predicted)

    def _compute(self) -> None:
        """Compute batches, one after the other, for as long as the process lives."""
        while True:
            job, images, names = self._jobs.get()
            try:
                job.set_result(self._answer(images, names))
            except Exception as error:
                with suppress(InvalidStateError):  # cancelled: the server ends
                    job.set_exception(error)
