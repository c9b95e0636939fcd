"""What ``xl help`` prints of the commands that pvemu answers."""

from __future__ import annotations

__all__ = ["COMMANDS", "Usage", "find_command", "print_usage"]


class Usage:
    """``is_dry`` where xl's ``-N`` works; ``options`` one a line. No NamedTuple: ``typing`` alone costs 8 ms."""

    def __init__(self, arguments: str, text: str, options: tuple[str, ...] = (), is_dry: bool = False) -> None:
        self.arguments = arguments
        self.text = text
        self.options = options
        self.is_dry = is_dry


COMMANDS: dict[str, Usage] = {
    "create": Usage(
        "<ConfigFile> [options] [vars]", "Create a domain from config file <filename>",
        (
            "-c                      Attach to its console at once",
            "-d                      Print the configuration as it was understood",
            "-e                      Do not act on its end: leave it there, shut down",
            "-F                      Stay until it is gone, telling what becomes of it",
            "-f FILE, --defconfig=FILE   Use this configuration file",
            "-n, --dryrun            Print the configuration and create nothing",
            "-p                      Leave it paused",
            "-q, --quiet             Be quiet",
        ), True,
    ),
    "list": Usage(
        "[options] [Domain]", "List information about all/some domains",
        ("-l, --long              All there is to know, as JSON", "-v, --verbose           With UUIDs and reasons"),
    ),
    "destroy": Usage(
        "[options] <Domain>", "Terminate a domain immediately", ("-f                      Even domain 0",)
    ),
    "shutdown": Usage(
        "[options] <-a|Domain>", "Issue a shutdown signal to a domain",
        ("-a, --all               All of them", "-w, --wait              Wait for them to be gone"),
    ),
    "reboot": Usage(
        "[options] <-a|Domain>", "Issue a reboot signal to a domain",
        ("-a, --all               All of them", "-w, --wait              Wait for them to be gone"),
    ),
    "pause": Usage("<Domain>", "Pause execution of a domain"),
    "unpause": Usage("<Domain>", "Unpause a paused domain"),
    "save": Usage(
        "[options] <Domain> /dev/null", "Tell whether a domain could be saved; nothing is written",
        ("-c                      Leave domain running", "-p                      Leave domain paused"),
    ),
    "console": Usage(
        "[options] <Domain>", "Attach to domain's console",
        ("-t <type>               pv; there are no others", "-n <number>             0; there are no others"),
    ),
    "vm-list": Usage("", "List guest domains, excluding dom0, stubdoms, etc."),
    "info": Usage("[options] [name]", "Get information about Xen host", ("-n, --numa              With its topology",)),
    "domid": Usage("<DomainName>", "Convert a domain name to domain id"),
    "domname": Usage("<DomainId>", "Convert a domain id to domain name"),
    "sysrq": Usage("<Domain> <letter>", "Send a sysrq to a domain"),
    "dmesg": Usage("[-c]", "Read and/or clear dmesg buffer", ("-c, --clear             Clear it, too",)),
    "uptime": Usage("[-s] [Domain]", "Print uptime for all/some domains", ("-s                      In short",)),
    "vcpu-list": Usage("[Domain, ...]", "List the VCPUs for all/some domains"),
}  # fmt: skip


def find_command(word: str) -> str | None:
    """A command by its name, or by a beginning that no other has."""
    if word in COMMANDS:
        return word
    found = [name for name in COMMANDS if name.startswith(word)]
    return found[0] if len(found) == 1 else None


def print_usage(verb: str | None) -> None:
    """``xl help``, of everything or of one command."""
    if verb is None or verb == "help":
        print("Usage xl [-vfNtT] <subcommand> [args]\n\nxl full list of subcommands:\n")
        for name, usage in COMMANDS.items():
            print(f" {name:<19} {usage.text}")
        return
    name_or_none = find_command(verb)
    if name_or_none is None:
        print(f'command "{verb}" not implemented')
        return
    usage = COMMANDS[name_or_none]
    dry = "N" if usage.is_dry else ""
    print(f"Usage: xl [-vtT{dry}] {name_or_none} {usage.arguments}\n\n{usage.text}.\n")
    if usage.options:
        print("Options:\n\n" + "\n".join(usage.options) + "\n")
