"""GRUB scripts through grub-shell, as GRUB's own tests run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def grub_shell(script: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "tools" / "grub-shell", *words],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **(env or {})},
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["x86_64-xen", "i386-xen"])
def test_what_a_script_prints_comes_out_and_nothing_else(target: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("of a file\n", encoding="utf-8")
    script = 'for i in 1 2; do echo "i=$i"; done\ncat /some/file\ntr 12 ab 1x2\necho $grub_cpu-$grub_platform\n'
    done = grub_shell(
        script, f"--files=/some/file={tmp_path}/data", "--modules=tr,cat", env={"GRUB_SHELL_TARGET": target}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line] == ["i=1", "i=2", "of a file", "axb", target]


def test_a_file_and_the_options_of_other_machines(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        "echo -n; echo $grubshell $halt_cmd; ls /boot/grub; ls (xen/xvda)\n", encoding="utf-8"
    )
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    ignored = [
        "--boot=cd",
        "--qemu=qemu-system-i386",
        "--qemu-opts=-m 512",
        "--debug",
        "--serial=com0",
        "--mkrescue-arg=x",
    ]
    done = grub_shell("", *ignored, f"--disk={disk}", "--trim", str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "yes halt"
    assert "testcase.cfg" in done.stdout
    assert "xen/xvda" in done.stdout


def test_no_trim_and_a_script_that_takes_too_long() -> None:
    done = grub_shell("echo begin\nsleep 100\necho end\n", "--no-trim", "--timeout=5")
    assert done.returncode == 137
    assert done.stdout.startswith("Welcome to GRUB!")
    assert "begin" in done.stdout
    assert "end" not in done.stdout
    assert done.stderr == "pvemu grub-shell: timed out after 5 guest seconds\n"


def test_a_script_that_does_not_power_off() -> None:
    done = grub_shell("reboot\n")
    assert (done.returncode, done.stderr) == (1, "pvemu grub-shell: reboot\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--files=/x=/no/such/file"], "--files=/x=/no/such/file: no such file"),
        (["/no/such/script"], "/no/such/script: No such file or directory"),
        (["--timeout=soon"], "--timeout 'soon': not a number above 0"),
        (["--target=i386-pc"], "--target 'i386-pc': not a Xen port"),
        (["--directory=/"], "/: no GRUB modules there"),
        (["--modulesx=1"], "unrecognized arguments"),
    ],
)  # fmt: skip
def test_bad_usage(words: list[str], said: str) -> None:
    done = grub_shell("", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
