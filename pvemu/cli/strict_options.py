"""The options of strictness: ``--strict``, ``--seeds``, ``--strict-seed``, ``--strict-aspects``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.config import ASPECTS, DEFAULT_SEEDS, StrictConfig
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["add_strict_arguments", "strict_aspects", "strict_config", "wants_seeds", "whole_number"]

_MAX_SEED = (1 << 64) - 1


def add_strict_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of strictness."""
    group = parser.add_argument_group("strictness: what Xen does not promise is not kept (docs/strict.md)")
    group.add_argument(
        "--strict", action="store_true", help=f"run under {DEFAULT_SEEDS} seeds and count those that are survived"
    )
    group.add_argument("--seeds", metavar="N", help="so many seeds; implies --strict")
    group.add_argument("--strict-seed", metavar="SEED", help="one run, under this seed")
    group.add_argument("--strict-aspects", metavar="LIST", help=f"some of {','.join(ASPECTS)} (default all)")


def whole_number(text: str, option: str, least: int) -> int:
    """What an option's number is; ConfigError for what is none, or less than ``least``."""
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= _MAX_SEED:
        raise ConfigError(f"{option} {text!r}: not a number; give one such as {max(least, 50)}")
    return int(text)


def strict_config(arguments: argparse.Namespace) -> StrictConfig | None:
    """The strictness of a single run."""
    aspects = strict_aspects(arguments)
    if arguments.strict_seed is None:
        if arguments.strict_aspects is not None and not wants_seeds(arguments):
            raise ConfigError("--strict-aspects: nothing is strict; add --strict, or --strict-seed 1")
        return None
    if wants_seeds(arguments):
        raise ConfigError("--strict-seed: is one run, and --strict or --seeds many; drop one of them")
    return StrictConfig(whole_number(arguments.strict_seed, "--strict-seed", 0), aspects)


def wants_seeds(arguments: argparse.Namespace) -> bool:
    """Whether many runs are asked for."""
    return arguments.strict or arguments.seeds is not None


def strict_aspects(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The aspects that are asked for."""
    if arguments.strict_aspects is None:
        return ASPECTS
    return StrictConfig(0, tuple(filter(None, arguments.strict_aspects.split(",")))).aspects
