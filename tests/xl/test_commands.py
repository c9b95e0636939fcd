"""xl's commands on domains in background processes: their output, their exit codes, and what becomes of domains."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import ECHO

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.xl.conftest import Xl

    Config = Callable[..., Path]

ROOT = Path(__file__).parents[2]
SAY_AND_POWER_OFF = 'print "first line\\r\\nsecond line\\r\\n"\nshutdown 0'
SLEEP = """
        xor     %ebp, %ebp
1:      mov     $3, %edi                        # SCHEDOP_poll, no ports, an hour
        mov     $3600000000000, %rax
        add     %rax, %rbp
        lea     poll(%rip), %rsi
        mov     %rbp, 16(%rsi)
        mov     $29, %eax
        syscall
        jmp     1b
        .balign 8
poll:   .quad   0, 0, 0
"""
SAY_AND_SLEEP = 'print "awake\\r\\n"' + SLEEP
SPIN = "1: jmp 1b"


def state(xl: Xl, name: str) -> str:
    return xl("list", name).out.splitlines()[1].split()[4]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_runner_s_three_calls(xl: Xl, config: Config) -> None:
    """create -p, console, unpause: as XTF's runner does it."""
    created = xl("create", "-p", config("runner", SAY_AND_POWER_OFF))
    assert (created.code, created.out) == (0, "")
    assert created.err == f"Parsing config from {xl.folder}/runner.cfg\n"
    assert state(xl, "runner") == "--p---"
    console = xl.start("console", "runner")
    assert xl("unpause", "runner").code == 0
    out, err = console.communicate(timeout=60)
    assert (console.returncode, out, err) == (0, "first line\nsecond line\n", "")  # text mode: \r\n reads as \n
    xl.wait_gone("runner")


def test_who_comes_late_sees_the_console_all_the_same(xl: Xl, config: Config) -> None:
    assert xl("create", "-q", config("late", SAY_AND_POWER_OFF)).err == ""
    xl.wait_gone("late")
    assert xl("console", "late").out == "first line\nsecond line\n"
    log = xl.run_directory / "console/guest-late.log"
    assert log.read_bytes() == b"first line\r\nsecond line\r\n"
    assert xl("console", "never-was").err == "never-was is an invalid domain identifier (rc=-6)\n"


def test_in_the_foreground(xl: Xl, config: Config) -> None:
    done = xl("create", "-F", config("front", SAY_AND_POWER_OFF))
    assert done.code == 0
    assert [re.sub(r"\d+", "N", line) for line in done.err.splitlines()] == [
        re.sub(r"\d+", "N", f"Parsing config from {xl.folder}/front.cfg"),
        "Waiting for domain front (domid N) to die [pid N]",
        "Domain N has shut down, reason code N NxN",
        "Action for shutdown reason code N is destroy",
        "Domain N needs to be cleaned up: destroying the domain",
        "Done. Exiting now",
    ]


def test_create_with_the_console(xl: Xl, config: Config) -> None:
    done = xl("create", "-q", "-c", config("attached", SAY_AND_POWER_OFF))
    assert (done.code, done.out, done.err) == (0, "first line\nsecond line\n", "")


def test_a_domain_and_what_xl_says_of_it(xl: Xl, config: Config) -> None:
    path = config("sleeper", SAY_AND_SLEEP, 'uuid="01234567-89ab-cdef-0123-456789abcdef"')
    assert xl("create", "-q", path, "memory=20").code == 0
    domid = xl("domid", "sleeper").out.strip()
    assert xl("domname", domid).out == "sleeper\n"
    wait_for(lambda: state(xl, "sleeper") == "-b----")
    rows = xl("list").out.splitlines()
    assert rows[0] == "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    assert rows[1].startswith("Domain-0                                     0 ")
    assert rows[2].startswith(f"{'sleeper':<40} {domid:>5}    20     1     -b----  ")
    assert "01234567-89ab-cdef-0123-456789abcdef        -                -" in xl("list", "-v", "sleeper").out
    assert '"target_memkb": 20480' in xl("list", "-l", "sleeper").out
    assert f"01234567-89ab-cdef-0123-456789abcdef  {domid}    sleeper" in xl("vm-list").out
    assert re.search(rf"^sleeper +{domid}  0:00:\d\d$", xl("uptime", "sleeper").out, re.MULTILINE)
    assert xl("pause", "sleeper").code == 0
    wait_for(lambda: state(xl, "sleeper") == "--p---")
    xl("unpause", domid)
    wait_for(lambda: state(xl, "sleeper") == "-b----")

    second = xl("create", "-q", path)
    assert (second.code, 'Domain with name "sleeper" already exists.' in second.err) == (3, True)
    assert xl("destroy", "sleeper").code == 0
    assert "sleeper" not in xl.names()
    gone = xl("destroy", "sleeper")
    assert (gone.code, gone.err) == (1, "sleeper is an invalid domain identifier (rc=-6)\n")


