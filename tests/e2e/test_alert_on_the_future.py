"""An alert on what is predicted fires before the metric itself crosses the line."""

import time

import numpy as np
import pytest
import yaml

from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.long]


async def test_an_alert_on_the_future_fires_while_the_metric_is_still_below(
    newest_prometheus: PrometheusBinary,
) -> None:
    now_s = int(time.time())

    def rising(t: float) -> float:
        return 100 + (t - now_s)

    # Crossed after 75 s; forecast a minute ahead, so the alert comes a minute before.
    rule = {
        "alert": "WillCross",
        "expr": 'x_sentinel_predicted{sentinel_step="60"} > 175',
        "annotations": {"summary": "x will be above 175 within a minute"},
    }
    with FunctionExporter(grid_s=1.0, stamp=True) as exporter:
        exporter.gauge("x", rising)
        labels = {"__name__": "x", "job": "test", "instance": exporter.address}
        times = np.arange(now_s - 600, now_s, dtype=np.int64)
        history = Backfill().add(labels, times * 1000, [rising(float(t)) for t in times])
        server = RealPrometheus(newest_prometheus, targets=[exporter.address], history=history)
        async with server as prometheus:
            rules = prometheus.folder / "rules.yml"
            rules.write_text(
                yaml.safe_dump({"groups": [{"name": "g", "interval": "1s", "rules": [rule]}]})
            )
            await prometheus.stop()
            prometheus.config["rule_files"] = [str(rules)]
            await prometheus.start()
            watch = {
                "metric": "x",
                "model": "linear",
                "granularity": "1s",
                "horizon": "1m",
                "lookback": "30s",
                "training_window": "10m",
            }
            async with Sidecar(prometheus.url, [watch]) as sidecar:
                await sidecar.until_ready()
                firing = 'ALERTS{alertname="WillCross",alertstate="firing"}'
                await prometheus.until(firing, timeout_s=90)
                (now,) = (await prometheus.query("x")).values()
    assert now < 175
