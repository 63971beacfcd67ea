"""What the deployment tests share: a tiny random model behind the real daemon, and PromQL names."""

import atexit
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TESSERA_BIN", ROOT / "build/release/bin"))
DEPLOY = ROOT / "deploy"


def make_tiny_model():
    folder = tempfile.mkdtemp(prefix="tessera-deploy-")
    atexit.register(shutil.rmtree, folder)
    path = f"{folder}/tiny.gguf"
    subprocess.run([BIN / "make_tiny_model", "--output", path, "--max-context", "2048"], check=True,
                   stdout=subprocess.DEVNULL)
    return path


os.environ["TESSERA_MODEL"] = make_tiny_model()
sys.path.insert(0, str(ROOT / "tests/system"))
from harness import (CALL_TIMEOUT_S, Daemon, control_pb2, error_of,  # noqa: E402, F401
                     generation_pb2_grpc, pb, request, run_at_once, tessera)


def selectors(expression):
    """The (name, labels) pairs of a PromQL expression; labels are those compared with =."""
    found = re.findall(r"\b([a-z]\w*:\w+(?::\w+)*|(?:tessera|process)_\w+)(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in found]


def samples(daemon):
    """The (name, labels) pairs that the daemon's /metrics has."""
    lines = re.findall(r"^([\w:]+)(?:\{(.*)\})? \S+$", daemon.http("/metrics"), re.MULTILINE)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in lines]
