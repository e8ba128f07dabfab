"""Installs what this project needs. One script, three faces.

python install.py
    What the hosts run (ComfyUI-Manager; A1111 and Forge at every start). Silent when nothing is missing.
    What is missing of requirements.txt is added; nothing that the host has is changed. Never fails a start.

python install.py demo [--venv FOLDER] [options of the demo]
    For a machine with Python 3.10 to 3.13 and nothing else: makes a virtual environment (.venv here), installs
    what is needed into it, and runs the demo. Relative paths count from the project's folder.

python install.py test [--venv FOLDER] [options of pytest]
    The same, with what the tests need; then runs ruff and pytest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Callable  # noqa: UP035 (this file is read by old Pythons too, to tell them so)

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements.txt"
PINS = ROOT / "requirements-test.txt"
STAMP = "ddm-install.json"  # in a virtual environment: what this script installed there, and whether it made it
OLDEST = (3, 10)
MOST_PROCESSES = 4  # that run tests: each has models, servers and a browser of its own
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}  # where a package and its module differ in name
UNCLEAR = "pip could not install what is needed."
OFFLINE = ("connection", "name resolution", "timed out", "proxyerror", "sslerror", "unreachable")


class Stop(Exception):
    """Nothing more can be done here; the message says why and what to do."""


def say(text: str) -> None:
    """Print `text` at once, so that it stands before what a child process prints."""
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    """Run the face that `arguments` ask for and return the exit code."""
    face, rest = (arguments[0], arguments[1:]) if arguments else ("host", [])
    if face in ("-h", "--help"):
        say(__doc__ or "")
        return 0
    if sys.version_info[:2] < OLDEST:
        say(f"ComfyUI-DDM needs Python 3.10 or newer, and this is Python {version()} ({sys.executable}).")
        return 0 if face == "host" else 2
    if face == "host":
        return host()
    if face not in ("demo", "test"):
        say(f"install.py knows 'demo' and 'test', not '{face}'. See: python install.py --help")
        return 2
    try:
        folder, rest = venv_option(rest)
        python = environment(folder, face)
        return demo(python, rest) if face == "demo" else test(python, rest)
    except Stop as stop:
        say(str(stop))
        return 1
    except OSError as error:
        say(f"Could not go on: {error}. Name another folder with --venv, or free some space.")
        return 1
    except KeyboardInterrupt:
        say("Stopped.")
        return 130


# The hosts' face


def host() -> int:
    """Add what is missing of requirements.txt to the Python that runs this. Always returns 0: a host must start."""
    try:
        missing = missing_requirements()
        if missing:
            add_to_host(missing)
        if old := outdated():
            say(f"ComfyUI-DDM: older than was ever tested, and left as it is: {', '.join(old)}.")
    except Exception as error:
        say(f"ComfyUI-DDM: could not check its requirements ({error}). Install them with pip from {REQUIREMENTS}.")
    return 0


def requirement_names(path: Path) -> list[str]:
    """Return the package names in a requirements file, in its order, without versions and markers."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [re.split(r"[^\w.-]", line)[0] for line in lines if line]


def missing_requirements() -> list[str]:
    """Return the packages of requirements.txt that cannot be imported, importing none: this runs at every start."""
    if not REQUIREMENTS.is_file():
        return []
    names = requirement_names(REQUIREMENTS)
    return [name for name in names if find_spec(MODULES.get(name, name)) is None]


def outdated() -> list[str]:
    """Return `name version (tested from version on)` of installed packages below the bounds of requirements.txt."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    def number(text: str) -> list[int]:
        return [int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split(".")]

    found = []
    text = REQUIREMENTS.read_text(encoding="utf-8") if REQUIREMENTS.is_file() else ""
    for name, bound in re.findall(r"^([\w.-]+)>=([\d.]+)", text, re.MULTILINE):
        try:
            there = installed_version(name)
        except PackageNotFoundError:
            continue
        if number(there) < number(bound):
            found.append(f"{name} {there} (tested from {bound} on)")
    return found


def add_to_host(missing: list[str]) -> None:
    """Install `missing` beside what is there: every installed package keeps its version, the host's torch above all."""
    if find_spec("torch") is None:
        say(
            "ComfyUI-DDM: there is no PyTorch in this Python, so it is not a host's; nothing was installed. "
            "To try the project by itself: python install.py demo"
        )
        return
    say(f"ComfyUI-DDM: installing {', '.join(missing)} (needed once) ...")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("\n".join(installed()), encoding="utf-8")
        common = ["install", "--quiet", "-c", str(constraints), *missing]
        if find_spec("pip") is None and shutil.which("uv"):
            command = ["uv", "pip", *common, "--python", sys.executable]
        else:
            quick = ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20"]
            command = [sys.executable, "-m", "pip", *common, *quick]
        code, log = run_logged(command)
    if code:
        say(
            f"ComfyUI-DDM: {why(log)} Some features will be missing until this succeeds: "
            f"{sys.executable} -m pip install {' '.join(missing)}"
        )


