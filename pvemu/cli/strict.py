"""``pvemu boot --strict``: the same run under many seeds, and ``strict: 50/50``."""

from __future__ import annotations

import json
import shlex
import sys
from typing import IO, TYPE_CHECKING, Any

from pvemu.cli.strict_options import strict_aspects, whole_number
from pvemu.config import DEFAULT_SEEDS
from pvemu.testing.strict import SeedResult, strict_runs

if TYPE_CHECKING:
    import argparse

    from pvemu.config import DomainConfig

__all__ = ["run_seeds"]


def run_seeds(
    arguments: argparse.Namespace, config: DomainConfig, session: dict[str, Any], report: IO[bytes] | None
) -> int:
    """All of it; the exit code. Failures are told as they come, on stderr; the score is the last line of stdout."""
    count = DEFAULT_SEEDS if arguments.seeds is None else whole_number(arguments.seeds, "--seeds", 1)

    def tell(result: SeedResult) -> None:
        if result.difference:
            because = f" ({', '.join(result.alone)} by itself suffices)" if len(result.alone) == 1 else ""
            because = because or (f" (each of {', '.join(result.alone)} suffices)" if result.alone else "")
            print(f"pvemu: strict: seed {result.seed}: {result.difference}{because}", file=sys.stderr)
            print(f"pvemu: repeat it with: {_repeat(arguments, result.seed)}", file=sys.stderr)

    aspects = strict_aspects(arguments)
    found = strict_runs(config, range(1, count + 1), aspects=aspects, on_result=tell, **session)
    if not found.results:
        print(
            f"pvemu: {found.plain.verdict}: {found.plain.reason}\npvemu: strict: this run does not succeed without any "
            "strictness; give it an end that is a success, such as --until REGEX",
            file=sys.stderr,
        )
    else:
        print(found.score)
    if report is not None:
        with report:
            document = {
                "score": found.score if found.results else None,
                "plain": {"verdict": found.plain.verdict, "reason": found.plain.reason},
                "aspects": list(aspects),
                "seeds": [
                    {"seed": result.seed, "survived": not result.difference, "difference": result.difference,
                     "alone": list(result.alone)}
                    for result in found.results
                ],
            }  # fmt: skip
            report.write(json.dumps(document, indent=2).encode() + b"\n")
    return found.exit_code


def _repeat(arguments: argparse.Namespace, seed: int) -> str:
    """The command line with one seed for many."""
    words = ["pvemu", "boot"]
    if arguments.kernel is not None:
        words.append(arguments.kernel)
    for option in ("config", "ramdisk", "cmdline", "memory", "until", "timeout", "max_reboots", "strict_aspects"):
        value = getattr(arguments, option)
        if value is not None:
            words += [f"--{option.replace('_', '-')}", value]
    for option in ("disk", "send"):
        for value in getattr(arguments, option):
            words += [f"--{option}", value]
    if arguments.write:
        words.append("--write")
    return shlex.join([*words, "--strict-seed", str(seed)])