def test_domids_rise(xl: Xl, config: Config) -> None:
    path = config("riser", SAY_AND_SLEEP)
    seen = []
    for _ in range(2):
        xl("create", "-q", path)
        seen.append(int(xl("domid", "riser").out))
        xl("destroy", "riser")
    assert seen[1] == seen[0] + 1


def test_keys_reach_the_guest_from_a_terminal(xl: Xl, config: Config) -> None:
    xl("create", "-q", config("keys", ECHO))
    master, slave = pty.openpty()
    console = xl.start("console", "keys", stdin=slave, stdout=slave)
    os.close(slave)

    def read_until(text: bytes) -> None:
        seen = b""
        while text not in seen:
            seen += os.read(master, 1024)

    read_until(b"key? ")
    os.write(master, b"x")
    read_until(b"xkey? ")
    os.write(master, b"\x1d")  # Ctrl-]
    console.communicate(timeout=30)
    assert console.returncode == 0
    assert state(xl, "keys")[0] in "rb-"
    again = xl.start("console", "keys", stdin=subprocess.PIPE)
    assert again.stdin is not None
    again.stdin.write("q")  # a pipe is no terminal: xl does not read it
    again.stdin.flush()
    time.sleep(0.2)
    assert again.poll() is None
    xl("destroy", "keys")
    again.communicate(timeout=30)
    assert again.returncode == 0
    os.close(master)


def test_a_guest_that_spins_can_be_paused_and_destroyed(xl: Xl, config: Config) -> None:
    xl("create", "-q", config("spinner", SPIN))
    xl("pause", "spinner")
    wait_for(lambda: state(xl, "spinner") == "--p---")
    xl("unpause", "spinner")
    xl("destroy", "spinner")
    assert "spinner" not in xl.names()


#: Waits for a watch on control/shutdown to fire twice, the second time with a value: as Linux does, but for the rest.
OBEDIENT = """
        lea     0x1000(%rbx), %r13              # the xenstore ring
        lea     request(%rip), %rsi
        mov     %r13, %rdi
        mov     $end - request, %ecx
        rep movsb
        movl    $end - request, 2052(%r13)      # req_prod
        mov     64(%rbx), %eax
        mov     %eax, argument(%rip)
        mov     $4, %edi                        # EVTCHNOP_send
        lea     argument(%rip), %rsi
        mov     $32, %eax
        syscall
1:      mov     $0, %edi                        # SCHEDOP_yield
        mov     $29, %eax
        syscall
        cmpl    $80, 2060(%r13)                 # rsp_prod: the reply (19) and two events (16 + 17 each)
        jb      1b
        shutdown 0
request: .long  4, 0, 0, end - body             # XS_WATCH
body:   .asciz  "control/shutdown", "t"
end:
"""


def test_a_guest_that_listens_shuts_down(xl: Xl, config: Config) -> None:
    xl("create", "-q", config("obedient", OBEDIENT))
    time.sleep(0.2)
    assert "obedient" in xl.names()
    assert xl("shutdown", "-w", "obedient").code == 0
    assert "obedient" not in xl.names()


def test_shutdown_of_a_guest_that_does_not_listen(xl: Xl, config: Config) -> None:
    xl("create", "-q", config("deaf", SAY_AND_SLEEP))
    done = xl("shutdown", "deaf")
    assert (done.code, done.err) == (0, f"Shutting down domain {xl('domid', 'deaf').out.strip()}\n")
    assert xl("shutdown").err == "You must specify -a or a domain id.\n\n"
    waiting = xl.start("shutdown", "-w", "deaf")
    time.sleep(0.3)
    assert waiting.poll() is None
    xl("destroy", "deaf")
    waiting.communicate(timeout=30)
    assert waiting.returncode == 0


def test_a_crash_is_kept_when_asked_for_and_told_by_dmesg(xl: Xl, config: Config) -> None:
    xl("dmesg", "-c")
    xl("create", "-q", config("crasher", "ud2", 'on_crash="preserve"'))
    wait_for(lambda: state(xl, "crasher") == "---sc-")
    assert " 3" in xl("list", "-v", "crasher").out.splitlines()[1]
    told = xl("dmesg").out
    assert told.startswith("(XEN) ")
    assert "Unhandled: vec 6, #UD[ffffffff]" in told
    assert xl("dmesg", "-c").out == told
    assert xl("dmesg").out == ""
    xl("destroy", "crasher")
    assert "crasher" not in xl.names()


def test_a_reboot_makes_a_new_domain_and_not_for_ever(xl: Xl, config: Config) -> None:
    path = config("again", 'print "once\\r\\n"\nshutdown 1')
    done = xl("create", "-F", path)
    assert "Done. Rebooting now" in done.err
    log = xl.run_directory / "console/guest-again.log"
    wait_for(lambda: len(log.read_bytes()) >= 17 * 6)
    xl.wait_gone("again")
    assert log.read_bytes() == b"once\r\n" * 17
    assert xl("create", "-q", path, 'on_reboot="destroy"').code == 0
    xl.wait_gone("again")
    assert log.read_bytes() == b"once\r\n" * 18


