"""From a request whose lease holds a model to its answer: preprocess, queue and run, postprocess, observe."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import ArrayLike
from pydantic import BaseModel

from penstock.engine.admission import Lease
from penstock.engine.batching.outcome import Batched, Preempted
from penstock.engine.cache import PredictionCache
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Inference, Observation, Prediction
from penstock.engine.tasks.ranges import Flag
from penstock.engine.tasks.request_copies import pulled
from penstock.engine.tasks.task_runner import SLOW_S, TaskRunner
from penstock.engine.tasks.task_thread_pool import TaskThreadPool
from penstock.errors import DeadlineExceeded, InferenceError, InvalidInput, PenstockError
from penstock.tasks.base import TimedResponse
from penstock.tasks.responses import LARGE_VALUES, ResponseText, is_large, json_pieces
from penstock.tensors import Arrays

T = TypeVar("T")

_LATE = "the deadline passed before the response was made"


class Pipeline:
    """Answers admitted requests. The lease observes errors raised here; successes are observed here."""

    def __init__(
        self, cache: PredictionCache | None, observe: Callable[[Observation], None], *, concurrency: int
    ) -> None:
        """`concurrency` is the maximum number of items of one batch request in flight."""
        self._cache = cache
        self._observe = observe
        self._concurrency = concurrency

    async def predict(
        self, lease: Lease, request: Any, *, in_thread: bool = False, size: int = 0, write: bool = False
    ) -> Prediction:
        """The prediction for a request whose lease holds its model. The lease observes what is raised.

        `in_thread`: the request is large. `size` is that of its body in bytes, where it has one: the times of a task
        are kept by size. `write`: begin the text of a large response.
        """
        runner = lease.runner
        moved = runner.moved
        on_loop = runner.inline and not in_thread and not (moved and (0 in moved or size.bit_length() in moved))
        began, worked = time.monotonic(), 0.0
        if on_loop:
            request, arrays, rows = prepare(runner, request)
        else:
            preparation = functools.partial(_timed, prepare, runner, request)
            weight = _weight(runner, request)
            (request, arrays, rows), worked = await runner.pool.run(preparation, lease.deadline, weight)
        prepared = time.monotonic()
        flags: tuple[Flag, ...] = ()
        if runner.watch is None and self._cache is None and not lease.wait_for_capacity:  # `_run`, without the call
            batched = await lease.model.batcher.submit(arrays, lease.deadline, lease.priority, lease.flow)
        else:
            batched, flags = await self._run(lease, arrays, None if on_loop else runner.pool)
        answered = time.monotonic()
        text: ResponseText | None = None
        large = _are_large(batched.outputs)
        if on_loop and not large:
            response = finish(runner, batched.outputs, request)
            worked = prepared - began + time.monotonic() - answered
        else:
            finishing = functools.partial(_timed, _finish_large, runner, batched.outputs, request)
            (response, text), more = await runner.pool.run(finishing, lease.deadline, admitted=True)
            worked += more
        if (worked > SLOW_S or runner.means) and runner.inline and not (large or in_thread):
            runner.measure(size, worked)
        seen = _answered(lease, batched, arrays, rows, flags, prepared, answered)
        if isinstance(response, TimedResponse):
            _stamp(response, seen)
        if text is not None and write:
            await runner.pool.run(text.start, lease.deadline, admitted=True)
        if time.monotonic() > lease.deadline:
            raise DeadlineExceeded(_LATE)
        self._observe(seen)
        times = (seen.pre_ms, seen.queue_ms, seen.run_ms, seen.post_ms, seen.total_ms)
        return Prediction(response, seen.model, seen.version, seen.variant, seen.batch_rows, *times, flags, text)

    async def predict_batch(
        self, lease: Lease, requests: Iterable[Any], *, size: int = 0, places: Sequence[int] | None = None
    ) -> list[Prediction | PenstockError]:
        """One result per request, in order, for a batch whose lease holds its model.

        `size` is that of an item. `places` are those of the requests in the batch that the client has sent, where some
        of it was refused before.
        """
        waiting = enumerate(pulled(requests))
        results: dict[int, Prediction | PenstockError] = {}
        yielded = time.monotonic()

        async def work() -> None:
            nonlocal yielded
            for index, request in waiting:
                try:
                    with lease.item(index if places is None else places[index]) as item:
                        item.share(lease)
                        results[index] = await self.predict(item, request, size=size)
                except PenstockError as error:
                    results[index] = error
                if time.monotonic() - yielded > SLOW_S:  # items that fail at once never wait
                    await asyncio.sleep(0)
                    yielded = time.monotonic()

        await asyncio.gather(*(work() for _ in range(self._concurrency)))
        return [results[index] for index in range(len(results))]

    async def infer(self, lease: Lease, arrays: Mapping[str, ArrayLike], outputs: Iterable[str] | None) -> Inference:
        """The outputs of the model by name. Raises InvalidInput naming the tensor."""
        names = _wanted(lease.model, outputs)
        if not isinstance(arrays, Mapping):
            raise InvalidInput("inputs: give a mapping of the inputs' names to arrays", field="inputs")
        checked, rows = lease.model.signature.validate(arrays)
        if not rows:
            first = next(iter(checked))
            raise InvalidInput(f"{first}: give at least 1 row", field=first)
        prepared = time.monotonic()
        batched, flags = await self._run(lease, checked)
        found = batched.outputs if names is None else {name: batched.outputs[name] for name in names}
        seen = _answered(lease, batched, checked, rows, flags, prepared, time.monotonic())
        if time.monotonic() > lease.deadline:
            raise DeadlineExceeded(_LATE)
        self._observe(seen)
        times = (seen.pre_ms, seen.queue_ms, seen.run_ms, seen.post_ms, seen.total_ms)
        return Inference(found, seen.model, seen.version, seen.variant, seen.batch_rows, *times, flags)

    async def _run(
        self, lease: Lease, arrays: Arrays, pool: TaskThreadPool | None = None
    ) -> tuple[Batched[Arrays], tuple[Flag, ...]]:
        """The outputs for validated inputs, and the tensors outside their expected range.

        `pool` makes the cache's digest of large inputs in a thread.
        """
        watch = lease.runner.watch
        flags = () if watch is None else await _watched(watch.inputs, arrays, lease)
        if self._cache is None and not lease.wait_for_capacity:
            batched = await lease.model.batcher.submit(arrays, lease.deadline, lease.priority, lease.flow)
        else:
            batched = await self._run_in_turn(lease, arrays, pool)
        if watch is not None:
            flags += await _watched(watch.outputs, batched.outputs, lease)
        return batched, flags

    async def _run_in_turn(self, lease: Lease, arrays: Arrays, pool: TaskThreadPool | None) -> Batched[Arrays]:
        """The outputs from the cache or from the batcher, after waiting for room if the lease allows it."""
        while True:
            if lease.wait_for_capacity:
                await lease.model.batcher.wait_for_capacity(arrays, lease.deadline, lease.priority, lease.flow)
            try:
                return await self._run_cached(lease, arrays, pool)
            except Preempted:
                if not lease.wait_for_capacity:
                    raise

    async def _run_cached(self, lease: Lease, arrays: Arrays, pool: TaskThreadPool | None) -> Batched[Arrays]:
        model, cache, deadline = lease.model, self._cache, lease.deadline
        submit = functools.partial(model.batcher.submit, arrays, deadline, lease.priority, lease.flow)
        if cache is None or not model.cacheable:
            return await submit()
        identity = model.cache_identity
        if not model.at_close:
            model.at_close.append(functools.partial(cache.forget, identity))
        digest = functools.partial(cache.key, identity, arrays)
        key = digest() if pool is None else await pool.run(digest, deadline, admitted=True)
        return await cache.outputs(identity, key, deadline, submit)


def _answered(
    lease: Lease,
    batched: Batched[Arrays],
    arrays: Arrays,
    rows: int,
    flags: tuple[Flag, ...],
    prepared: float,
    answered: float,
) -> Observation:
    """The record of a request that was answered; its inputs were ready at `prepared`, its outputs at `answered`."""
    model, started, ended = lease.model, lease.started, time.monotonic()
    return Observation(
        model=model.name,
        version=model.version,
        variant=model.variant,
        outcome="ok",
        request_id=lease.request_id,
        task=lease.runner.task.kind,
        protocol=lease.protocol,
        key=lease.key,
        route=lease.route,
        arm=lease.arm,
        item=lease.position,
        rows=rows,
        batch_rows=batched.batch_rows,
        pre_ms=(prepared - started) * 1e3,
        queue_ms=batched.queue_s * 1e3,
        run_ms=batched.run_s * 1e3,
        post_ms=(ended - answered) * 1e3,
        total_ms=(ended - started) * 1e3,
        inputs=arrays,
        outputs=batched.outputs,
        flags=flags,
    )


def prepare(runner: TaskRunner, request: Any) -> tuple[Any, Arrays, int]:
    """The task's request, its arrays and their rows. Raises InvalidInput; for a bug in a task InferenceError."""
    task = runner.task
    try:
        if not isinstance(request, task.Request):
            request = task.coerce(request)
        made = task.preprocess(request)
    except (PenstockError, KeyboardInterrupt):
        raise
    except BaseException as error:  # exit() on an event loop would end the server
        raise runner.failed("preprocess") from error
    try:
        arrays, rows = task.signature.validate(made)
    except Exception as error:
        if task.passes_arrays and isinstance(error, InvalidInput):
            raise
        raise runner.failed("preprocess") from error
    return request, arrays, rows


