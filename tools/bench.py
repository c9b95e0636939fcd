"""The five jobs whose speed is promised, each a process of its own as a user starts it; and where their time goes.

Timed runs are not instrumented. One more run per job is: every callable on the way from the engine to a back end keeps
a stopwatch, and what is under it is not counted twice. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = [sys.executable, "-c", "import sys; from pvemu.cli import main; sys.exit(main())"]
REFERENCE = Path(__file__).with_name("reference_timings.toml")
PARTS = {
    "start-up": "Python itself and imports",
    "building": "the domain builder, files, back ends",
    "engine": "guest code, and the way between native code and Python",
    "TLB fills": "page-table walks",
    "hypercalls": "hypercalls without what back ends do in them",
    "back ends": "blkback, xenstored, xenconsoled",
    "polls": "RDTSC, CPUID, looks at the console ring",
    "rest": "events, faults, the report, the end of the process",
}


class Job(NamedTuple):
    """``arguments`` for pvemu; ``stage`` ends the run at the first instruction of a kernel with that guest_os;
    ``limit`` in seconds.
    """

    title: str
    limit: float
    arguments: list[str]
    stage: str | None = None


def make_jobs() -> dict[str, Job]:
    """The jobs, with the images they boot."""
    from pvemu.mkimage import build

    grub = str(build("pvgrub")["grub-x86_64-xen.bin"])
    demo, linux = build("demo")["demo.img"], build("chain-linux")["chain-linux.img"]
    kernel, tiny = str(build("debian-kernel")["vmlinuz"]), str(build("tiny")["tiny.cpio.gz"])
    return {
        "prompt": Job("GRUB's prompt without a disk", 0.6, ["boot", grub, "--until", "grub> "]),
        "chain": Job(
            "host GRUB, chainload, menu of 5 s, halt", 1.5,
            ["boot", grub, "--memory", "256", "--disk", f"xvda={demo}"],
        ),
        "linux": Job(
            "host GRUB, chainload, linux and initrd to the kernel", 12.0,
            ["boot", grub, "--memory", "512", "--disk", f"xvda={linux}"], stage="linux",
        ),
        "init": Job(
            "Linux by itself to its init and to power-off", 14.0,
            ["boot", kernel, "--memory", "512", "--ramdisk", tiny, "--cmdline", "console=hvc0"],
        ),
        "chain-init": Job(
            "host GRUB, chainload, Linux to its init and to power-off", 26.0,
            ["boot", grub, "--memory", "512", "--disk", f"xvda={linux}"],
        ),
    }  # fmt: skip


# -- timed runs --------------------------------------------------------------------------------------------------------
class Took(NamedTuple):
    """Seconds by the clock on the wall, and of a processor."""

    wall: float
    cpu: float


def run_once(job: Job, *own: str) -> Took:
    """How long a process takes from its start to its end. ``own`` arguments have this script run the command itself."""
    command = COMMAND if job.stage is None and not own else [sys.executable, __file__, "--inside", *own]
    if job.stage is not None:
        command = [*command, "--to-stage", job.stage]
    arguments = ["--", *job.arguments] if command is not COMMAND else job.arguments
    # A user has neither of these set, and so has bytecode files and buffers.
    unset = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    environment["PVEMU_BENCH_STARTED"] = repr(started)
    done = subprocess.run(
        [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=environment, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"bench: exit code {done.returncode} from {job.arguments}\n{done.stderr.decode()}")
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measure(jobs: dict[str, Job], runs: int) -> dict[str, dict[str, Any]]:
    """``runs`` of each job, in turn, so that a busy minute touches all alike; then where the time goes."""
    took: dict[str, list[Took]] = {name: [] for name in jobs}
    for job in jobs.values():
        if job.stage is None:
            run_once(job)  # bytecode files, the page cache
    for _ in range(runs):
        for name, job in jobs.items():
            took[name].append(run_once(job))
    results = {}
    for name, job in jobs.items():
        median = statistics.median(one.wall for one in took[name])
        results[name] = {
            "title": job.title, "limit": job.limit, "median": median, "holds": median <= job.limit,
            "seconds": [one.wall for one in took[name]], "cpu": statistics.median(one.cpu for one in took[name]),
            **profile(job),
        }  # fmt: skip
    return results


def profile(job: Job) -> dict[str, Any]:
    """``parts`` (seconds each) and ``counts`` of one instrumented run."""
    with tempfile.NamedTemporaryFile(prefix="pvemu-bench-") as file:
        total = run_once(job, "--profile", file.name).wall
        result = json.loads(Path(file.name).read_bytes())
    result["parts"]["rest"] += total - sum(result["parts"].values())
    return {"profiled_seconds": total, **result}


# -- inside the process that is measured -------------------------------------------------------------------------------
class Stopwatch:
    """Time by part; a part that calls another stands still meanwhile."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self._stack = ["rest"]
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def stop(self) -> None:
        """The end: what is not counted yet belongs to what runs now."""
        self._charge()

    def timed(self, inner: Callable[..., Any], part: str) -> Callable[..., Any]:
        """``inner`` with every call counted as ``part``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._stack.append(part)
            self.calls[part] += 1
            try:
                return inner(*args, **kwargs)
            finally:
                self._charge()
                self._stack.pop()

        return call


def install_stopwatch() -> Stopwatch:
    """A stopwatch on everything between the engine and the back ends."""
    from pvemu.cpu.cpuid import CpuPolicy
    from pvemu.cpu.unicorn.engine import Engine
    from pvemu.devices.blkback import BlkifRing
    from pvemu.devices.console import ConsoleBackend
    from pvemu.devices.xenstore.ring import XenstoreRing
    from pvemu.hypervisor.address_space import AddressSpace
    from pvemu.hypervisor.traps.exit_handler import PvExitHandler
    from pvemu.machine import Machine

    watch = Stopwatch()
    timed_create = staticmethod(watch.timed(Machine.create, "building"))
    Machine.create = timed_create  # type: ignore[method-assign]  # it is bound already
    for owner, part, names in (
        (Engine, "engine", ("run",)),
        (AddressSpace, "TLB fills", ("on_tlb_miss",)),
        (PvExitHandler, "hypercalls", ("on_syscall", "on_int82")),
        (PvExitHandler, "polls", ("on_rdtsc",)),
        (CpuPolicy, "polls", ("cpuid",)),
        (ConsoleBackend, "polls", ("guest_read", "guest_write")),
        (ConsoleBackend, "back ends", ("kick",)),
        (XenstoreRing, "back ends", ("kick",)),
        (BlkifRing, "back ends", ("process",)),
    ):
        for name in names:
            setattr(owner, name, watch.timed(getattr(owner, name), part))
    return watch


def run_inside(options: argparse.Namespace) -> int:
    """The command in this process, ended at a stage and with a stopwatch if asked for."""
    import pvemu.cli.boot  # noqa: F401 - all that the command would import by now
    from pvemu.cli import main
    from pvemu.machine import Machine

    imported = time.monotonic()
    watch = install_stopwatch() if options.profile else None
    start, reached = Machine.start, []

    def start_observed(self: Machine) -> None:
        def observe(stage: Any) -> None:
            if stage.guest_os == options.to_stage:
                reached.append(stage)
                self.stop("hand-off")

        if options.to_stage:
            self.stages.observe(observe)
        start(self)

    Machine.start = start_observed  # type: ignore[method-assign]  # the command makes its machine itself
    code = main(options.arguments)
    if watch is not None:
        watch.stop()
        watch.seconds["start-up"] = imported - float(os.environ["PVEMU_BENCH_STARTED"])
        Path(options.profile).write_text(json.dumps({"parts": watch.seconds, "counts": watch.calls}))
    return 0 if reached else code


# -- real Xen ----------------------------------------------------------------------------------------------------------
def read_reference(path: Path) -> dict[str, Any]:
    """Recorded times of the same jobs elsewhere; see tools/reference_timings.toml for what such a file holds."""
    try:
        reference = tomllib.loads(path.read_text(encoding="utf-8"))
        for job in reference["job"].values():
            statistics.median(job["seconds"])
        statistics.median(reference["start_up"])
        str(reference["where"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"bench: --reference {path}: cannot be used ({error}); see {REFERENCE}") from None
    return reference


def print_reference(results: dict[str, dict[str, Any]], reference: dict[str, Any]) -> None:
    """Our medians over those of real Xen, without and with the time that it takes until it can begin."""
    start_up = statistics.median(reference["start_up"])
    print(f"\nbeside {reference['where']}, which takes {start_up:.1f} s until it can begin")
    print(f"{'job':12}{'pvemu':>9}{'Xen':>9}{'ratio':>8}{'with its start-up':>20}   what was timed there")
    for name, one in results.items():
        job = reference["job"].get(name)
        if job is not None:
            xen = statistics.median(job["seconds"])
            ratio, whole = one["median"] / xen, one["median"] / (xen + start_up)
            print(f"{name:12}{one['median']:8.2f}s{xen:8.1f}s{ratio:8.2f}{whole:20.2f}   {job['what']}")


# -- what is printed ---------------------------------------------------------------------------------------------------
def print_table(results: dict[str, dict[str, Any]], runs: int) -> None:
    """Medians against limits, ratios, and the parts of each job."""
    print(f"{'job':12} {'median':>9} {'fastest':>9} {'slowest':>9} {'CPU':>9} {'limit':>8}   what ({runs} runs each)")
    for name, one in results.items():
        verdict = "holds" if one["holds"] else "DOES NOT HOLD"
        times = one["seconds"]
        print(
            f"{name:12} {one['median']:8.3f}s {min(times):8.3f}s {max(times):8.3f}s {one['cpu']:8.3f}s "
            f"{one['limit']:7.1f}s   "
            f"{one['title']}: {verdict}"
        )
    names = list(results)
    for longer, shorter in zip(names[1:], names, strict=False):
        print(f"{longer} / {shorter} = {results[longer]['median'] / results[shorter]['median']:.2f}")
    print("\nwhere the time goes (one instrumented run each, which is slower)")
    print(f"{'part':12}" + "".join(f"{name:>22}" for name in names))
    for part, text in PARTS.items():
        cells = ""
        for one in results.values():
            seconds, calls = one["parts"][part], one["counts"][part]
            times = f" x{calls}" if calls else ""
            cells += f"{seconds:8.3f}s {100 * seconds / one['profiled_seconds']:3.0f}%{times:9}"
        print(f"{part:12}{cells}   {text}")
    print(f"{'total':12}" + "".join(f"{one['profiled_seconds']:13.3f}s{'':8}" for one in results.values()))


def describe_machine() -> dict[str, object]:
    """What the numbers were measured on."""
    from importlib.metadata import version

    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "unicorn": version("unicorn"),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="How fast pvemu is, and where the time goes.")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each job (default 5)")
    parser.add_argument("--job", action="append", help="only this job; repeatable")
    parser.add_argument("--json", metavar="FILE", help="write everything measured here")
    parser.add_argument("--reference", metavar="FILE", type=Path, default=REFERENCE, help="real Xen's times")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a limit does not hold")
    parser.add_argument("--traces", action="store_true", help="what traces cost, instead of the jobs")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    parser.add_argument("--to-stage", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run_inside(options)
    reference = read_reference(options.reference)
    machine = describe_machine()
    if options.traces:
        print(", ".join(f"{key} {value}" for key, value in machine.items()) + "\n", flush=True)
        script = Path(__file__).with_name("bench_traces.py")
        done = subprocess.run([sys.executable, script, str(options.runs)], check=False)
        return done.returncode if options.check else 0
    jobs = make_jobs()
    unknown = set(options.job or ()) - set(jobs)
    if unknown or options.runs < 1:
        parser.error(f"--job: one of {', '.join(jobs)}; --runs: at least 1")
    results = measure({name: job for name, job in jobs.items() if not options.job or name in options.job}, options.runs)
    print(", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
    print_table(results, options.runs)
    print_reference(results, reference)
    if options.json:
        everything = {"machine": machine, "jobs": results, "reference": reference}
        Path(options.json).write_text(json.dumps(everything, indent=2) + "\n")
    return 1 if options.check and not all(one["holds"] for one in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
