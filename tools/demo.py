"""Boots images/demo as a user would, with `pvemu boot`, and says what came of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from pvemu.errors import InputError
from pvemu.mkimage import build

CLEAR = b"\x1b[H\x1b[J"  # how GRUB clears the screen
UNTIL = r"pvemu-demo: hello from .*\)"


def main() -> int:
    """Build, boot, report; the exit code is that of `pvemu boot`."""
    try:
        kernel = build("pvgrub")["grub-x86_64-xen.bin"]
        disk = build("demo")["demo.img"]
    except InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pvemu-demo-") as scratch:
        return _boot(kernel, disk, Path(scratch))


def _boot(kernel: Path, disk: Path, scratch: Path) -> int:
    report, transcript = scratch / "report.json", scratch / "console.txt"
    options = ["boot", str(kernel), "--memory", "256", "--disk", f"xvda={disk},ro", "--until", UNTIL]
    print(f"$ pvemu {shlex.join(options)}\n", flush=True)
    # The console goes to a file: as a stream it is full of escape codes, and the screen says more.
    start = [sys.executable, "-c", "import sys; from pvemu.cli import main; sys.exit(main())"]
    command = [*start, *options, "--json", str(report), "--transcript", str(transcript)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if not report.exists():
        print(f"demo: pvemu boot ended with exit code {done.returncode} and wrote no report", file=sys.stderr)
        return done.returncode or 4
    result = json.loads(report.read_text(encoding="utf-8"))
    for number, stage in enumerate(result["stages"]):
        guest = " ".join(filter(None, (stage["guest_os"], stage["guest_version"]))) or "kernel"
        print(f"stage {number}: {guest}, entered at {stage['entry']} after {stage['start']:.3f} guest seconds")
    screens = _screens(transcript.read_bytes())
    _show("the menu, as the countdown ended:", next((one for one in reversed(screens) if "GNU GRUB" in one[0]), []))
    _show("the screen as it stood:", screens[-1])
    verdict = f"{result['verdict']} ({result['reason']})"
    print(f"\n{verdict}: {result['guest_seconds']:.2f} guest seconds in {result['wall_seconds']:.2f} s")
    return done.returncode


def _screens(console: bytes) -> list[list[str]]:
    """What an 80x24 terminal showed each time before it was cleared, and at the end; without empty lines around."""
    import pyte

    screen = pyte.Screen(80, 24)
    terminal = pyte.ByteStream(screen)
    seen = []
    for number, piece in enumerate(console.split(CLEAR)):
        terminal.feed(CLEAR * bool(number) + piece)
        lines = "\n".join(line.rstrip() for line in screen.display).strip("\n").split("\n")
        seen.append(lines)
    return seen


def _show(title: str, lines: list[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"  | {line}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
