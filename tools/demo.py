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
    print("\nthe screen as it stood:")
    for line in _screen(transcript.read_bytes()):
        print(f"  | {line}")
    verdict = f"{result['verdict']} ({result['reason']})"
    print(f"\n{verdict}: {result['guest_seconds']:.2f} guest seconds in {result['wall_seconds']:.2f} s")
    return done.returncode


def _screen(console: bytes) -> list[str]:
    """What an 80x24 terminal shows after these bytes, without the empty lines at the end."""
    import pyte

    screen = pyte.Screen(80, 24)
    pyte.ByteStream(screen).feed(console)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


if __name__ == "__main__":
    sys.exit(main())