def installed() -> list[str]:
    """Return `name==version` of everything in this Python, for pip to keep."""
    from importlib.metadata import distributions

    pairs = ((found.metadata["Name"], found.version) for found in distributions())
    plain = re.compile(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*(\+[\w.]+)?")  # pip refuses a file with any other
    return sorted({f"{name}=={number}" for name, number in pairs if name and number and plain.fullmatch(number)})


# The faces for a fresh machine


def venv_option(arguments: list[str]) -> tuple[Path, list[str]]:
    """Take `--venv FOLDER` out of `arguments`; return the folder (default: .venv in the project) and the rest."""
    folder, rest, waiting = ROOT / ".venv", [], iter(arguments)
    for argument in waiting:
        if argument.startswith("--venv="):
            folder = Path(argument.split("=", 1)[1])
        elif argument == "--venv":
            given = next(waiting, None)
            if given is None:
                raise Stop("--venv needs a folder: python install.py demo --venv FOLDER")
            folder = Path(given)
        else:
            rest.append(argument)
    return Path(os.path.abspath(folder)), rest  # noqa: PTH100 (resolve() would follow links)


def environment(folder: Path, face: str) -> Path:
    """Return the Python of the virtual environment in `folder`, made and filled as `face` needs.

    One that this script made before is used again while its stamp (the requirement files and the Python) holds, and
    made anew when it no longer works or belongs to another Python. One that somebody else made is used as it is.

    Raises:
        Stop: when it cannot be made, used or filled.
    """
    if not (REQUIREMENTS.is_file() and PINS.is_file()):
        raise Stop(f"requirements.txt and requirements-test.txt should be in {ROOT}: run this in a full checkout.")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ours = "made" in read_stamp(folder)
    there = folder.is_dir() and any(folder.iterdir())
    found = python_version(python) if there else None
    if there and not ours:
        if found is None:
            raise Stop(f"{folder} is there, but is no working virtual environment. Delete it, or name another: --venv")
        if found < OLDEST:
            raise Stop(f"The virtual environment in {folder} has a Python older than 3.10. Name another with --venv.")
        say(f"Using the virtual environment in {folder}.")
    elif found != sys.version_info[:2]:
        if there:
            say(f"The virtual environment in {folder} belongs to another Python or no longer works.")
            shutil.rmtree(folder)
        make(folder)
    wanted = fingerprint()
    stamp = read_stamp(folder)
    if stamp.get(face) != wanted:
        fill(python, face)
        kept = {key: value for key, value in stamp.items() if key == "made" or value == wanted}
        write_stamp(folder, {**kept, "demo": wanted, face: wanted})  # the tests need all that the demo needs
    return python


def version() -> str:
    """Return the version of the Python that runs this, such as `3.11.7`."""
    return ".".join(str(part) for part in sys.version_info[:3])


def python_version(python: Path) -> tuple[int, int] | None:
    """Return (major, minor) of the interpreter `python`, or None when it, or its pip, does not run."""
    code, log = run_logged([str(python), "-c", "import pip, sys; print(*sys.version_info[:2])"])
    numbers = log[-1].split() if log and not code else []
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None


def fingerprint() -> str:
    """Return a hash of both requirement files and the Python version: what the stamp holds."""
    content = REQUIREMENTS.read_bytes() + b"\0" + PINS.read_bytes() + b"\0" + version().encode()
    return hashlib.sha256(content).hexdigest()


def read_stamp(folder: Path) -> dict[str, str]:
    """Return what is installed in the virtual environment: face -> fingerprint, and "made" where it is ours."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, stamp: dict[str, str]) -> None:
    """Write the stamp, replacing an old one in one step."""
    temporary = folder / (STAMP + ".tmp")
    temporary.write_text(json.dumps(stamp), encoding="utf-8")
    temporary.replace(folder / STAMP)


def make(folder: Path) -> None:
    """Make a virtual environment in `folder`, marked as ours from the start, so that a broken one can be replaced."""
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        raise Stop(
            "This Python cannot make virtual environments: its venv or ensurepip module is missing. On Debian and "
            f"Ubuntu, run: sudo apt install python3.{sys.version_info[1]}-venv. Then run this again."
        )
    say(f"Making a virtual environment in {folder} (Python {version()}).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_stamp(folder, {"made": version()})
    except OSError as error:
        raise Stop(f"Cannot write to {folder}: {error.strerror}. Name another folder with --venv.") from error
    code, log = run_logged([sys.executable, "-m", "venv", str(folder)])
    if code:
        shutil.rmtree(folder, ignore_errors=True)
        raise Stop("Making the virtual environment failed:\n" + "\n".join(log[-10:]))


def fill(python: Path, face: str) -> None:
    """Install what `face` needs with the pip of `python`, saying how the large downloads go."""
    what = ["-r", str(PINS)] if face == "test" else ["-r", str(REQUIREMENTS), "torch", "-c", str(PINS)]
    say(
        "Installing PyTorch, diffusers and what else is needed: some minutes, once. (On Linux, pip brings PyTorch with "
        "its CUDA libraries, several GB, unless it is set up for the CPU packages as pytorch.org tells.)"
    )
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    code, log = run_logged([*command, "--progress-bar", "off", *what], tell=large_download)
    if code:
        reason = why(log)
        raise Stop("\n".join([f"{reason} Its last words:", *log[-10:]]) if reason == UNCLEAR else reason)
    say("Installed.")


def large_download(line: str) -> str | None:
    """Return a line to show when pip's `line` announces a download of 5 MB or more."""
    match = re.match(r"\s*Downloading (\S+) \(([\d.]+) ([MG]B)\)", line)
    if match and (match.group(3) == "GB" or float(match.group(2)) >= 5):
        return "  {} ({} {})".format(match.group(1).split("/")[-1], match.group(2), match.group(3))
    return "  unpacking ..." if line.startswith("Installing collected packages") else None


def why(log: list[str]) -> str:
    """Return the reason of pip's failure as a sentence, from what it printed."""
    text = "\n".join(log)
    if "no space left" in text.lower():
        return "The disk is full: PyTorch and what it needs take 2 to 8 GB. Free some space and run this again."
    if any(word in text.lower() for word in OFFLINE):
        return "The packages could not be fetched: check the network (or pip's proxy and index settings) and try again."
    match = re.search(r"No matching distribution found for (\S+)", text)
    if match:
        return f"There is no {match.group(1)} for Python {version()} on this system; Python 3.10 to 3.13 should do."
    if "No module named pip" in text:
        return "This Python has no pip."
    return UNCLEAR


def run_logged(command: list[str], tell: Callable[[str], str | None] | None = None) -> tuple[int, list[str]]:
    """Run `command` quietly; return its exit code and the lines it printed. `tell(line)` gives what to show of them."""
    log: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=child_environment(),
        )
    except OSError as error:
        return 1, [str(error)]
    with process:
        for line in process.stdout or ():
            log.append(line.rstrip())
            shown = tell(log[-1]) if tell else None
            if shown:
                say(shown)
    return process.returncode, log


