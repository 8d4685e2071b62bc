import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_protobuf_modules_are_what_the_proto_files_say() -> None:
    command = [sys.executable, "-m", "proto.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"run `python -m proto.generate`: {done.stdout}{done.stderr} differ from proto/*.proto"
    )
