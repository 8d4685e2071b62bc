"""What only asks, or only prints, loads no more than it needs; Ctrl-C meanwhile is quiet."""

import subprocess
import sys

import pytest

LOADED = """
import sys
from sidecar.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
HEAVY = {"aiohttp", "numpy", "pydantic", "rich", "scipy", "scipy.signal", "yaml"}


def loaded(*arguments: str) -> set[str]:
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_what_only_prints_loads_nothing_heavy(argument: str) -> None:
    assert not loaded(argument) & HEAVY


def test_what_asks_a_sidecar_loads_no_web_server() -> None:
    assert "aiohttp" not in loaded("status", "--sidecar", "http://127.0.0.1:9")
    script = LOADED.replace('name.partition(".")[0]', "name")
    command = [sys.executable, "-c", script, "status", "--sidecar", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"scipy.signal", "scipy.optimize"} & set(done.stderr.split())


def test_a_reader_that_has_enough_is_no_reason_for_a_traceback() -> None:
    command = f"{sys.executable} -m sidecar models lags | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    script = "import sys, sidecar.cli as c; c._main = lambda _: print('x' * 200_000) or 0; "
    command = f'{sys.executable} -c "{script}sys.exit(c.main([]))" | head -c 1 > /dev/null; '
    command += "echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_an_interrupt_while_a_command_loads_is_quiet() -> None:
    script = """
import sys
import sidecar.cli
def interrupted(*_):
    raise KeyboardInterrupt
sidecar.cli.import_module = interrupted
sys.exit(sidecar.cli.main(["status"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
