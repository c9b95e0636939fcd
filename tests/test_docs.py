"""Every snippet in the README and the docs runs, every link leads somewhere, and CI runs what the README says.

A fence's first word is its language; `sh` and `python` run. Those that cannot say so after it, where a reader of the
source sees it: `illustration` (needs a terminal, say) or `front-door` (the two commands, checked in another way).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRONT_DOORS = ["tools/demo", "tools/check"]
TOOL_SCRIPTS = ["tools/setup", "tools/check", "tools/demo", ".ci/run"]


class Snippet(NamedTuple):
    document: Path
    line: int
    language: str
    note: str
    text: str


def snippets() -> list[Snippet]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            language, _, note = match[1].partition(" ")
            found.append(Snippet(document, text.count("\n", 0, match.start()) + 2, language, note, match[2]))
    return found


def name_of(snippet: Snippet) -> str:
    return f"{snippet.document.name}:{snippet.line}"


RUNNABLE = [snippet for snippet in snippets() if snippet.language in {"sh", "python"} and not snippet.note]


def installed(folder: Path) -> Path:
    """A folder that makes pytest find the plugin as in an installed pvemu; empty where it is installed."""
    site = folder / "site"
    site.mkdir()
    if not entry_points(group="pytest11", name="pvemu"):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        about = site / f"pvemu-{project['version']}.dist-info"
        about.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: pvemu\nVersion: {project['version']}\n"
        (about / "METADATA").write_text(metadata, encoding="utf-8")
        rows = "".join(f"{name} = {target}\n" for name, target in project["entry-points"]["pytest11"].items())
        (about / "entry_points.txt").write_text(f"[pytest11]\n{rows}", encoding="utf-8")
    return site


@pytest.mark.parametrize("snippet", RUNNABLE, ids=name_of)
def test_a_snippet_runs(snippet: Snippet, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    start = "import sys; from pvemu.cli import main; sys.exit(main())"
    (tools / "pvemu").write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{start}' \"$@\"\n", encoding="utf-8")
    (tools / "python3").write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n", encoding="utf-8")
    for script in tools.iterdir():
        script.chmod(0o755)
    place = tmp_path / "here"
    place.mkdir()
    path = os.pathsep.join([str(ROOT), str(installed(tmp_path))])
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": path}
    shell = ["bash", "-euo", "pipefail", "-c"] if snippet.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, snippet.text], cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def test_what_does_not_run_says_so_and_is_rare() -> None:
    notes = [snippet.note for snippet in snippets() if snippet.note]
    assert sorted(set(notes)) == ["front-door", "illustration"]
    assert notes.count("front-door") == 1
    assert notes.count("illustration") <= 3
    assert {snippet.language for snippet in snippets()} <= {"sh", "python", "text"}


def test_the_readme_names_the_two_front_doors_and_ci_runs_the_second() -> None:
    (block,) = [snippet for snippet in snippets() if snippet.note == "front-door"]
    assert block.document.name == "README.md"
    assert [line.split("#")[0].strip() for line in block.text.splitlines()] == FRONT_DOORS
    for door in FRONT_DOORS:
        assert os.access(ROOT / door, os.X_OK)
        assert "tools/setup" in (ROOT / door).read_text(encoding="utf-8")
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert ci.splitlines()[-1] == "exec tools/check"


@pytest.mark.parametrize("script", TOOL_SCRIPTS)
def test_a_script_is_bash_that_parses(script: str) -> None:
    assert (ROOT / script).read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", ROOT / script], check=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            assert (document.parent / target.split("#")[0]).exists(), target


def test_the_guide_knows_every_option_of_boot() -> None:
    start = "import sys; from pvemu.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", start, "boot", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    options = set(re.findall(r"--[a-z][a-z-]*", done.stdout)) - {"--help"}
    assert options
    guide = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    assert sorted(option for option in options if f"{option}" not in guide) == []
    assert options >= set(re.findall(r"--[a-z][a-z-]*", guide.split("```")[1]))


def test_the_guide_and_the_readme_agree_on_the_reports_keys() -> None:
    keys = [
        {key for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for key in re.findall(r"`([a-z_]+)`", row)}
        for text in ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/guide.md"))
    ]
    assert keys[0] == keys[1]


def test_the_demo_shows_both_stages(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "tools/demo.py"],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "stage 0: GRUB" in done.stdout
    assert "stage 1: GRUB" in done.stdout
    assert "pvemu-demo: hello from the guest's own GRUB (x86_64-xen)" in done.stdout
