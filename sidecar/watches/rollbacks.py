"""Promotions that were undone by themselves, as the new version did worse: they go on record."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from sidecar.errors import StoreError
from sidecar.known import Fitted
from sidecar.series import LabelSet
from sidecar.watches.ports import Ports

log = logging.getLogger(__name__)


async def record_rollbacks(
    ports: Ports,
    watch: str,
    title: str,
    rolled_back: Sequence[tuple[LabelSet, int, int]],
    waiting: Callable[[], Sequence[Fitted]],
) -> None:
    """Write down what a cycle undid, with one line in the log for all of it.

    Args:
        title: what the log calls the watch.
        rolled_back: as ``Advance.rolled_back``.
        waiting: the fits that are on record and not in service yet: what they promoted has replaced
            the version that was undone already. Asked once no other switch is under way.
    """
    if not rolled_back:
        return
    async with ports.trainer.switching:
        replaced = _promoted(waiting())
        back = [one for one in rolled_back if one[0] not in replaced]
        if back:
            _say(title, back)
        for labels, _, new in back:
            switch = partial(
                ports.memory.rollback,
                watch,
                labels,
                new,
                at_ms=ports.now_ms(),
                who="gate",
                pin=False,
            )
            try:
                await ports.in_thread(switch)
            except StoreError as error:
                log.warning("watch %s: the switch is not recorded: %s", title, error)


def _promoted(waiting: Sequence[Fitted]) -> set[LabelSet]:
    return {
        one
        for fitted in waiting
        for one, promoted in zip(fitted.labels, fitted.promoted, strict=True)
        if promoted
    }


def _say(title: str, back: Sequence[tuple[LabelSet, int, int]]) -> None:
    labels, old, new = back[0]
    others = f" (and so for {len(back) - 1} more series)" if len(back) > 1 else ""
    log.warning(
        "watch %s: v%d of %s did worse than v%d, which serves again%s",
        title,
        old,
        labels,
        new,
        others,
    )
