"""`monolith completion`: what each shell makes of the script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from monolith.cli import COMMANDS, main


@pytest.fixture
def script(tmp_path):
    """The file with the script of a shell, as a user writes it."""

    def written(shell: str):
        if shutil.which(shell) is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {shell} on the path: apt-get install {shell}")
        path = tmp_path / f"monolith.{shell}"
        command = [sys.executable, "-m", "monolith", "completion", shell]
        path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        (tmp_path / "here").mkdir()
        (tmp_path / "here/shop.yaml").touch()
        return path

    return written


def said(folder, *command: str) -> list[str]:
    """What a shell prints, in a folder that holds a job file alone."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder / "here", check=True)
    assert done.stderr == ""
    return done.stdout.split()


def bash(script, *words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    line = ["monolith", *words]
    quoted = " ".join(f"'{word}'" for word in line)
    code = f"""
        source {script}
        COMP_WORDS=({quoted}) COMP_CWORD={len(words)}
        _shtab_monolith monolith '{line[-1]}' '{line[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return said(script.parent, "bash", "--norc", "-c", code)


def test_bash_completes_commands_options_choices_and_files(script):
    path = script("bash")
    assert set(COMMANDS) <= set(bash(path, ""))
    assert bash(path, "ex") == ["export"]
    assert bash(path, "export", "--ta") == ["--table"]
    assert bash(path, "serve", "--mode", "d") == ["direct"]
    assert bash(path, "train", "") == ["shop.yaml"]
    assert bash(path, "inspect", "sh") == ["shop.yaml"]


def test_fish_completes_commands_options_and_files(script):
    path = script("fish")

    def fish(line: str) -> list[str]:
        return [text.split("\t")[0] for text in said(path.parent, "fish", "-c", f"source {path}; complete -C '{line}'")]

    assert fish("monolith expo")[0] == "export"
    assert fish("monolith export --ta")[0] == "--table"
    assert fish("monolith train sh") == ["shop.yaml"]


def test_zsh_finds_the_script_in_its_path_and_reads_it(script):
    path = script("zsh")
    functions = path.parent / "functions"
    functions.mkdir()
    path.rename(functions / "_monolith")
    assert said(path.parent, "zsh", "-f", "-n", str(functions / "_monolith")) == []
    begun = f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[monolith]"
    assert said(path.parent, "zsh", "-f", "-c", begun) == ["_monolith"]
    for name in COMMANDS:
        assert f"_shtab_monolith_{name}_options" in (functions / "_monolith").read_text()


def test_a_shell_that_is_none_is_refused_with_those_that_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2
    assert "'tcsh' (choose from" in capsys.readouterr().err


def test_the_missing_library_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit):
        main(["completion", "bash"])
    assert "pip install 'monolith-recsys[completion]'" in capsys.readouterr().err
