"""``xl create`` in the process that becomes the domain: options, configuration, machine, and then the domain's life."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from pvemu.errors import InputError
from pvemu.xl.configuration import as_json
from pvemu.xl.domain import new_domain, run_to_the_end
from pvemu.xl.options import Leave, parse_options
from pvemu.xl.usage import print_usage
from pvemu.xlcfg import XlConfigError
from pvemu.xlcfg.domain import load_domain

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pvemu.xl.domain import DomainProcess
    from pvemu.xl.options import Options
    from pvemu.xl.runtime import Runtime
    from pvemu.xlcfg.domain import XlDomain

__all__ = ["create_in_child", "read_create_options"]

_FAIL = 3  #: -ERROR_FAIL, with which xl exits when libxl could not
_LONG = {
    "defconfig": "f", "dryrun": "n", "quiet": "q", "vncviewer": "V", "vncviewer-autopass": "A",
    "ignore-global-affinity-masks": "i",
}  # fmt: skip


def read_create_options(words: Sequence[str]) -> tuple[Options, str | None, list[str]]:
    """Options, the configuration file, the ``key=value`` lines; Leave for what xl refuses."""
    words = list(words)
    config = words.pop(0) if words and not words[0].startswith("-") and "=" not in words[0] else None
    options = parse_options("create", words, "AFVcdef:inpq", 0, _LONG)
    config = options.values.get("f", config)
    extra = []
    for operand in options.operands:
        if "=" in operand:
            extra.append(operand)
        elif config is None:
            config = operand
        else:
            print_usage("create")
            raise Leave(2)
    return options, config, extra


def create_in_child(
    runtime: Runtime, connection: socket.socket, descriptors: Sequence[int], folder: str, words: Sequence[str], *,
    write: bool,
) -> int:  # fmt: skip
    """All of it. Tells ``connection`` what came of it, and returns when there is no domain (any more)."""
    _take_over(descriptors, folder)
    try:
        process, domain = _create(runtime, words, write=write)
    except Leave as leaving:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(f"exit {leaving.code}\n".encode())
        return 0
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    log = runtime.open_log(f"{runtime.path}/log/warm.log")
    for descriptor, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.chdir("/")
    process.begin()
    connection.sendall(f"created {process.entry.domid}\n".encode())
    connection.close()
    run_to_the_end(runtime, process, domain)
    return 0


def _take_over(descriptors: Sequence[int], folder: str) -> None:
    for descriptor, target in zip(descriptors, (1, 2), strict=False):
        os.dup2(descriptor, target)
        os.close(descriptor)
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")


def _create(runtime: Runtime, words: Sequence[str], *, write: bool) -> tuple[DomainProcess, XlDomain]:
    options, config, extra = read_create_options(words)
    if config is None:
        print("Config file not specified and none in save file", file=sys.stderr)
        raise Leave(6)
    if "q" not in options:
        print(f"Parsing config from {config}", file=sys.stderr)
    try:
        domain = load_domain(config, extra, write=write)
    except XlConfigError as error:
        for line in error.xl_lines:
            print(line, file=sys.stderr)
        if str(error) not in error.xl_lines:
            print(f"pvemu: {error}", file=sys.stderr)
        raise Leave(error.xl_exit) from None
    for warning in domain.warnings:
        print(warning, file=sys.stderr)
    if "n" in options:
        print(json.dumps(as_json(domain), indent=4))
        raise Leave(0)
    if "d" in options:
        print(json.dumps(as_json(domain), indent=4), file=sys.stderr)
    try:
        process = new_domain(runtime, domain, is_monitored="e" not in options)
    except InputError as error:
        print(f"libxl: error: libxl_create.c:domcreate_rebuild_done: cannot (re-)build domain: -3\npvemu: {error}",
              file=sys.stderr)  # fmt: skip
        raise Leave(_FAIL) from None
    if process is None:
        print(f'libxl: error: libxl_domain.c:libxl__domain_rename: Domain with name "{domain.name}" already exists.',
              file=sys.stderr)  # fmt: skip
        raise Leave(_FAIL)
    return process, domain
