"""A wrong expectation in each field of a scenario: the message names the field, the wanted and the found."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


RAMDISK = hashlib.sha256(b"a ramdisk").hexdigest()
HEAD = '[[scenario]]\nname = "{name}"\nkernel = "./loader:grub.bin"\ndisks = ["./loader:disk.img"]\nmemory = 64\n'
HALT = 'keys = [{ choose = "halt" }]\n'
CHAIN = 'keys = [{ choose = "chainload" }]\n'
STAGES = "[scenario.expect]\nstages = [{{ }}, {{ {} }}]\n"

#: Name -> the rest of the scenario, the field that is wrong, what it wanted, what was found (a regular expression).
WRONG = {
    "stage-os": (CHAIN + STAGES.format('os = "linux"'), "expect.stages[1].os", "'linux'", "'GRUB'"),
    "stage-version": (CHAIN + STAGES.format('version = "6.1"'), "expect.stages[1].version", "'6.1'", "none"),
    "stage-file": (
        CHAIN + STAGES.format('file = "xvda2:/second.elf"'),
        "expect.stages[1].file",
        "'xvda2:/second.elf'",
        "'xvda1:/second.elf'",
    ),
    "stage-cmdline": (CHAIN + STAGES.format('cmdline = "none"'), "expect.stages[1].cmdline", "'none'", "'an argument'"),
    "stage-ramdisk": (CHAIN + STAGES.format('ramdisk = "00"'), "expect.stages[1].ramdisk", "'00'", f"'{RAMDISK}'"),
    "stage-ramdisk-file": (
        CHAIN + STAGES.format('ramdisk_file = ""'),
        "expect.stages[1].ramdisk_file",
        "''",
        "'xvda1:/ramdisk'",
    ),
    "too-few-stages": (
        HALT + STAGES.format(""),
        "expect.stages",
        "2 stages",
        "1, and none when the guest shut down .* more",
    ),
    "too-many-stages": (
        CHAIN,
        "expect.stages",
        "1 stage",
        r"one more: 1, GRUB from xvda1:/second\.elf, started at 0\.\d+ s",
    ),
    "menu-entries": (
        HALT + '[scenario.expect.menu]\nentries = ["halt", "boot"]\n',
        "expect.menu.entries",
        "'halt', 'boot'",
        "'halt', 'chainload', .*",
    ),
    "menu-selected": (
        HALT + '[scenario.expect.menu]\nselected = "save"\n',
        "expect.menu.selected",
        "'save'",
        "'halt'",
    ),
    "menu-countdown": (HALT + "[scenario.expect.menu]\ncountdown = 9\n", "expect.menu.countdown", "9 s", "3 s"),
    "console": (
        HALT + '[scenario.expect]\nconsole = ["Reading", "I halt", "Welcome"]\n',
        "expect.console[2]",
        "a match for 'Welcome'",
        r"none when the guest shut down \(poweroff\)",
    ),
    "never": (
        HALT + '[scenario.expect]\nnever = ["no", "I h.lt"]\n',
        "expect.never[1]",
        "no match for 'I h.lt'",
        "'I halt'",
    ),
    "shutdown": (HALT + '[scenario.expect]\nshutdown = "reboot"\n', "expect.shutdown", "'reboot'", "'poweroff'"),
    "within": (
        'keys = [{ choose = "wait" }]\n[scenario.expect]\nwithin = 2\nshutdown = "poweroff"\n',
        "expect.within",
        "all of it in 2 guest seconds",
        "expect.shutdown still open then",
    ),
    "file-is-not-there": (
        HALT + '[scenario.expect]\nshutdown = "poweroff"\nfiles = [{ path = "xvda1:/nothing" }]\n',
        "expect.files[0].path",
        "a file xvda1:/nothing",
        "none",
    ),
    "file-is-there": (
        HALT + '[scenario.expect]\nshutdown = "poweroff"\nfiles = [{ path = "xvda1:/ramdisk", exists = false }]\n',
        "expect.files[0].path",
        "no file xvda1:/ramdisk",
        "one",
    ),
    "file-matches": (
        HALT
        + '[scenario.expect]\nshutdown = "poweroff"\nfiles = [{ path = "xvda1:/grubenv", matches = "saved=this" }]\n',
        "expect.files[0].matches",
        "a match for 'saved=this'",
        "'# GRUB Environment Block.*'",
    ),
    "file-sha256": (
        HALT
        + f'[scenario.expect]\nshutdown = "poweroff"\nfiles = [{{ path = "xvda1:/ramdisk", sha256 = "{"0" * 64}" }}]\n',
        "expect.files[0].sha256",
        "0" * 64,
        RAMDISK,
    ),
    "choose": (
        'keys = [{ choose = "boot" }]\n',
        "keys[0].choose",
        "a menu entry 'boot'",
        "entries 'halt', 'chainload', .*",
    ),
    "choose-number": ("keys = [{ choose = 9 }]\n", "keys[0].choose", "a menu entry of number 9", "9 entries"),
    "choose-from-many": (
        'keys = [{ choose = "many" }, { choose = "number 10a" }]\n',
        "keys[1].choose",
        "a menu entry 'number 10a'",
        "entries 'number 0a', 'number 0b', .*, 'number 9c', 'a title that .*>'",
    ),
    "key-never-due": (
        'keys = [{ send = "x", after = "no such thing" }]\n[scenario.expect]\nconsole = ["I halt"]\n',
        "keys[0]",
        "a match for 'no such thing', to type then",
        r"none when the guest shut down \(poweroff\)",
    ),
    "an-error": (
        'keys = [{ choose = "complain" }]\n[scenario.expect]\nshutdown = "poweroff"\n',
        "allow.errors",
        "no error on the console but those listed",
        '"error: .*"',
    ),
}

#: The same with what is right: all of it passes.
RIGHT = {
    "far-down": 'keys = [{ choose = "many" }, { choose = "number 8b" }]\n[scenario.expect]\nconsole = ["I am 8b"]\n',
    "back-up": 'keys = [{ choose = "many" }, { press = ["page-down", "page-down"] }, { choose = "number 0a" }]\n'
    '[scenario.expect]\nconsole = ["I am 0a"]\n',
    "by-place": 'keys = [{ choose = "many" }, { press = ["page-down", "page-down"] }, { choose = 17 }]\n'
    '[scenario.expect]\nconsole = ["I am 5c"]\n',
    "cut": 'keys = [{ choose = "many" }, { choose = "a title that is longer than a line of the screen has room for, so '
    'that its end cannot be seen" }]\n[scenario.expect]\nshutdown = "poweroff"\n',
    "stages": CHAIN
    + STAGES.format(
        f'os = "GRUB", file = "xvda1:/second.elf", cmdline = "an argument", ramdisk = "{RAMDISK}", '
        'ramdisk_file = "xvda1:/ramdisk"'
    ),
    "menu": HALT
    + '[scenario.expect]\nshutdown = "poweroff"\n[scenario.expect.menu]\nselected = "halt"\ncountdown = 3\n',
    "files": 'keys = [{ choose = "save" }]\n[scenario.expect]\nshutdown = "poweroff"\n'
    'files = [{ path = "xvda1:/grubenv", matches = "saved=this" }, { path = "xvda1:/nothing", exists = false }]\n',
    "an-error-that-may-be": 'keys = [{ choose = "complain" }]\n[scenario.expect]\nshutdown = "poweroff"\n'
    '[scenario.allow]\nerrors = ["error: .*"]\n',
    "more-stages": CHAIN + '[scenario.expect]\nconsole = ["I am"]\n[scenario.allow]\nstages = true\n',
    "keys": 'keys = [{ choose = "ask" }, { after = "Say something:", send = "abc\\r" }]\n'
    '[scenario.expect]\nconsole = ["You said abc"]\n',
    "pressed": 'keys = [{ when = "menu", press = ["down", "up", "enter"] }]\n[scenario.expect]\nconsole = ["I halt"]\n',
    "at-a-time": 'keys = [{ at = 1.5, press = ["enter"] }]\n[scenario.expect]\nconsole = ["I halt"]\n',
    "never-within": 'keys = []\n[scenario.expect]\nwithin = 2\nnever = ["I halt"]\n',
    "by-itself": '[scenario.expect]\nshutdown = "poweroff"\nconsole = ["I halt"]\nwithin = 4\n',
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Name -> the lines that were printed for it, of one run of all."""
    import subprocess
    import sys

    from tests.scenario.conftest import RECIPE, environment

    folder: Path = tmp_path_factory.mktemp("fields")
    (folder / "loader" / "files").mkdir(parents=True)
    (folder / "loader" / "files" / "grubenv").write_text("# GRUB Environment Block\n".ljust(1024, "#"))
    (folder / "loader" / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    bodies = {name: body for name, (body, *_) in WRONG.items()} | RIGHT
    text = "".join(HEAD.format(name=name) + body for name, body in bodies.items())
    (folder / "all.pvemu.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pvemu.cli", "test", "all.pvemu.toml"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    lines: dict[str, list[str]] = {}
    for line in done.stderr.splitlines():
        if found := re.match(r"\w+ +all\.pvemu\.toml::(\S+)", line):
            lines[found[1]] = current = [line]
        else:
            current.append(line.strip())
    return lines


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, said: dict[str, list[str]]) -> None:
    _, field, wanted, found = WRONG[name]
    verdict, first, *_ = said[name]
    assert verdict.startswith("FAILED")
    assert re.fullmatch(rf"{re.escape(field)}: wanted {re.escape(wanted)}, found {found}", first)
    assert any(re.match(r"last stage reached: [01], GRUB", line) for line in said[name])


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str, said: dict[str, list[str]]) -> None:
    assert said[name][0].startswith("ok "), said[name]
