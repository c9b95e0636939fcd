"""xl's commands, as a client of the domains' processes (tools/xl: xl_vmcontrol.c, xl_info.c, xl_console.c, xl.c).

Messages and exit codes are those of xl 4.17. Each ``xl`` is a process of its own and is started a thousand times by a
test run, so nothing is imported before it is needed.
"""

from __future__ import annotations

import os
import sys

from pvemu.xl.options import Leave, parse_options
from pvemu.xl.runtime import Entry, Runtime, RuntimeDirectoryError
from pvemu.xl.usage import find_command, print_usage

TYPE_CHECKING = False  # as in pvemu.xl.options
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

_INVALID = -6  #: ERROR_INVAL
_SUSPEND_SECONDS = 60.0  #: how long libxl waits for a guest that was asked to suspend
_ALL_LONG = {"all": "a", "wait": "w"}


def main(words: Sequence[str]) -> int:
    """``xl`` with these words; its exit code."""
    words = list(words)
    is_dry = False
    while words and words[0].startswith("-") and words[0] != "-":
        for letter in words.pop(0)[1:]:
            if letter not in "vftTN":
                _say("unknown global option")
                return 1
            is_dry |= letter == "N"
    if not words:
        print_usage(None)
        return 1
    verb, arguments = words[0], words[1:]
    if verb == "help":
        print_usage(arguments[0] if arguments else None)
        return 0
    name = find_command(verb)
    if name is None:
        _say("command not implemented")
        return 1
    if is_dry:
        if name != "create":
            _say("command does not implement -N (dryrun) option")
            return 1
        arguments.insert(0, "-n")
    try:
        code = _COMMANDS[name](Runtime(), arguments)
        sys.stdout.flush()
        return code
    except Leave as leaving:
        return leaving.code
    except BrokenPipeError:
        raise
    except OSError as error:  # sockets and entries that go away are dealt with where they are used
        _say(f"xl: cannot be written or read: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer would fail once more
        return 1
    except RuntimeDirectoryError as error:
        _say(str(error))
        return 1


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _domain(runtime: Runtime, word: str) -> Entry:
    """find_domain, and what then becomes of a number that nobody has."""
    entry = runtime.find(word)
    if entry is None:
        _say(f"{word} is an invalid domain identifier (rc={_INVALID})")
        raise Leave(1)
    return entry


# -- life and death ----------------------------------------------------------------------------------------------------
def _create(runtime: Runtime, words: list[str]) -> int:
    from pvemu.xl.warm import request_create

    flags = "".join(word[1:] for word in words if word.startswith("-") and not word.startswith("--"))
    kind, number = request_create(runtime, words)
    if kind == "exit":
        return number
    entry = Entry(f"{runtime.path}/domains/{number}", {})
    console = None
    if "c" in flags:
        from pvemu.xl.console import attach, open_console

        console = open_console(entry)
    watch = entry.connect() if "F" in flags else None
    if watch is not None:
        watch.sendall(b"watch\n")
    if "p" not in flags:
        entry.ask("unpause")
    if console is not None:
        with console:
            attach(console)
    if watch is not None:
        with watch:
            while data := watch.recv(4096):
                sys.stderr.buffer.write(data)
                sys.stderr.flush()
    return 0


def _suspended(entry: Entry) -> str | None:
    """Ask a guest to suspend and to be looked at; what is wrong with it, None where nothing is. It goes on."""
    watch = entry.connect()
    attempt = entry.ask("save") if watch is not None else None
    if watch is None or attempt is None:
        return "it is gone"
    _say("Saving to /dev/null new xl format (info 0x3/0x0/0)")
    heard, mark = b"", f"Saving ({attempt}): ".encode()
    with watch:
        watch.settimeout(_SUSPEND_SECONDS)
        try:
            watch.sendall(b"watch\n")
            while b"\n" not in heard.partition(mark)[2]:
                data = watch.recv(4096)
                if not data:
                    return "it shut down and did not suspend"
                heard += data
        except TimeoutError:
            entry.ask("resume")
            return "guest didn't acknowledge suspend, cancelling request"
    result = heard.partition(mark)[2].partition(b"\n")[0].decode()
    return None if result == "saved" else result


def _save(runtime: Runtime, words: list[str]) -> int:
    """As xl's, but for the file: nothing is written, so that it has to be /dev/null."""
    options = parse_options("save", words, "cp", 2)
    entry = _domain(runtime, options.operands[0])
    if options.operands[1] != "/dev/null":
        _say("pvemu writes no save files, and restores none; give /dev/null to hear whether the domain could be saved")
        return 1
    error = _suspended(entry)
    if error is not None:
        _say(f"libxl: error: Domain {entry.domid}: {error}\nFailed to save domain, resuming domain")
        return 1
    if "p" in options:
        entry.ask("pause")
    elif "c" not in options:
        entry.ask("destroy")
    return 0


def _tell(verb: str) -> Callable[[Runtime, list[str]], int]:
    def run(runtime: Runtime, words: list[str]) -> int:
        options = parse_options(verb, words, "", 1)
        _domain(runtime, options.operands[0]).ask(verb)
        return 0

    return run


def _destroy(runtime: Runtime, words: list[str]) -> int:
    options = parse_options("destroy", words, "f", 1)
    if options.operands[0] == "0":
        if "f" not in options:
            _say("Not destroying domain 0; use -f to force.\n"
                 "This can only be done when using a disaggregated hardware domain and toolstack.\n")  # fmt: skip
        else:
            _say("destroy failed (rc=-3)")
        return 1
    _domain(runtime, options.operands[0]).ask("destroy")
    return 0


def _stop(verb: str, doing: str) -> Callable[[Runtime, list[str]], int]:
    def run(runtime: Runtime, words: list[str]) -> int:
        options = parse_options(verb, words, "awF", 0, _ALL_LONG)
        if not options.operands and "a" not in options:
            _say("You must specify -a or a domain id.\n")
            return 1
        entries = runtime.entries() if "a" in options else [_domain(runtime, options.operands[0])]
        watches = []
        for entry in entries:
            _say(f"{doing} domain {entry.domid}")
            if "w" in options and (watch := entry.connect()) is not None:
                watch.sendall(b"watch\n")
                watches.append((entry, watch))
            entry.ask(verb)
        if "w" in options:
            _say(f"Waiting for {len(watches)} domains")
        for entry, watch in watches:
            with watch:
                while watch.recv(4096):
                    pass
            _say(f"Domain {entry.domid} has been destroyed")
        return 0

    return run


def _sysrq(runtime: Runtime, words: list[str]) -> int:
    options = parse_options("sysrq", words, "", 2)
    entry = _domain(runtime, options.operands[0])
    key = options.operands[1]
    if len(key) != 1:
        _say("Invalid sysrq.\n")
        print_usage("sysrq")
        return 1
    entry.ask(f"sysrq {key}")
    return 0


def _console(runtime: Runtime, words: list[str]) -> int:
    from pvemu.xl.console import attach, open_console, replay

    options = parse_options("console", words, "n:t:", 1)
    kind = options.values.get("t", "pv")
    if kind not in ("pv", "serial", "vuart"):
        _say("console type supported are: pv, serial, vuart")
        return 1
    word = options.operands[0]
    number = options.values.get("n", "0")
    is_pv_console = kind == "pv" and number.strip() == "0"
    entry = runtime.find(word)
    connection = open_console(entry) if entry is not None and is_pv_console else None
    if connection is not None:
        with connection:
            code = attach(connection)
        if code is not None:
            return code
    if is_pv_console and (ended := runtime.find_ended(word)) is not None:
        return replay(runtime, ended)
    if word == "0":
        _say("Can't specify Domain-0")
        return 22
    if entry is None:
        _domain(runtime, word)
    _say("xenconsole: Could not read tty from store: No such file or directory")
    return 2


# -- looking -----------------------------------------------------------------------------------------------------------
_DOM0_UUID = "00000000-0000-0000-0000-000000000000"


def _list(runtime: Runtime, words: list[str]) -> int:
    long = {"long": "l", "verbose": "v", "context": "Z", "cpupool": "c", "numa": "n"}
    options = parse_options("list", words, "lvZcn", 0, long)
    if len(options.operands) > 1:
        print_usage("list")
        return 1
    word = options.operands[0] if options.operands else None
    if word is not None and word not in ("0", "Domain-0"):
        entry = runtime.find(word)
        if entry is None and word.isdigit():
            _say(f"Error: Domain '{word}' does not exist.")
            return 1
        entries = [entry or _domain(runtime, word)]
    else:
        entries = runtime.entries() if word is None else []
    with_dom0 = word is None or word in ("0", "Domain-0")
    if "l" in options:
        return _list_long(entries, with_dom0=with_dom0)
    head = "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    is_verbose = "v" in options
    if is_verbose:
        head += "   UUID                            Reason-Code\tSecurity Label"
    elif "Z" in options:
        head += "   Security Label"
    print(head + ("         Cpupool" if "c" in options else "") + (" NODE Affinity" if "n" in options else ""))
    rows = []
    if with_dom0:
        from pvemu.xl.info import host_memory_mib

        rows.append(("Domain-0", 0, str(host_memory_mib()[0]), "r----- 0.0 -1", _DOM0_UUID))
    for entry in entries:
        state = entry.ask("info")
        if state is not None:
            rows.append((entry.name, entry.domid, entry.facts["memory"], state, entry.facts.get("uuid", _DOM0_UUID)))
    for name, domid, memory, state, uuid in rows:
        flags, seconds, reason = state.split()
        line = f"{name:<40} {domid:5d} {memory:>5} {1:5d}     {flags}  {float(seconds):8.1f}"
        if is_verbose:
            line += f" {uuid} {int(reason):8x}" if reason != "-1" else f" {uuid} {'-':>8}"
        if is_verbose or "Z" in options:
            line += f" {'-':>16}"
        print(line + (f"{'Pool-0':>16}" if "c" in options else "") + (" all" if "n" in options else ""))
    return 0


def _list_long(entries: list[Entry], *, with_dom0: bool) -> int:
    import json

    rows: list[dict[str, object]] = []
    if with_dom0:
        rows.append({"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {"type.pv": {}}}})
    for entry in entries:
        config = entry.ask("config")
        if config is not None:
            rows.append({"domid": entry.domid, "config": json.loads(config)})
    print(json.dumps(rows, indent=4))
    return 0


def _vm_list(runtime: Runtime, words: list[str]) -> int:
    parse_options("vm-list", words, "")
    print("UUID                                  ID    name")
    print(f"{_DOM0_UUID}  0    {'Domain-0':<30}")
    for entry in runtime.entries():
        print(f"{entry.facts.get('uuid', _DOM0_UUID)}  {entry.domid}    {entry.name:<30}")
    return 0


def _vcpu_list(runtime: Runtime, words: list[str]) -> int:
    options = parse_options("vcpu-list", words, "")
    print("Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)")
    entries = [_domain(runtime, word) for word in options.operands] if options.operands else runtime.entries()
    for entry in entries:
        state = entry.ask("info")
        if state is not None:
            flags, seconds, _ = state.split()
            print(f"{entry.name:<32}  {entry.domid:5d} {0:5d} {0:5d}   {flags[:2]}-  {float(seconds):9.1f}  all / all")
    return 0


def _info(runtime: Runtime, words: list[str]) -> int:
    from pvemu.xl.info import info_lines, numa_lines, shown

    options = parse_options("info", words, "n", 0, {"numa": "n"})
    wanted = options.operands[0] if options.operands and "n" not in options else None
    for name, value in info_lines():
        if wanted is not None:
            if shown(name, value).startswith(wanted):
                print(value)
            continue
        if name == "xen_major" and "n" in options:
            print("\n".join(numa_lines()))
        print(shown(name, value))
    return 0


def _domid(runtime: Runtime, words: list[str]) -> int:
    name = parse_options("domid", words, "", 1).operands[0]
    entries = [entry for entry in runtime.entries() if entry.name == name]
    if name == "Domain-0":
        print(0)
    elif entries:
        print(entries[0].domid)
    else:
        _say(f"Can't get domid of domain name '{name}', maybe this domain does not exist.")
        return 1
    return 0


def _domname(runtime: Runtime, words: list[str]) -> int:
    word = parse_options("domname", words, "", 1).operands[0]
    digits = word[: len(word) - len(word.lstrip("0123456789"))]
    if not digits:
        _say("Invalid domain id.\n")
        return 1
    entry = runtime.find(digits)
    if entry is None and int(digits) != 0:
        _say(f"Can't get domain name of domain id '{int(digits)}', maybe this domain does not exist.")
        return 1
    print(entry.name if entry is not None else "Domain-0")
    return 0


def _dmesg(runtime: Runtime, words: list[str]) -> int:
    options = parse_options("dmesg", words, "c", 0, {"clear": "c"})
    with open(f"{runtime.path}/log/hypervisor.log", "a+b") as log:
        log.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(log.read())
        sys.stdout.flush()
        if "c" in options:
            log.truncate(0)
    return 0


def _uptime(runtime: Runtime, words: list[str]) -> int:
    import time

    options = parse_options("uptime", words, "s")
    is_short = "s" in options
    entries = [_domain(runtime, word) for word in options.operands if word not in ("0", "Domain-0")]
    with_dom0 = not options.operands or len(entries) < len(options.operands)
    rows = []
    if with_dom0:
        with open("/proc/uptime", encoding="ascii") as uptime:
            rows.append(("Domain-0", 0, int(float(uptime.read().split()[0]))))
    now, clock = time.time(), time.strftime("%H:%M:%S")
    for entry in entries if options.operands else runtime.entries():
        rows.append((entry.name, entry.domid, int(now - float(entry.facts["created"]))))  # noqa: PERF401
    if not is_short:
        print(f"{'Name':<33} {'ID':>4} Uptime")
    for name, domid, seconds in rows:
        if is_short:
            print(f" {clock} up {_duration(seconds, is_short=True)}, {name} ({domid})")
        else:
            print(f"{name:<33} {domid:4d} {_duration(seconds, is_short=False)}")
    return 0


def _duration(seconds: int, *, is_short: bool) -> str:
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    text = f"{hours:2d}:{rest // 60:02d}" + ("" if is_short else f":{rest % 60:02d}")
    return f"{days} day{'s' if days > 1 else ''}, {text}" if days else text


_COMMANDS: dict[str, Callable[[Runtime, list[str]], int]] = {
    "create": _create,
    "list": _list,
    "destroy": _destroy,
    "shutdown": _stop("shutdown", "Shutting down"),
    "reboot": _stop("reboot", "Rebooting"),
    "pause": _tell("pause"),
    "save": _save,
    "unpause": _tell("unpause"),
    "console": _console,
    "vm-list": _vm_list,
    "info": _info,
    "domid": _domid,
    "domname": _domname,
    "sysrq": _sysrq,
    "dmesg": _dmesg,
    "uptime": _uptime,
    "vcpu-list": _vcpu_list,
}