def test_a_domain_whose_process_was_killed_is_swept_away(xl: Xl, config: Config) -> None:
    xl("create", "-q", config("victim", SAY_AND_SLEEP))
    log = (xl.run_directory / "log/xl-victim.log").read_text()
    found = re.search(r"\[pid (\d+)\]", log)
    assert found is not None
    os.kill(int(found[1]), signal.SIGKILL)
    xl.wait_gone("victim")
    assert xl("create", "-q", xl.folder / "victim.cfg").code == 0
    xl("destroy", "victim")


def test_a_configuration_is_shown_and_nothing_made(xl: Xl, config: Config) -> None:
    done = xl("create", "-n", config("dry", SAY_AND_POWER_OFF))
    assert (done.code, '"name": "dry"' in done.out) == (0, True)
    assert xl("-N", "create", xl.folder / "dry.cfg").out == done.out
    assert xl.names() == []


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (
            ["create", "nowhere.cfg"],
            3,
            "Parsing config from nowhere.cfg\nFailed to read config file: nowhere.cfg: No such",
        ),
        (["create"], 6, "Config file not specified and none in save file\n"),
        (["create", "-q", "/dev/null"], 1, "Domain name must be specified.\n"),
        (["create", "-q", "/dev/null", 'name="x"'], 1, "Neither kernel nor bootloader specified\n"),
        (["create", "-q", "/dev/null", "name=x"], 1, "/dev/null:2: config parsing error near `x': syntax error"),
        (["create", "-q", "/dev/null", 'name="x"', 'kernel="/dev/null"', "memory=16"], 3, "libxl: error: "),
        (["create", "-z", "x.cfg"], 2, "option `z' not supported.\n"),
        (["pause"], 2, "'xl pause' requires at least 1 argument.\n\n"),
        (["unpause", "nobody"], 1, "nobody is an invalid domain identifier (rc=-6)\n"),
        (["list", "77"], 1, "Error: Domain '77' does not exist.\n"),
        (["list", "nobody"], 1, "nobody is an invalid domain identifier (rc=-6)\n"),
        (["domid", "nobody"], 1, "Can't get domid of domain name 'nobody', maybe this domain does not exist.\n"),
        (["domname", "77"], 1, "Can't get domain name of domain id '77', maybe this domain does not exist.\n"),
        (["domname", "x"], 1, "Invalid domain id.\n\n"),
        (["console", "-t", "vga", "x"], 1, "console type supported are: pv, serial, vuart\n"),
        (["destroy", "0"], 1, "Not destroying domain 0; use -f to force.\n"),
        (["migrate", "x", "y"], 1, "command not implemented\n"),
        (["-N", "list"], 1, "command does not implement -N (dryrun) option\n"),
        (["-z"], 1, "unknown global option\n"),
    ],
)
def test_refusals(xl: Xl, words: list[str], code: int, err: str) -> None:
    done = xl(*words)
    assert (done.code, done.err[: len(err)]) == (code, err)
    assert "Traceback" not in done.err


def test_a_full_disk_is_told(xl: Xl) -> None:
    with Path("/dev/full").open("w") as full:
        process = xl.start("list", stdout=full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "xl: cannot be written or read: No space left on device\n")


def test_help(xl: Xl) -> None:
    assert xl("help").out.startswith("Usage xl [-vfNtT] <subcommand> [args]\n")
    assert xl("create", "-h").out.startswith("Usage: xl [-vtTN] create <ConfigFile> [options] [vars]\n")
    assert xl("des", "-h").code == 0  # a beginning is enough where nothing else begins so


def test_info_is_what_a_runner_asks_for(xl: Xl) -> None:
    assert xl("info", "xen_caps").out == "xen-3.0-x86_64 xen-3.0-x86_32p \n"
    assert "pv" in xl("info", "virt_caps").out.split()
    everything = xl("info").out
    assert "xen_version            : 4.17.7\n" in everything
    assert "virt_caps              : pv gnttab-v1 gnttab-v2\n" in everything
    assert "cpu_topology           :\n" in xl("info", "-n").out


def test_a_runtime_directory_that_cannot_be(xl: Xl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {**xl.environment, "PVEMU_RUN": str(tmp_path / "file/run")}
    command = [sys.executable, "-m", "pvemu.xl", "list"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "name a folder of yours in PVEMU_RUN" in done.stderr


def test_nothing_stays_behind(xl: Xl, config: Config) -> None:
    """The warm process leaves a few seconds after the last domain."""
    xl("create", "-q", config("last", SAY_AND_POWER_OFF))
    xl.wait_gone("last")
    assert xl.names() == []
    wait_for(lambda: not [path.name for path in xl.run_directory.iterdir() if path.name.startswith("warm-")])
    assert (xl.run_directory / "log/warm.log").read_text() == ""