def child_environment(**defaults: str) -> dict[str, str]:
    """Return this process's environment without what would lead another Python to this one's packages."""
    leading = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
    return {**defaults, **{name: value for name, value in os.environ.items() if name not in leading}}


def run(command: list[str], **defaults: str) -> int:
    """Run `command` in the project's folder, its output shown as it comes; return its exit code."""
    return subprocess.call(command, cwd=ROOT, env=child_environment(HF_HUB_OFFLINE="1", **defaults))


def demo(python: Path, arguments: list[str]) -> int:
    """Run the demo and return its exit code."""
    say("Running the demo.")
    return run([str(python), "-m", "training", "demo", *arguments])


def test(python: Path, arguments: list[str]) -> int:
    """Run the linter, the format check and the tests; pytest's own summary, skips and reasons included, comes last."""
    failed = []
    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        if run([str(python), "-m", *command, "."]):
            failed.append(" ".join(command))
    if failed:
        say(f"Not as it should be: {', '.join(failed)} (see above). The tests run all the same.")
    # Tests that share something run in one of several processes (tests/conftest.py says which ones). One thread each:
    # the models in the tests are so small that threads only wait for each other.
    share = ["-n", str(min(os.cpu_count() or 1, MOST_PROCESSES)), "--dist", "loadfile"]
    code = run([str(python), "-m", "pytest", *share, *arguments], OMP_NUM_THREADS="1")
    return code or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