def finish(runner: TaskRunner, outputs: Arrays, request: Any) -> BaseModel:
    """The task's response. A bug in a task becomes an InferenceError."""
    try:
        response = runner.task.postprocess(outputs, request)
    except (PenstockError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise runner.failed("postprocess") from error
    if not isinstance(response, BaseModel):
        raise InferenceError(f"{runner.what} returned a {type(response).__name__}, which is not a Pydantic model")
    return response


async def _watched(find: Callable[[Arrays], tuple[Flag, ...]], arrays: Arrays, lease: Lease) -> tuple[Flag, ...]:
    """The tensors outside their expected range; large ones are looked through in a thread."""
    if not _are_large(arrays):
        return find(arrays)
    return await lease.runner.pool.run(functools.partial(find, arrays), lease.deadline, admitted=True)


def _timed(work: Callable[..., T], *given: Any) -> tuple[T, float]:
    """What `work` returns, and how long it took, in seconds."""
    began = time.monotonic()
    return work(*given), time.monotonic() - began


def _are_large(outputs: Arrays) -> bool:
    """True if it may take too long to make a response of these outputs on an event loop."""
    for array in outputs.values():
        if array.size > LARGE_VALUES or (array.dtype.kind == "O" and is_large(array.tolist())):
            return True
    return False


def _finish_large(runner: TaskRunner, outputs: Arrays, request: Any) -> tuple[BaseModel, ResponseText | None]:
    """The task's response, and what writes it if it is large."""
    response = finish(runner, outputs, request)
    return response, ResponseText(json_pieces(response)) if is_large(response) else None


def _wanted(model: LoadedModel, outputs: Iterable[str] | None) -> list[str] | None:
    """The names of the outputs to return, each once. Raises InvalidInput for one that the model does not have."""
    if outputs is None:
        return None
    names = list(dict.fromkeys(map(str, [outputs] if isinstance(outputs, str) else outputs)))
    known = [spec.name for spec in model.signature.outputs]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise InvalidInput(f"{unknown}: the model has no such output; it has {', '.join(known)}", field=unknown)
    return names


def _stamp(response: TimedResponse, seen: Observation) -> None:
    """Write version and times into a response."""
    if type(response).stamp is not TimedResponse.stamp:  # a task may act on its finished response
        response.stamp(seen.version, seen.pre_ms, seen.run_ms, seen.post_ms)
        return
    response.__dict__.update(  # as `stamp` does, without the call into another file: every request passes here
        model_version=seen.version,
        inference_time_ms=round(seen.run_ms, 4),
        preprocessing_time_ms=round(seen.pre_ms, 4),
        postprocessing_time_ms=round(seen.post_ms, 4),
    )


def _weight(runner: TaskRunner, request: Any) -> int:
    """The bytes that a request takes while it waits: the file in it."""
    field = runner.task.upload_field
    upload = getattr(request, field, b"") if field is not None else b""
    return len(upload) if isinstance(upload, bytes) else 0
