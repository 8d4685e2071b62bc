"""Write the dashboards; a test sees to it that they are those of the code."""

import json
from pathlib import Path
from typing import Final

from deploy.grafana import fleet, forecast, itself
from deploy.grafana.panels import Json

FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, Json]:
    """File name to content."""
    return {
        "forecast.json": forecast.dashboard(),
        "fleet.json": fleet.dashboard(),
        "sentinel.json": itself.dashboard(),
    }


def text_of(dashboard: Json) -> str:
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, dashboard in dashboards().items():
        (FOLDER / name).write_text(text_of(dashboard), encoding="utf-8")
