"""Turn the ``.proto`` files beside this one into ``sidecar/wire/*_pb2.py`` and ``*_pb2.pyi``.

::

    python -m proto.generate            write them
    python -m proto.generate --check    say which of the committed ones differ; exit status 1 then

Run it from the top of the checkout, in an environment with the ``test`` dependency group (protoc
comes with grpcio-tools). protoc parses and checks; the Python text is our own, for two reasons:

- protoc's modules refuse to load under a protobuf runtime older than, or two major versions newer
  than, the protoc that made them. Ours use public calls that stay the same across versions.
- protoc's modules register with the process-wide descriptor pool, where a second package that
  brings its own ``prometheus.TimeSeries`` fails to import. Ours have a pool to themselves.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "sidecar/wire"
SOURCES = ("types.proto", "remote.proto", "write_v2.proto")
LINE_BYTES = 24

HEADER = '''"""Generated from proto/{source} by ``python -m proto.generate``: do not edit."""

from google.protobuf import descriptor_pool, message_factory

'''
OWN_POOL = "_POOL = descriptor_pool.DescriptorPool()\n"
SHARED_POOL = "from {module} import _POOL\n\n"
STUB_HEADER = "# Generated from proto/{source} by python -m proto.generate (protoc {version}).\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proto.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    arguments = parser.parse_args(argv)
    differing = {path: text for path, text in render().items() if not is_current(path, text)}
    for path, text in differing.items():
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    return 1 if arguments.check and differing else 0


def render() -> dict[Path, str]:
    """The text of each generated file, by the place where it is committed."""
    with tempfile.TemporaryDirectory() as scratch:
        protoc(scratch, f"--descriptor_set_out={scratch}/all.bin", f"--pyi_out={scratch}")
        described = FileDescriptorSet.FromString(Path(scratch, "all.bin").read_bytes())
        version = protoc(scratch, "--version").split()[-1]
        texts = {}
        for file in described.file:
            source = Path(file.name).name
            stem = Path(file.name).with_suffix("").as_posix() + "_pb2"
            stub = Path(scratch, stem + ".pyi").read_text(encoding="utf-8")
            texts[ROOT / f"{stem}.py"] = module(source, file)
            header = STUB_HEADER.format(source=source, version=version)
            texts[ROOT / f"{stem}.pyi"] = header + stub.replace(
                "_Mapping]", "_Mapping[str, object]]"
            )
        return texts


def is_current(path: Path, text: str) -> bool:
    """Whether the committed file says what it should.

    Stubs of another protoc release differ in style, so they are compared only where the committed
    one names the release at hand; the modules are compared always, and hold all that matters.
    """
    if not path.exists():
        return False
    committed = path.read_text(encoding="utf-8")
    if path.suffix == ".pyi" and committed.partition("\n")[0] != text.partition("\n")[0]:
        return True
    return committed == text


def protoc(scratch: str, *arguments: str) -> str:
    """Run protoc with ``proto/`` standing for ``sidecar/wire/``, so that imports come out right."""
    paths = [f"{PACKAGE}/{source}" for source in SOURCES]
    if arguments == ("--version",):
        paths = []
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={ROOT / 'proto'}"]
    done = subprocess.run(  # noqa: S603 - our own arguments only
        [*command, *arguments, *paths], capture_output=True, text=True, check=False, cwd=scratch
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"protoc ended with {done.returncode}")
    return done.stdout


def module(source: str, file: FileDescriptorProto) -> str:
    """The Python module of one ``.proto`` file."""
    for message in file.message_type:
        strip(message)
    pool = OWN_POOL
    if file.dependency:  # all files that import each other share the pool of the first
        name = file.dependency[0].removesuffix(".proto").replace("/", ".") + "_pb2"
        pool = SHARED_POOL.format(module=name)
    lines = [HEADER.format(source=source), pool, "_POOL.AddSerializedFile(\n"]
    content = file.SerializeToString(deterministic=True)
    starts = range(0, len(content), LINE_BYTES)
    lines += [f"    {content[start : start + LINE_BYTES]!r}\n" for start in starts]
    lines.append(f')\nDESCRIPTOR = _POOL.FindFileByName("{file.name}")\n\n')
    for message in file.message_type:
        found = f'DESCRIPTOR.message_types_by_name["{message.name}"]'
        lines.append(f"{message.name} = message_factory.GetMessageClass({found})\n")
    return "".join(lines)


def strip(message: DescriptorProto) -> None:
    """Take out what protoc derives by itself, and does differently from release to release."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        strip(nested)


if __name__ == "__main__":
    raise SystemExit(main())
