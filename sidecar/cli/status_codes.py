"""What the program exits with, and where it looks for its configuration."""

from pathlib import Path
from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
DEFAULT_FILE: Final = Path("sentinel.yml")
