"""What runs in the process of one user's model: load its instances, ask them for forecasts.

Started by ``sidecar.learning.predicting``, which kills it at its deadline and replaces it; it ends
by itself when the parent is gone. One request is one series, so that the parent knows which one it
was that never came back.
"""

import os
import signal
import socket
from collections import OrderedDict
from typing import Any, Final

from sidecar.learning.payload import Message
from sidecar.learning.worker import (
    ModelSpec,
    ModelUnavailable,
    build_model,
    end_with_parent,
    limit,
    receive,
    send,
)
from sidecar.models.custom import ALIVE, CustomModel, raised_by_predict

# What the parent sends, and what comes back.
PREDICT: Final = "predict"
READY, UNAVAILABLE = "ready", "unavailable"
SAID, RAISED, UNKNOWN, MEMORY = "said", "raised", "unknown", "memory"


def main(descriptor: int, memory_limit_bytes: int) -> None:
    """Serve the parent at the other end of the socket ``descriptor`` until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()
    os.dup2(2, 1)  # a model that prints must not write into the parent's output
    with socket.socket(fileno=descriptor) as parent:
        first = receive(parent)
        if first is None:
            return
        try:
            model = build_model(ModelSpec(**first.meta["spec"]))
        except ModelUnavailable as error:
            send(parent, Message(UNAVAILABLE, {"message": str(error)}, {}))
            return
        assert isinstance(model, CustomModel), "the parent asks for no other"
        limit(memory_limit_bytes)
        send(parent, Message(READY, {}, {}))
        answers = Answers(model)
        while (request := receive(parent)) is not None:
            reply = answers.to(request)
            send(parent, reply)
            if reply.kind == MEMORY:
                return  # whatever could not allocate may be half done: start afresh


class Answers:
    """Remembers what was sent, so that a model is not sent again for each forecast."""

    def __init__(self, model: CustomModel) -> None:
        self._model = model
        self._blobs: OrderedDict[str, bytes] = OrderedDict()

    def to(self, request: Message) -> Message:
        """The answer to one request: arrays ``x`` and, where it was asked for, ``blob``."""
        key, arrays = str(request.meta["key"]), request.arrays
        if "blob" in arrays:
            self._blobs[key] = arrays["blob"].tobytes()
            if len(self._blobs) > ALIVE:
                self._blobs.popitem(last=False)
        if key not in self._blobs:
            return Message(UNKNOWN, {}, {})
        self._blobs.move_to_end(key)
        try:
            told = self._model.answer(self._blobs[key], arrays["x"], int(request.meta["steps"]))
        except MemoryError as error:
            return _told(MEMORY, f"out of memory: {error}")
        except Exception as error:  # noqa: BLE001 - a user's code may raise anything; it is shown
            return _told(RAISED, raised_by_predict(error))
        return Message(SAID, {}, {"told": told})


def _told(kind: str, text: str) -> Message:
    meta: dict[str, Any] = {"message": text[:2000]}
    return Message(kind, meta, {})
