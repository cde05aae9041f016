"""The command line: `python -m flows`."""

import argparse
import sys
from collections.abc import Sequence

_DONE, _FAILED, _WRONG_INPUT, _INTERRUPTED = 0, 1, 2, 130
_PROG = "python -m flows"
_DEFAULT = ["run", "text-classification"]
_HELP = """\
Fine-tune a Hugging Face model, score it before and after, and report.

commands:
  run KIND [options]   run an experiment; 'run KIND --help' lists every setting
  predict NAME INPUT OUTPUT [options]
                       predict the rows of a file with the champion of a name, or with a run's model
  list                 list the kinds and the presets
  serve [options]      start runs from the Prefect UI: serves every kind from this process, with a server if none is set
  setup [options]      prepare a Prefect server: work pools, limits, block types, what restarts the runs of dead workers
  doctor [options]     say whether a run would work here, and what to do where not
  champion ACTION      show, history, promote or rollback: which model of a name is in production
  prune [options]      say what a store no longer needs; with --yes, delete it

Without a command: run text-classification on a small dataset and model that need no network.
Exit codes: 0 done, 1 the run failed (doctor: would fail), 2 wrong input.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors are one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv) or _DEFAULT
    if arguments[0] in ("-h", "--help", "help"):
        _parser().print_help()
        return _DONE
    from blocks.errors import StoreConfigError, StoreError
    from tasks.errors import ConfigError, FlowsError, InputError
    from tasks.text import one_line

    commands = {
        "run": _run,
        "predict": _predict,
        "list": _list,
        "serve": _serve,
        "setup": _setup,
        "doctor": _doctor,
        "champion": _champion,
        "prune": _prune,
    }
    try:
        if arguments[0] not in commands:
            raise ConfigError(f"Unknown command {arguments[0]!r}; use {', '.join(map(repr, commands))}; see '{_PROG} --help'.")
        return commands[arguments[0]](arguments[1:])
    except (InputError, StoreConfigError) as error:
        return _fail(one_line(error, 1000), _WRONG_INPUT)
    except (FlowsError, StoreError) as error:
        return _fail(one_line(error, 1000), _FAILED)
    except KeyboardInterrupt:
        return _fail("Interrupted; what was finished is kept.", _INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=_PROG, description=_HELP, usage=f"{_PROG} [COMMAND]", formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


def _list(arguments: Sequence[str]) -> int:
    from flows.arguments import Parser
    from flows.console import print_line, print_table
    from tasks.kinds import kind_names, summary
    from tasks.parsing import PRESETS, preset_names

    Parser(prog=f"{_PROG} list", description="List the kinds and the presets.").parse_args(list(arguments))
    print_table(("kind", "what it is"), [(name, summary(name)) for name in kind_names()])
    print_line("")
    about = {name: (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0] for name in preset_names()}
    print_table(("preset", "what it is"), [(name, line.lstrip("# ")) for name, line in about.items()])
    return _DONE


def _predict(arguments: Sequence[str]) -> int:
    from flows.predict import predict

    predict(arguments)
    return _DONE


def _serve(arguments: Sequence[str]) -> int:
    from flows.serve import serve

    serve(arguments)
    return _DONE


def _setup(arguments: Sequence[str]) -> int:
    from flows.setup import setup

    setup(arguments)
    return _DONE


def _doctor(arguments: Sequence[str]) -> int:
    from flows.doctor.command import doctor

    return _DONE if doctor(arguments) else _FAILED


def _champion(arguments: Sequence[str]) -> int:
    from flows.champion import champion

    champion(arguments)
    return _DONE


def _prune(arguments: Sequence[str]) -> int:
    from flows.prune import prune

    prune(arguments)
    return _DONE


def _run(arguments: Sequence[str]) -> int:
    from flows.arguments import parse_run
    from tasks.errors import ConfigError
    from tasks.kinds import kind_names, load_kind
    from tasks.preflight import preflight

    if not arguments:
        raise ConfigError(f"Name the kind to run: {', '.join(kind_names())}.")
    if arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: {_PROG} run KIND [options]\n\nkinds: {', '.join(kind_names())}\n")
        return _DONE
    kind = load_kind(arguments[0])
    config, options = parse_run(kind, arguments[1:])
    preflight(kind.name, config)

    from flows.launch import launch

    report = launch(kind.name, config, refresh=options.refresh)

    from flows.console import print_line, print_scores

    print_scores(report)
    print_line(f"\nreport: {report.report}\nmodel:  {report.model}")
    if options.json:
        print_line(report.model_dump_json())
    return _DONE


if __name__ == "__main__":
    sys.exit(main())
