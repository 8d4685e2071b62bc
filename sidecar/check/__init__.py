"""``sentinel check``: will this configuration work on this Prometheus, and how to see what it does.

``gather`` asks the server, ``findings`` judges without any I/O, ``render`` prints.
"""

from rich.console import Console

from sidecar.check.facts import Finding, ServerView, WatchView
from sidecar.check.findings import CheckReport, WatchReport, judge
from sidecar.check.gather import gather
from sidecar.check.render import show
from sidecar.config import SentinelConfig

__all__ = ["CheckReport", "Finding", "ServerView", "WatchReport", "WatchView", "judge", "run_check"]


async def run_check(config: SentinelConfig, console: Console) -> int:
    """Check a configuration that has been loaded against its server, and print what was found.

    Returns:
        The exit status: 0 where it will work, 1 where something will not.
    """
    server, views = await gather(config)
    report = judge(config, server, views)
    show(config, report, console)
    return 0 if report.works else 1
