"""What runs in a worker process: take a batch, train it, hand the outcome back, again.

Started by ``sidecar.learning.workers`` as a fresh interpreter (never forked: BLAS threads and a
fork do not go together) with one end of a socket pair. The parent kills it at its deadline and
replaces it; it ends by itself when the parent is gone.
"""

import ctypes
import importlib
import importlib.util
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sidecar.learning.payload import PREFIX, Message, decode, encode, sizes
from sidecar.learning.training import outcome_to_arrays, train
from sidecar.models.contract import ForecastModel, from_arrays
from sidecar.models.registry import ModelContext, build

MARK: Final = "SENTINEL_FIT_WORKER"
MAIN: Final = "__main__"
_SCRIPT: Final = "__sentinel_main__"
_PR_SET_PDEATHSIG: Final = 1
_NICE: Final = 10


class ModelUnavailable(Exception):
    """The model itself cannot be built here: no smaller batch would help."""


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model in another process.

    Attributes:
        model: a name of the registry, or ``module:qualname`` of a class.
        params: the settings, plain JSON.
        context: the fields of a ``registry.ModelContext``.
        script: the file of ``__main__`` where the class lives there, else empty.
    """

    model: str
    params: Mapping[str, Any]
    context: Mapping[str, Any]
    script: str = ""

    @classmethod
    def of(cls, model: str | type, params: Mapping[str, Any], watch: ModelContext) -> "ModelSpec":
        """From a registry name or a class.

        Raises:
            ValueError: a class that no other process can find.
        """
        context = asdict(watch)
        if isinstance(model, str):
            return cls(model, params, context)
        where = f"{model.__module__}:{model.__qualname__}"
        if "<locals>" in model.__qualname__:
            raise ValueError(
                f"{where}: fits run in worker processes, which cannot import a class that is "
                "defined inside a function: define it at the top level of a module"
            )
        if model.__module__ != MAIN:
            return cls(where, params, context)
        main = sys.modules[MAIN]
        found = getattr(main, "__spec__", None)
        if found is not None:
            return cls(f"{found.name}:{model.__qualname__}", params, context)
        script = getattr(main, "__file__", None)
        if not script or not Path(script).is_file():
            raise ValueError(
                f"{where}: fits run in worker processes, which cannot import a class that was "
                "typed into an interactive session: put it into a file"
            )
        return cls(where, params, context, str(Path(script).resolve()))


def inside_worker() -> bool:
    """Whether this process is a worker (which happens to a script that defines a user's model)."""
    return MARK in os.environ


def build_model(spec: ModelSpec) -> ForecastModel[Any]:
    """The model of a spec.

    Raises:
        ModelUnavailable: it cannot be imported, or refuses its settings.
    """
    try:
        model = _class_of(spec) if ":" in spec.model else spec.model
        return build(model, spec.params, ModelContext(**spec.context))
    except Exception as error:
        raise ModelUnavailable(f"model {spec.model} cannot be built: {error}") from error


def _class_of(spec: ModelSpec) -> type:
    module_name, _, qualname = spec.model.partition(":")
    target: Any = (
        _script(spec.script) if module_name == MAIN else importlib.import_module(module_name)
    )
    for part in qualname.split("."):
        target = getattr(target, part)
    if not isinstance(target, type):
        raise TypeError(f"{spec.model} is a {type(target).__name__}, not a class")
    return target


def _script(path: str) -> ModuleType:
    """The user's script as a module; its ``if __name__ == "__main__"`` part does not run."""
    if _SCRIPT not in sys.modules:
        found = importlib.util.spec_from_file_location(_SCRIPT, path)
        if found is None or found.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(found)
        sys.modules[_SCRIPT] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[_SCRIPT]
            raise
    return sys.modules[_SCRIPT]


def main(descriptor: int, memory_limit_bytes: int) -> None:
    """Serve the parent at the other end of the socket ``descriptor`` until it is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches workers too; the parent handles it
    end_with_parent()
    os.nice(_NICE)
    os.dup2(2, 1)  # a model that prints must not write into the parent's output
    with socket.socket(fileno=descriptor) as parent:
        limit(memory_limit_bytes)
        send(parent, Message("ready", {"pid": os.getpid()}, {}))
        models: dict[str, ForecastModel[Any]] = {}
        while (request := receive(parent)) is not None:
            reply = answer(request, models)
            send(parent, reply)
            if reply.kind == "memory":
                return  # whatever could not allocate may be half done: start afresh


def answer(request: Message, models: dict[str, ForecastModel[Any]]) -> Message:
    """The outcome of one request, or why there is none; ``models`` are those built before."""
    try:
        spec = ModelSpec(**request.meta["spec"])
        key = repr(request.meta["spec"])
        model = models.get(key)
        if model is None:
            model = models[key] = build_model(spec)
        warm = {
            name.removeprefix("warm."): array
            for name, array in request.arrays.items()
            if name.startswith("warm.")
        }
        outcome = train(
            model,
            request.arrays["t_ms"],
            request.arrays["y"],
            from_arrays(model.state_type, warm) if warm else None,
            horizon_steps=int(request.meta["horizon_steps"]),
            validation=int(request.meta["validation"]),
            mode=str(request.meta["mode"]),
        )
        return Message("done", {}, outcome_to_arrays(outcome))
    except ModelUnavailable as error:
        return Message("unavailable", {"message": str(error)}, {})
    except MemoryError as error:
        return Message("memory", {"message": f"out of memory: {error}"}, {})
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything; it is reported
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Message("error", {"message": text[:2000]}, {})


def end_with_parent() -> None:
    """On Linux the kernel ends us when the parent does, even in the middle of a fit."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Should memory run out, the sidecar itself is the last to be ended.
        Path("/proc/self/oom_score_adj").write_text("500")


def limit(memory_limit_bytes: int) -> None:
    """Let this process grow by so much over what the interpreter and SciPy need; no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and memory_limit_bytes > 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def receive(parent: socket.socket) -> Message | None:
    """The next message, None at the end of the stream."""
    prefix = _exactly(parent, PREFIX.size)
    if prefix is None:
        return None
    header_size, body_size = sizes(prefix)
    header, body = _exactly(parent, header_size), _exactly(parent, body_size)
    return None if header is None or body is None else decode(header, body)


def _exactly(parent: socket.socket, size: int) -> bytearray | None:
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        count = parent.recv_into(view[got:])
        if count == 0:
            return None
        got += count
    return buffer


def send(parent: socket.socket, message: Message) -> None:
    for buffer in encode(message):
        parent.sendall(buffer)
