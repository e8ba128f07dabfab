"""install.py: silent for a host, plain for a person."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from comfyui_ddm import install

ROOT = Path(install.__file__).parent
Version = namedtuple("Version", "major minor micro releaselevel serial")


@pytest.fixture
def calls(monkeypatch):
    """Stands in for every child process: records the commands and answers with exit code 0 and no output."""
    made = []

    def logged(command, tell=None):
        made.append(command)
        if "venv" in command:  # what `python -m venv` leaves behind
            python = python_in(Path(command[-1]))
            python.parent.mkdir()
            python.touch()
        asked_for_version = command[-1].startswith("import pip")
        return 0, [f"{sys.version_info[0]} {sys.version_info[1]}"] if asked_for_version else []

    def shown(command, **defaults):
        made.append(command)
        return 0

    monkeypatch.setattr(install, "run_logged", logged)
    monkeypatch.setattr(install, "run", shown)
    return made


def python_in(folder):
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip_calls(made):
    return [command for command in made if command[1:4] == ["-m", "pip", "install"]]


def requirements(monkeypatch, tmp_path, text):
    path = tmp_path / "requirements.txt"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(install, "REQUIREMENTS", path)


def fails_with(*log):
    return lambda command, tell=None: (1, list(log))


# What hosts run


def test_a_host_that_has_everything_sees_and_installs_nothing(calls, capsys, monkeypatch, tmp_path):
    requirements(monkeypatch, tmp_path, "# a comment\npytest\n\nruff  # another\n")
    assert install.main([]) == 0
    assert capsys.readouterr().out == ""
    assert calls == []


def test_only_what_is_missing_is_installed_and_what_is_there_keeps_its_version(calls, capsys, monkeypatch, tmp_path):
    requirements(monkeypatch, tmp_path, "pytest\nno-such-package-of-ours\n")
    kept = []

    def logged(command, tell=None):
        calls.append(command)
        kept.extend(Path(command[command.index("-c") + 1]).read_text(encoding="utf-8").splitlines())
        return 0, []

    monkeypatch.setattr(install, "run_logged", logged)
    assert install.main([]) == 0
    assert len(calls) == 1
    assert "no-such-package-of-ours" in calls[0]
    assert "pytest" not in calls[0]
    assert any(line.startswith("torch==") for line in kept)
    assert "no-such-package-of-ours" in capsys.readouterr().out


def test_a_pip_that_fails_does_not_stop_the_host(capsys, monkeypatch, tmp_path):
    requirements(monkeypatch, tmp_path, "no-such-package-of-ours\n")
    monkeypatch.setattr(install, "run_logged", fails_with("Failed to establish a new connection"))
    assert install.main([]) == 0
    said = capsys.readouterr().out
    assert "network" in said
    assert "pip install no-such-package-of-ours" in said


def test_an_error_of_our_own_does_not_stop_the_host(capsys, monkeypatch):
    def broken():
        raise RuntimeError("odd")

    monkeypatch.setattr(install, "missing_requirements", broken)
    assert install.main([]) == 0
    assert "odd" in capsys.readouterr().out


def test_a_python_without_torch_is_no_host_and_gets_no_torch(calls, capsys, monkeypatch, tmp_path):
    requirements(monkeypatch, tmp_path, "no-such-package-of-ours\n")
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    assert install.main([]) == 0
    assert calls == []
    assert "install.py demo" in capsys.readouterr().out


def test_a_copy_without_requirement_files_is_silent(calls, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(install, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert install.main([]) == 0
    assert capsys.readouterr().out == ""


def test_the_host_face_is_silent_as_a_process_and_imports_no_package(tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "install.py")]
    before = os.times()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    after = os.times()
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}
    names = install.requirement_names(install.REQUIREMENTS)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(lines) == len(done.stderr.splitlines())
    assert not loaded & {install.MODULES.get(name, name) for name in names}
    assert after.children_user - before.children_user < 1  # about .04; processor time, since the machine may be busy


def test_names_are_read_without_versions_markers_and_comments(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text('# x\nnumpy==2.2.6 ; python_version < "3.11"\nscikit-learn>=1\nrich\n', encoding="utf-8")
    assert install.requirement_names(path) == ["numpy", "scikit-learn", "rich"]


def test_what_is_older_than_was_tested_is_said_and_left_as_it_is(calls, capsys, monkeypatch, tmp_path):
    requirements(monkeypatch, tmp_path, "# a comment\npytest>=999.1\nruff>=0.0.1\nno-such-package>=1\n")
    monkeypatch.setattr(install, "missing_requirements", list)
    assert install.main([]) == 0 and calls == []
    assert f"pytest {pytest.__version__} (tested from 999.1 on)" in capsys.readouterr().out


def test_every_requirement_has_a_lower_bound_below_what_the_tests_pin():
    def number(text):
        return [int(part) for part in text.split(".")]

    bounds = re.findall(r"^([\w.-]+)>=([\d.]+)$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    pins = (ROOT / "requirements-test.txt").read_text("utf-8")
    assert [name for name, _ in bounds] == install.requirement_names(ROOT / "requirements.txt")
    for name, bound in bounds:
        pinned = re.findall(rf"^{re.escape(name)}==([\d.]+)", pins, re.MULTILINE)
        assert pinned and all(number(bound) < number(one) for one in pinned), name


# What a person runs


@pytest.mark.parametrize(("face", "code"), [("", 0), ("demo", 2), ("test", 2)])
def test_an_old_python_is_told_so_in_a_sentence(calls, capsys, monkeypatch, face, code):
    monkeypatch.setattr(install.sys, "version_info", Version(3, 9, 18, "final", 0))
    assert install.main([face] if face else []) == code
    assert "needs Python 3.10 or newer, and this is Python 3.9.18" in capsys.readouterr().out
    assert calls == []


def test_the_script_can_be_read_by_python_3_8():
    ast.parse((ROOT / "install.py").read_text(encoding="utf-8"), feature_version=(3, 8))


def test_an_unknown_word_names_the_two_known_ones(calls, capsys):
    assert install.main(["dmeo"]) == 2
    said = capsys.readouterr().out
    assert "'demo'" in said and "'test'" in said and "dmeo" in said


def test_help_tells_the_three_faces(calls, capsys):
    assert install.main(["--help"]) == 0
    assert "install.py demo" in capsys.readouterr().out


def test_demo_makes_the_environment_installs_the_pinned_versions_and_passes_its_options_on(calls, tmp_path):
    folder = tmp_path / "venv"
    assert install.main(["demo", "--venv", str(folder), "--steps", "3"]) == 0
    assert calls[0] == [sys.executable, "-m", "venv", str(folder)]
    (pip,) = pip_calls(calls)
    assert pip[pip.index("-c") + 1] == str(install.PINS)
    assert calls[-1] == [str(python_in(folder)), "-m", "training", "demo", "--steps", "3"]


def test_a_second_run_installs_nothing(calls, tmp_path):
    install.main(["demo", f"--venv={tmp_path / 'venv'}"])
    calls.clear()
    install.main(["demo", f"--venv={tmp_path / 'venv'}"])
    assert pip_calls(calls) == []
    assert calls[-1][1:] == ["-m", "training", "demo"]


def test_the_environment_of_the_tests_serves_the_demo_too_but_not_the_other_way_round(calls, tmp_path):
    install.main(["demo", f"--venv={tmp_path / 'a'}"])
    install.main(["test", f"--venv={tmp_path / 'a'}"])
    assert len(pip_calls(calls)) == 2
    install.main(["test", f"--venv={tmp_path / 'b'}"])
    install.main(["demo", f"--venv={tmp_path / 'b'}"])
    assert len(pip_calls(calls)) == 3


def test_changed_requirements_are_installed_into_the_same_environment(calls, monkeypatch, tmp_path):
    install.main(["demo", f"--venv={tmp_path / 'venv'}"])
    requirements(monkeypatch, tmp_path, "pytest\n")
    calls.clear()
    install.main(["demo", f"--venv={tmp_path / 'venv'}"])
    assert len(pip_calls(calls)) == 1
    assert not any(command[1:3] == ["-m", "venv"] for command in calls)


def test_an_environment_of_another_python_is_made_anew_if_it_was_ours(calls, capsys, monkeypatch, tmp_path):
    folder = tmp_path / "venv"
    install.main(["demo", f"--venv={folder}"])
    (folder / "left over").touch()
    monkeypatch.setattr(install, "python_version", lambda python: (3, 10))
    monkeypatch.setattr(install.sys, "version_info", Version(3, 12, 1, "final", 0))
    assert install.main(["demo", f"--venv={folder}"]) == 0
    assert "another Python" in capsys.readouterr().out
    assert not (folder / "left over").exists()


def test_a_folder_that_is_not_ours_is_never_emptied(calls, capsys, monkeypatch, tmp_path):
    (tmp_path / "thesis.txt").touch()
    monkeypatch.setattr(install, "python_version", lambda python: None)
    assert install.main(["demo", "--venv", str(tmp_path)]) == 1
    assert "no working virtual environment" in capsys.readouterr().out
    assert (tmp_path / "thesis.txt").exists()


def test_an_environment_that_somebody_else_made_stays_theirs(calls, monkeypatch, tmp_path):
    folder = tmp_path / "venv"
    python_in(folder).parent.mkdir(parents=True)
    python_in(folder).touch()
    assert install.main(["demo", f"--venv={folder}"]) == 0
    assert "made" not in json.loads((folder / install.STAMP).read_text(encoding="utf-8"))


def test_a_failed_installation_is_a_sentence_and_is_tried_again_next_time(calls, capsys, monkeypatch, tmp_path):
    folder = tmp_path / "venv"
    working = install.run_logged

    def offline(command, tell=None):
        if command[1:4] == ["-m", "pip", "install"]:
            return 1, ["Retrying after connection broken by 'NewConnectionError'"]
        return working(command, tell)

    monkeypatch.setattr(install, "run_logged", offline)
    assert install.main(["demo", f"--venv={folder}"]) == 1
    assert "check the network" in capsys.readouterr().out
    monkeypatch.setattr(install, "run_logged", working)
    calls.clear()
    assert install.main(["demo", f"--venv={folder}"]) == 0
    assert len(pip_calls(calls)) == 1


def test_a_python_without_ensurepip_names_what_to_install(calls, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    assert install.main(["demo", f"--venv={tmp_path / 'venv'}"]) == 1
    assert f"apt install python3.{sys.version_info[1]}-venv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("Temporary failure in name resolution", "check the network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "There is no torch==2.13.0 for Python"),
        ("/usr/bin/python3: No module named pip", "has no pip"),
        ("something else", "could not install"),
    ],
)
def test_the_reason_of_a_failed_pip_is_told(line, sentence):
    assert sentence in install.why([line])


def test_what_pip_said_is_shown_only_when_its_reason_is_unclear(capsys, monkeypatch, tmp_path):
    for log, shown in (["odd"], True), (["connection refused", "odd"], False):
        monkeypatch.setattr(install, "run_logged", fails_with(*log))
        with pytest.raises(install.Stop) as stop:
            install.fill(tmp_path / "python", "demo")
        assert ("odd" in str(stop.value)) == shown


def test_only_large_downloads_are_shown():
    assert install.large_download("  Downloading torch-2.13.0.whl (190.3 MB)") == "  torch-2.13.0.whl (190.3 MB)"
    assert install.large_download("  Downloading six-1.17.0.whl (11 kB)") is None


def test_ctrl_c_is_said_in_one_word(calls, capsys, monkeypatch, tmp_path):
    def interrupted(command, **defaults):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "run", interrupted)
    assert install.main(["demo", f"--venv={tmp_path / 'venv'}"]) == 130
    assert capsys.readouterr().out.endswith("Stopped.\n")


def test_test_runs_the_linter_the_format_check_and_pytest_with_its_options(calls, tmp_path):
    assert install.main(["test", f"--venv={tmp_path / 'venv'}", "-k", "metric"]) == 0
    *checks, tests = (command[2:] for command in calls[-3:])
    assert checks == [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
    assert tests[0] == "pytest" and 1 <= int(tests[tests.index("-n") + 1]) <= install.MOST_PROCESSES
    assert tests[-2:] == ["-k", "metric"]


@pytest.mark.parametrize(("failing", "code"), [("pytest", 5), ("ruff", 1)])
def test_a_failing_check_gives_its_exit_code(calls, monkeypatch, tmp_path, failing, code):
    monkeypatch.setattr(install, "run", lambda command, **defaults: 5 if failing in command else 0)
    assert install.main(["test", f"--venv={tmp_path / 'venv'}"]) == code


def test_a_missing_folder_after_venv_is_asked_for(calls, capsys):
    assert install.main(["demo", "--venv"]) == 1
    assert "--venv needs a folder" in capsys.readouterr().out
