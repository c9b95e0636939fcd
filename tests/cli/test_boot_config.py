"""`pvemu boot CONFIG.cfg`: xl's configuration, with the command line on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import SAY_DOMID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Done, MakeGuest, Pvemu

    Boots = Callable[..., Done]

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


#: As its command line says: its domain's number (its handle's last byte), and in the first domain that shutdown.
SHUTS_DOWN_ONCE = SAY_DOMID + """
        movzbl  128(%rbx), %eax                 # start_info.cmd_line
        sub     $'0', %eax
        cmp     $1, %r13d
        je      1f
        xor     %eax, %eax
1:      mov     %eax, argument(%rip)
        mov     $2, %edi                        # SCHEDOP_shutdown
        lea     argument(%rip), %rsi
        mov     $29, %eax
        syscall
number: .byte   0
handle: .skip   16
"""


def last_line(done: Done) -> str:
    return done.err.splitlines()[-1]


class TestActions:
    """on_poweroff, on_reboot, on_crash, on_watchdog, on_soft_reset: whether the guest boots again."""

    @pytest.fixture
    def boots(self, pvemu: Pvemu, micro: MakeGuest, tmp_path: Path) -> Boots:
        kernel = micro(SHUTS_DOWN_ONCE)

        def run(reason: int, actions: str, *arguments: str) -> Done:
            path = tmp_path / "guest.cfg"
            path.write_text(f'name="g"\nkernel="{kernel}"\nmemory=16\nextra="{reason}"\n{actions}\n')
            return pvemu("boot", path, *arguments)

        return run

    @pytest.mark.parametrize("action", ["restart", "rename-restart", "coredump-restart"])
    @pytest.mark.parametrize(
        ("reason", "key"), [(0, "poweroff"), (1, "reboot"), (3, "crash"), (4, "watchdog"), (5, "soft_reset")]
    )
    def test_actions_that_restart(self, boots: Boots, reason: int, key: str, action: str) -> None:
        done = boots(reason, f'on_{key}="{action}"')
        assert (done.code, done.out) == (0, b"12")
        word = "reboot" if reason == 1 else "restart"
        assert f"the guest powered itself off after 1 {word} " in last_line(done)
        assert ("writes no core dumps" in done.err) == action.startswith("coredump")

    @pytest.mark.parametrize("action", ["destroy", "preserve", "coredump-destroy", "soft-reset"])
    @pytest.mark.parametrize(
        ("reason", "key", "code"),
        [(0, "poweroff", 0), (1, "reboot", 5), (3, "crash", 6), (4, "watchdog", 6), (5, "soft_reset", 5)],
    )
    def test_actions_that_do_not(self, boots: Boots, reason: int, key: str, code: int, action: str) -> None:
        done = boots(reason, f'on_{key}="{action}"', "--max-reboots", "5")
        assert (done.code, done.out) == (code, b"1")
        assert "--max-reboots" not in last_line(done)

    def test_what_xl_does_when_nothing_is_said(self, boots: Boots) -> None:
        assert [boots(reason, "").out for reason in (0, 1, 3, 4, 5)] == [b"1", b"12", b"1", b"1", b"1"]

    def test_restarts_are_counted_like_reboots(self, boots: Boots) -> None:
        done = boots(0, 'on_poweroff="restart"', "--max-reboots", "3")
        assert (done.code, done.out) == (0, b"1234")
        assert boots(0, 'on_poweroff="restart"', "--max-reboots", "0").out == b"1"
        assert "pvemu: domain 1 shut down (poweroff) at 0.0" in done.err

    def test_a_crash_that_is_followed_by_a_restart_is_told(
        self, pvemu: Pvemu, micro: MakeGuest, tmp_path: Path
    ) -> None:
        path = tmp_path / "crash.cfg"
        path.write_text(f'name="g"\nkernel="{micro("ud2")}"\nmemory=16\non_crash="restart"\n')
        done = pvemu("boot", path)
        assert done.code == 6
        assert "(XEN) d1v0 Unhandled: vec 6, #UD[ffffffff]" in done.err
        assert "pvemu: domain 1 shut down (crash) at 0.0" in done.err
        assert "d2v0 Unhandled: vec 6" in last_line(done)
