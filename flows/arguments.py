"""From the command line to a configuration: every field is a flag, with its help, under its own spelling."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic_settings import BaseSettings, CliSettingsSource

from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.kinds.kind import Kind
from tasks.parsing import merge, parse_config, read_config_file


class Parser(argparse.ArgumentParser):
    """A parser whose faults are errors of ours, and that takes no abbreviation: a new field must not change what one means."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message[:1].upper()}{message[1:]}; see '{self.prog} --help'.")


def parse_run(kind: type[Kind], argv: Sequence[str]) -> tuple[ExperimentConfig, argparse.Namespace]:
    """Return the configuration (file, then flags over it) and the options `json` and `refresh` of `run KIND`.

    Raises:
        ConfigError: an unknown flag or field, or a wrong value.
    """
    parser = Parser(prog=f"python -m flows run {kind.name}", description=f"Run {kind.name}: {_summary(kind)}")
    parser.add_argument("--config", metavar="FILE_OR_PRESET", help="YAML file or preset with the config; flags override it")
    parser.add_argument("--refresh", action="store_true", help="compute every step anew, whatever the store has")
    parser.add_argument("--json", action="store_true", help="print the run's record as one JSON object in the last line")

    # The config's own class, made one of settings: what pydantic-settings makes flags of.
    flags_class = type("Flags", (kind.config_class, BaseSettings), {"__module__": __name__})
    source: CliSettingsSource[Any] = CliSettingsSource(
        flags_class,
        root_parser=parser,
        cli_parse_args=list(argv),
        cli_kebab_case=False,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=False,
    )
    options = parser.parse_args(list(argv))
    values = read_config_file(options.config) if options.config else {}
    return _parse(kind, options.config, values, source()), options


def _parse(kind: type[Kind], file: str | None, values: dict[str, Any], flags: dict[str, Any]) -> ExperimentConfig:
    """Validate the two together; what one of them alone has wrong is blamed on it."""
    origins = [*([repr(file)] if file else []), *(["the command line"] if flags or not file else [])]
    try:
        return parse_config(kind.config_class, merge(values, flags), " and ".join(origins))
    except ConfigError:
        parse_config(kind.config_class, flags, "the command line")
        parse_config(kind.config_class, values, repr(file))
        raise


def _summary(kind: type[Kind]) -> str:
    from tasks.kinds import summary

    return summary(kind.name)
