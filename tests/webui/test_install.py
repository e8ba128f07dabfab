"""install.py as the host calls it at every start."""

import os
import subprocess

from .server import PACK, forge_python


def test_it_says_and_changes_nothing_where_nothing_is_missing(host):
    python = forge_python(host)
    listed = [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    before = subprocess.run(listed, capture_output=True, text=True, timeout=300).stdout
    environment = {**os.environ, "PYTHONPATH": str(host)}
    done = subprocess.run(
        [python, str(PACK / "install.py")], cwd=host, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert subprocess.run(listed, capture_output=True, text=True, timeout=300).stdout == before
