"""Look at, and change, which model is the champion of a name: `python -m flows champion`."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from blocks.artifact_store import ArtifactStore
from blocks.errors import PointerChanged
from flows.arguments import Parser
from flows.console import print_line, print_table
from flows.history import draw, print_history
from flows.stores import open_named
from tasks.champions import Champion, Registry, Tick, read_registry, write_registry
from tasks.config import ExperimentConfig
from tasks.errors import ConfigError, RunError
from tasks.parsing import did_you_mean
from tasks.records import Report
from tasks.runs import champion_of, find_run
from tasks.text import one_line

_DESCRIPTION = """\
Look at the champions of a store, and change them by hand: show [NAME] says which model is the champion; history NAME what became
of each run's model, with the metric over time; promote NAME RUN makes a run's model the champion; rollback NAME goes back to the
one before."""
_ACTIONS = ("show", "history", "promote", "rollback")


def champion(argv: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: an unknown flag, name or run.
        StoreError: the store failed.
        RunError: another run changed the champion meanwhile, or the Hub did not take the model.
    """
    options = _parse(argv)
    store = open_named(options.store)
    if options.action == "show" and options.name is None:
        _show_all(store)
        return
    registry, version = _read(store, options.name)
    if options.action == "show":
        _show(store, options.name, registry, as_json=options.json)
    elif options.action == "history":
        _history(registry, options)
    elif options.action == "rollback":
        _rollback(store, options.name, registry, version)
    else:
        _promote(store, options, registry, version)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m flows champion", description=_DESCRIPTION)
    parser.add_argument("action", choices=_ACTIONS, help="what to do")
    parser.add_argument("name", nargs="?", help="the model's name; show without it lists all")
    parser.add_argument("run", nargs="?", help="promote: name or key of the run; without it, with --push_to_hub, the champion")
    parser.add_argument(
        "--store",
        default=ExperimentConfig.model_fields["store"].default,
        help="a folder, s3://bucket/prefix or block:TYPE/NAME (default: %(default)s)",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="history: draw it into a file too")
    parser.add_argument(
        "--push_to_hub",
        "--push-to-hub",
        metavar="REPOSITORY",
        help="promote: publish the model and its card on the Hugging Face Hub",
    )
    parser.add_argument("--private", action="store_true", help="make that repository a private one, if it is not there yet")
    parser.add_argument("--json", action="store_true", help="show, history: print what there is as one JSON object")
    options = parser.parse_args(list(argv))
    if options.name is None and options.action != "show":
        raise ConfigError(f"Name the model: 'champion {options.action} NAME'.")
    if options.run is not None and options.action != "promote":
        raise ConfigError(f"'champion {options.action}' takes no run; {options.run!r} is one too many.")
    if options.action == "promote" and options.run is None and not options.push_to_hub:
        raise ConfigError("Name the run whose model to promote: 'champion promote NAME RUN'.")
    return options


def _read(store: ArtifactStore, name: str) -> tuple[Registry, str | None]:
    registry, version = read_registry(store, name)
    if registry is None:
        raise ConfigError(f"The store knows no model {name!r}{did_you_mean(name, store.list_pointers())}.")
    return registry, version


def _show_all(store: ArtifactStore) -> None:
    rows = []
    for name in store.list_pointers():
        registry, _ = _read(store, name)
        now = registry.champion
        rows.append((name, registry.kind, now.run if now else "-", now.since[:10] if now else "-"))
    print_table(("name", "kind", "champion's run", "since"), rows)


def _show(store: ArtifactStore, name: str, registry: Registry, *, as_json: bool) -> None:
    now = registry.champion
    if as_json:
        content = {"name": name, "kind": registry.kind, "champion": now.model_dump(mode="json") if now else None}
        print_line(json.dumps(content))
        return
    if now is None:
        print_line(f"{name} has no champion yet: no run's model has passed the gate.")
        return
    tick = _last_tick(registry, now)
    print_line(f"{name}: the model of run {one_line(now.run)}, champion since {now.since}")
    if tick is not None:
        print_line(f"{tick.metric}: {tick.challenger:.4f} on {tick.rows:,} test rows when it was promoted")
        for reason in tick.reasons:
            print_line(f"  {one_line(reason)}")
    print_line(f"model:  {store.locate(now.key)}/model\nsha256: {now.digest}")


def _last_tick(registry: Registry, model: Champion) -> Tick | None:
    return next((tick for tick in reversed(registry.ticks) if tick.model == model.training), None)


def _history(registry: Registry, options: argparse.Namespace) -> None:
    if options.plot:
        draw(registry, options.name, options.plot)
    if options.json:
        print_line(json.dumps({"name": options.name, **registry.model_dump(mode="json")}))
    else:
        print_history(registry)


def _rollback(store: ArtifactStore, name: str, registry: Registry, version: str | None) -> None:
    if len(registry.champions) < 2:
        raise ConfigError(f"{name!r} has no champion before this one to go back to.")
    gone, back = registry.champions[-1], registry.champions[-2]
    tick = _by_hand(registry, gone, outcome="rolled back", reason=f"By hand: back to the model of run {back.run}.")
    changed = registry.after(tick).model_copy(update={"champions": registry.champions[:-1]})
    _write(store, name, changed, version)
    print_line(
        f"{name}: back to the model of run {one_line(back.run)}; that of run {one_line(gone.run)} is the champion no more."
    )


def _promote(store: ArtifactStore, options: argparse.Namespace, registry: Registry, version: str | None) -> None:
    if options.run is not None:
        report = find_run(store, options.name, options.run)
        chosen = champion_of(store, report)
        if registry.champion is None or registry.champion.key != chosen.key:
            tick = _by_hand(registry, chosen, outcome="promoted", reason="By hand.", report=report)
            _write(store, options.name, registry.after(tick, chosen), version)
        print_line(f"{options.name}: the model of run {one_line(chosen.run)} is the champion.")
    else:
        if registry.champion is None:
            raise ConfigError(f"{options.name!r} has no champion to publish; name a run to promote.")
        chosen = registry.champion
    if options.push_to_hub:
        from flows.hub_push import push

        print_line(f"published: {push(store, options.name, chosen, options.push_to_hub, private=options.private)}")


def _by_hand(registry: Registry, model: Champion, *, outcome: str, reason: str, report: Report | None = None) -> Tick:
    """Return the tick of a change by hand: with the values that were measured in the model's own run."""
    metric, last = registry.primary_metric, _last_tick(registry, model)
    if last is not None:
        untouched, challenger, rows, test = last.untouched, last.challenger, last.rows, last.test
    else:
        assert report is not None, "every champion has a tick"
        untouched, challenger, rows, test = report.before[metric], report.after[metric], report.rows, ""
    return Tick.model_validate(
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "outcome": outcome,
            "reasons": [reason],
            "run": model.run,
            "run_id": "",
            "model": model.training,
            "weights": model.digest,
            "metric": metric,
            "untouched": untouched,
            "challenger": challenger,
            "rows": rows,
            "test": test,
        }
    )


def _write(store: ArtifactStore, name: str, registry: Registry, version: str | None) -> None:
    try:
        write_registry(store, name, registry, version)
    except PointerChanged:
        raise RunError(f"The champion of {name!r} was changed meanwhile; see 'champion show', then try again.") from None
