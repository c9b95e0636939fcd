"""`pvemu boot CONFIG.cfg`: xl's configuration, with the command line on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import MakeGuest, Pvemu

SAY_CMDLINE = """
        lea     128(%rbx), %rsi                 # start_info.cmd_line
        mov     $4, %edx
        call    write_console
        shutdown 0
"""


@pytest.fixture
def config(micro: MakeGuest, tmp_path: Path) -> Path:
    path = tmp_path / "guest.cfg"
    path.write_text(f'name="g"\nkernel="{micro(SAY_CMDLINE)}"\nmemory=16\nextra="four"\n')
    return path


def test_a_configuration_boots(pvemu: Pvemu, config: Path) -> None:
    assert pvemu("boot", config)[:2] == (0, b"four")
    other = config.with_suffix(".txt")
    config.rename(other)
    assert pvemu("boot", "--config", other)[:2] == (0, b"four")


def test_options_win(pvemu: Pvemu, config: Path) -> None:
    assert pvemu("boot", config, "--cmdline", "more").out == b"more"


def test_its_warnings_and_errors_are_told(pvemu: Pvemu, config: Path) -> None:
    with config.open("a") as file:
        file.write("memroy=1\n")
    assert (
        "guest.cfg:5: warning: xl knows no memroy and does without it; did you mean memory?"
        in pvemu("boot", config).err
    )
    with config.open("a") as file:
        file.write("disk=[ 'x\n")
    done = pvemu("boot", config)
    assert done.code == 2
    assert done.line == f"pvemu: {config}:6: lexical error at `'x'; close the quotes on the same line"


def test_neither_kernel_nor_configuration(pvemu: Pvemu) -> None:
    done = pvemu("boot")
    assert (done.code, done.line) == (2, "pvemu: no kernel; give the path of one, or an xl configuration with --config")
