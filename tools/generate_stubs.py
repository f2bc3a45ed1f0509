"""Generate coriolis/rpc/gen from protos/: run by ``make stubs``.

protoc writes imports relative to the proto root; they are rewritten to live inside our package, since a top-level
``coriolis`` or ``etcd`` generated package would collide with the real one.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "coriolis" / "rpc" / "gen"
PACKAGE = "coriolis.rpc.gen"
_IMPORT = re.compile(r"^(from|import) ((?:coriolis\.v1|etcd)\b)", re.MULTILINE)


def main() -> int:
    """Return protoc's exit code."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    include = str(files("grpc_tools") / "_proto")
    scripts = Path(sys.executable).parent  # a virtual environment that is not activated is not on PATH
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'protos'}",
            f"-I{include}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={OUT}",
            f"--grpc_python_out={OUT}",
            f"--mypy_out=quiet:{OUT}",
            f"--mypy_grpc_out=quiet:{OUT}",
            *protos,
        ]
    )
    if code:
        return int(code)
    for path in [*OUT.rglob("*.py"), *OUT.rglob("*.pyi")]:
        text = path.read_text()
        text = _IMPORT.sub(rf"\1 {PACKAGE}.\2", text)
        text = re.sub(r"(?<![\w.])(coriolis\.v1|etcd)\.(\w+_pb2)", rf"{PACKAGE}.\1.\2", text)
        path.write_text(text)
    for folder in [OUT, *(p for p in OUT.rglob("*") if p.is_dir())]:
        (folder / "__init__.py").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
