"""The process of one domain: its machine in the main thread, its control socket beside it, its end as on_* say.

Mirrors what xl's own background process does for a domain (tools/xl/xl_vmcontrol.c create_domain, handle_domain_death),
and what xenconsoled does with its console. A guest that idles is held to the wall clock, as a real one is.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from hypercalls.public import sched
from pvemu.machine import Machine
from pvemu.testing.watchdog import HANG_SECONDS, Watchdog
from pvemu.xl.configuration import as_json
from pvemu.xl.control import ControlServer
from pvemu.xl.runtime import log_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pvemu.xl.runtime import Entry, Runtime
    from pvemu.xlcfg.domain import XlDomain

__all__ = ["MAX_REBOOTS", "DomainProcess", "new_domain", "run_to_the_end"]

#: A guest that restarts itself for ever is left off after so many times.
MAX_REBOOTS = 16
_NS_PER_S = 1_000_000_000
#: The most that guest time, when it idles, may lag behind the wall clock and catch up, in seconds.
_MAX_LAG = 0.2
_REASONS = {
    sched.SHUTDOWN_poweroff: "poweroff", sched.SHUTDOWN_reboot: "reboot", sched.SHUTDOWN_crash: "crash",
    sched.SHUTDOWN_watchdog: "watchdog", sched.SHUTDOWN_soft_reset: "soft_reset",
}  # fmt: skip
_LEFT_OVER_SECONDS = 10.0


def new_domain(
    runtime: Runtime, domain: XlDomain, *, is_monitored: bool = True, rebooting: Machine | None = None
) -> DomainProcess | None:
    """Build a domain, paused; None when its name is taken. InputError for what cannot be built. ``rebooting`` is the
    domain that it comes of, whose disks it goes on with.
    """
    facts = {
        "name": domain.name,
        "memory": str(domain.config.memory_mib),
        "vcpus": str(domain.config.vcpus),
        "created": f"{time.time():.3f}",
    }
    created = runtime.create(facts)
    if created is None:
        return None
    entry, listener = created
    try:
        if rebooting is None:
            machine = Machine.create(replace(domain.config, domid=entry.domid))
        else:
            machine = rebooting.reboot(entry.domid)
        entry.facts["uuid"] = domain.uuid or machine.domain.uuid
        entry.write()
        return DomainProcess(runtime, domain, machine, entry, listener, is_monitored=is_monitored)
    except BaseException:
        listener.close()
        entry.remove()
        raise


class DomainProcess:
    """One domain, from being built to its end. Made paused; ``run`` returns when it is gone."""

    def __init__(
        self, runtime: Runtime, domain: XlDomain, machine: Machine, entry: Entry, listener: socket.socket, *,
        is_monitored: bool,
    ) -> None:  # fmt: skip
        self.entry = entry
        self.log_lines: list[str] = []
        self._runtime = runtime
        self._domain = domain
        self.machine = machine
        self._is_monitored = is_monitored
        self._is_paused = True
        self._is_to_be_saved = False
        self._saves = 0  #: how often somebody wanted that
        self._poked = threading.Event()
        self._commands: list[Callable[[], None]] = []
        self._paced_to = 0.0
        self._hypervisor_log = runtime.open_log(f"{runtime.path}/log/hypervisor.log")
        self._xl_log = runtime.open_log(f"{runtime.path}/log/xl-{log_name(domain.name)}.log")
        self.console_file = runtime.open_log(runtime.console_log(domain.name))
        self.console_start = self.console_end = os.lseek(self.console_file, 0, os.SEEK_END)
        entry.facts |= {"console": str(self.console_start)}
        entry.write()
        machine.on_console_output = self._console_output
        machine.clock.on_idle = self._idle
        self._server = ControlServer(listener, self)
        self._logged = 0

    # -- the guest's side ----------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Answer on the control socket from now on."""
        self._server.start()

    def run(self) -> str:
        """Serve the domain until it is gone; what is to follow: ``restart`` or ``destroy``."""
        self._log(f"Waiting for domain {self.entry.name} (domid {self.entry.domid}) to die [pid {os.getpid()}]")
        machine = self.machine
        machine.start()
        watchdog = None
        try:
            while not self._is_at_its_end():
                if self._is_paused:
                    self._wait_for_command()
                if self._commands:
                    self._obey()
                    continue
                watchdog = watchdog or Watchdog(machine, HANG_SECONDS)
                outcome = machine.run()
                self._write_xen_log()
                if outcome.kind in ("stuck", "hang") and not self._commands:
                    self._wait_for_command()  # as a real domain would: for ever, or until someone comes
        finally:
            if watchdog is not None:
                watchdog.stop()
        action = self._death()
        self._leave()
        return action

    def _is_at_its_end(self) -> bool:
        """Whether it has shut down; a suspended one that somebody wants saved is looked at, and goes on."""
        machine = self.machine
        if not self._is_to_be_saved or machine.domain.shutdown_reason != sched.SHUTDOWN_suspend:
            return machine.domain.shutdown_reason is not None
        from pvemu.testing.save_refusal import save_refusal

        self._is_to_be_saved = False
        self._log(f"Saving ({self._saves}): {save_refusal(machine) or 'saved'}")
        machine.resume()
        return False

    def _ask_to_suspend(self, *, is_wanted: bool) -> None:
        self._is_to_be_saved = is_wanted
        self.machine.dom0.ask_to("suspend" if is_wanted else "")

    def _wait_for_command(self) -> None:
        while not self._commands:
            self._poked.wait()
            self._poked.clear()

    def _obey(self) -> None:
        self._poked.clear()
        commands, self._commands = self._commands, []
        for command in commands:
            command()

    def _console_output(self, data: bytes) -> None:
        os.write(self.console_file, data)
        self.console_end += len(data)
        self._server.notify()

    def _idle(self, target: int | None) -> bool:
        """The guest idles until ``target`` (system time, ns): so do we, unless someone comes. True when that was so."""
        clock = self.machine.clock
        timeout = None
        if target is not None:
            now = time.monotonic()
            self._paced_to = max(self._paced_to, now - _MAX_LAG) + (target - clock.now()) / _NS_PER_S
            timeout = self._paced_to - now
            if timeout <= 0:
                return False
        elif not self.machine.sched.is_idle:
            return False
        if self._poked.wait(timeout):
            self._paced_to = 0.0
            return True
        return False

    def _write_xen_log(self) -> None:
        lines = [*self.machine.xen_log[self._logged :]]
        self._logged += len(lines)
        text = "".join(f"(XEN) {line}\n" for block in lines for line in block.splitlines())
        if text:
            os.write(self._hypervisor_log, text.encode("utf-8", "replace"))

    # -- its end -------------------------------------------------------------------------------------------------------
    def _death(self) -> str:
        """handle_domain_death: the action for how it ended, in xl's words."""
        machine, domid = self.machine, self.entry.domid
        reason = machine.domain.shutdown_reason or 0
        machine.xen_log += machine.crash_lines
        self._write_xen_log()
        self._log(f"Domain {domid} has shut down, reason code {reason} 0x{reason:x}")
        if not self._is_monitored:
            action = "preserve"
        elif reason in _REASONS:
            action = self._domain.actions[_REASONS[reason]]
            self._log(f"Action for shutdown reason code {reason} is {action}")
        else:
            action = "destroy"
            self._log(f"Unknown shutdown reason code {reason}. Destroying domain.")
        if action.startswith("coredump-"):
            self._log("core dump failed (rc=-3).")
            action = action.removeprefix("coredump-")
        if action == "preserve":
            self._log("Done. Exiting now")
            while True:  # until it is destroyed
                self._wait_for_command()
                self._obey()
        restarts = action in ("restart", "rename-restart")
        self._log(f"Domain {domid} needs to be cleaned up: destroying the domain")
        self._log("Done. Rebooting now" if restarts else "Done. Exiting now")
        return "restart" if restarts else "destroy"

    def _leave(self) -> None:
        self._retire()
        self._server.finish(_LEFT_OVER_SECONDS)
        for descriptor in (self.console_file, self._xl_log, self._hypervisor_log):
            os.close(descriptor)

    def _retire(self) -> None:
        self.entry.facts["console_end"] = str(self.console_end)
        with suppress(OSError):
            self.entry.write()
        self._runtime.retire(self.entry)

    def _log(self, line: str) -> None:
        self.log_lines.append(line)
        os.write(self._xl_log, (line + "\n").encode("utf-8", "replace"))
        self._server.notify()

    # -- the control thread's side -------------------------------------------------------------------------------------
    def answer(self, request: str) -> str:
        """One request of the control socket."""
        match request.split():
            case ["info"]:
                return self._info()
            case ["config"]:
                return json.dumps(as_json(self._domain))
            case ["pause"]:
                self._command(lambda: self._set_paused(True))
            case ["unpause"]:
                self._command(lambda: self._set_paused(False))
            case ["shutdown" | "reboot" as what]:
                value = {"shutdown": "poweroff", "reboot": "reboot"}[what]
                self._command(lambda: self.machine.dom0.ask_to(value))
            case ["save"]:
                self._command(lambda: self._ask_to_suspend(is_wanted=True))
                self._saves += 1
                return f"{self._saves}"
            case ["resume"]:
                self._command(lambda: self._ask_to_suspend(is_wanted=False))
            case ["sysrq", key]:
                self._command(lambda: self._press_sysrq(key))
            case ["destroy"]:
                self._destroy()
            case _:
                return "unknown"
        return "ok"

    def typed(self, keys: bytes) -> None:
        """Someone typed on the console."""
        self._command(lambda: self.machine.console.send(keys))

    def _command(self, command: Callable[[], None]) -> None:
        """Have the main thread do it, as soon as the guest lets go of it."""
        self._commands.append(command)
        self._poked.set()
        machine = self.machine
        if not self._is_paused:
            machine.stop("command")
            if command in self._commands and not machine.sched.is_idle:
                time.sleep(0.02)
                while command in self._commands and machine.domain.shutdown_reason is None and not self._is_paused:
                    machine.engine.interrupt()  # a guest that computes makes no exit
                    time.sleep(0.02)

    def _set_paused(self, paused: bool) -> None:
        self._is_paused = paused
        self._paced_to = 0.0

    def _press_sysrq(self, key: str) -> None:
        self.machine.xenstore.client().write(f"/local/domain/{self.entry.domid}/control/sysrq", key)

    def _info(self) -> str:
        machine = self.machine
        reason = machine.domain.shutdown_reason
        is_blocked = machine.sched.is_idle and not self._is_paused and reason is None
        state = (
            "r" if reason is None and not self._is_paused and not is_blocked else "-",
            "b" if is_blocked else "-",
            "p" if self._is_paused else "-",
            "s" if reason is not None else "-",
            "-" if reason is None else "-rscwS"[reason] if reason < 6 else "?",
            "-",
        )
        return f"{''.join(state)} {time.process_time():.1f} {-1 if reason is None else reason}"

    def _destroy(self) -> None:
        """Gone at once. The process ends when the reply and the consoles' rest are sent."""
        self._retire()
        self.machine.stop("command")
        self.log_lines.append(f"Domain {self.entry.domid} has been destroyed.")

        def leave() -> None:
            time.sleep(0.02)
            self._server.finish(1.0)
            os._exit(0)

        threading.Thread(target=leave, daemon=True).start()


def run_to_the_end(runtime: Runtime, process: DomainProcess, domain: XlDomain) -> None:
    """Serve a domain, and those that come of its restarting: MAX_REBOOTS at most, and while its name is free."""
    for _ in range(MAX_REBOOTS):
        if process.run() != "restart":
            break
        following = new_domain(runtime, domain, rebooting=process.machine)
        if following is None:
            break
        process = following
        process.begin()
        process.answer("unpause")
    else:
        process.run()
    process.machine.close()
