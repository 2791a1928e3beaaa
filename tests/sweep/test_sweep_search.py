"""Search gives the same trials for any order of results and after any interruption, with equal budgets."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from trainer.config.yaml_reader import Tree
from trainer.errors import RunError
from trainer.records import EvalResult, RunResult
from trainer.sweep.models import Objective, Sweep, SweepConfig, Variant
from trainer.sweep.plan import RunSpec
from trainer.sweep.results import Outcome
from trainer.sweep.search import STORAGE, Search, open_storage
from trainer.sweep.space import parse_axis
from trainer.sweep.variant_search import VariantSearch

OBJECTIVE = Objective(metric="val_loss")


def make(
    root: Path, *, anew: Literal["never", "mismatch"] = "never", shared: bool = False, **settings: Any
) -> VariantSearch:
    config = SweepConfig.model_validate(
        {"name": "s", "strategy": "tpe", "trials": 10, "batch": 4, "objective": {"metric": "val_loss"}}
        | settings
    )
    axes = (
        parse_axis("optimizer.lr", {"log_uniform": [1e-4, 1.0]}),
        parse_axis("model.name", {"choice": ["a", "b"]}),
        parse_axis("data.batch_size", {"int": [1, 64]}),
    )
    variant = Variant("v", Tree({}, {}), (), axes, {})
    sweep = Sweep(config, {"v": variant}, root)
    storage, lock = open_storage(root, shared=shared), root / "lock" if shared else None
    search = Search(config, variant, storage, "min", 8, delete_stored=anew, shared=lock)
    return VariantSearch(sweep, variant, root, OBJECTIVE, search, finals=bool(config.final_seeds))


def loss(values: Mapping[str, Any], seed: int) -> float:
    """A quadratic objective with its minimum at lr = 0.01; seeds shift it slightly."""
    return (math.log10(values["optimizer.lr"]) + 2) ** 2 + (values["model.name"] == "b") + 0.01 * seed


def ended(value: float, status: Literal["completed", "diverged", "pruned"] = "completed") -> Outcome:
    moment = EvalResult(8, 8.0, 1.0, {"val_loss": value})
    result = RunResult(status, 8, 8.0, 8, 8, 1.0, 1.0, moment, moment, None, 8.0, 8.0, 1, 1, 1, "val_loss")
    return Outcome(status, result)


def carry_out(variant_search: VariantSearch, *, stop_after: int = 10**6, order: int = 0) -> list[RunSpec]:
    """Simulate training: pick any ready run first; its evaluations decrease towards its value."""
    chance, done = random.Random(order), []
    variant_search.start()
    while variant_search.ready and len(done) < stop_after:
        spec = variant_search.ready[chance.randrange(len(variant_search.ready))]
        variant_search.ready.remove(spec)
        variant_search.add_outcome(spec, simulate(variant_search, spec))
        done.append(spec)
    return done


def simulate(variant_search: VariantSearch, spec: RunSpec) -> Outcome:
    """Return the outcome of a run whose evaluations decrease towards its value."""
    worth = loss(spec.values, spec.seed)
    if variant_search.prune_metric(spec):
        so_far: list[float] = []
        for evaluation in range(1, 8):
            so_far.append(worth + 1 / evaluation)
            if variant_search.should_prune(spec, so_far):
                return ended(so_far[-1], "pruned")
    return ended(worth)


def settings_of(variant_search: VariantSearch) -> list[Mapping[str, Any]]:
    return [variant_search.settings[number].values for number in sorted(variant_search.settings)]


@pytest.mark.parametrize("strategy", ["random", "qmc", "tpe", "gp"])
def test_trials_do_not_depend_on_the_order_of_outcomes_or_on_interruptions(
    strategy: str, tmp_path: Path
) -> None:
    trials = 14  # model-based samplers draw the first ten at random
    for name in ("straight", "shuffled", "stopped"):
        (tmp_path / name).mkdir()
    straight = make(tmp_path / "straight", strategy=strategy, trials=trials)
    carry_out(straight)
    shuffled = make(tmp_path / "shuffled", strategy=strategy, trials=trials)
    carry_out(shuffled, order=5)
    for _ in range(2):
        carry_out(make(tmp_path / "stopped", strategy=strategy, trials=trials), stop_after=6, order=1)
    storage = tmp_path / "stopped" / STORAGE
    storage.write_bytes(storage.read_bytes() + b'{"op_code": 4, "torn')  # as after a power failure
    stopped = make(tmp_path / "stopped", strategy=strategy, trials=trials)
    carry_out(stopped)
    assert len(settings_of(straight)) == trials
    assert settings_of(shuffled) == settings_of(straight)
    assert settings_of(stopped) == settings_of(straight)
    assert len({str(values) for values in settings_of(straight)}) == trials


def test_another_search_seed_gives_other_trials_and_another_variant_too(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = make(tmp_path / "one"), make(tmp_path / "two", search_seed=1)
    carry_out(one)
    carry_out(two)
    assert settings_of(one) != settings_of(two)


def test_a_guided_search_improves_over_its_first_trials(tmp_path: Path) -> None:
    variant_search = make(tmp_path, trials=40)
    carry_out(variant_search)
    best = variant_search.best()
    assert best is not None
    assert abs(math.log10(best[0].values["optimizer.lr"]) + 2) < 0.3
    later = [loss(values, 0) for values in settings_of(variant_search)[20:]]
    earlier = [loss(values, 0) for values in settings_of(variant_search)[:10]]
    assert sum(later) / len(later) < sum(earlier) / len(earlier)


@pytest.mark.parametrize("prune", ["median", "hyperband", "wilcoxon"])
def test_pruning_saves_runs_and_does_not_depend_on_the_order_of_outcomes(prune: str, tmp_path: Path) -> None:
    done, pruned, searches = [], [], []
    for order in (0, 7):
        root = tmp_path / str(order)
        root.mkdir()
        variant_search = make(root, strategy="random", trials=24, seeds=6, prune=prune)
        done.append({(spec.trial, spec.seed) for spec in carry_out(variant_search, order=order)})
        pruned.append({n for n, setting in variant_search.settings.items() if len(setting.outcomes) < 6})
        searches.append(variant_search)
        assert variant_search.num_skipped() == 24 * 6 - len(done[-1])
    assert done[0] == done[1]
    assert pruned[0] == pruned[1]
    assert 0 < len(pruned[0]) < 24
    assert len(settings_of(searches[0])) == 24
    best = [variant_search.best() for variant_search in searches]
    assert best[0] is not None
    assert best[1] is not None
    assert best[0][0].number == best[1][0].number not in pruned[0]


def test_divergence_is_the_worst_outcome_and_a_failure_has_no_value(tmp_path: Path) -> None:
    variant_search = make(tmp_path, trials=4, seeds=2, final_seeds=2)
    variant_search.start()
    for number, status in enumerate(["completed", "diverged", "failed", "completed"]):
        for seed in (0, 1):
            spec = next(s for s in variant_search.ready if s.trial == number and s.seed == seed)
            variant_search.ready.remove(spec)
            value = {0: 2.0, 1: 0.1, 3: 1.0}.get(number, 0.0)
            if status == "failed":
                variant_search.add_outcome(spec, Outcome("failed", None, "broken"))
            else:
                variant_search.add_outcome(
                    spec, ended(value, "diverged" if status == "diverged" and seed else "completed")
                )
    values = [variant_search.value(variant_search.settings[number]) for number in range(4)]
    assert values == [2.0, math.inf, None, 1.0]
    best = variant_search.best()
    assert best is not None
    assert best[0].number == 3
    assert [(spec.stage, spec.trial, spec.seed) for spec in variant_search.ready] == [
        ("final", 3, 1000),
        ("final", 3, 1001),
    ]


def test_the_storage_of_another_search_is_refused_unless_restarted(tmp_path: Path) -> None:
    carry_out(make(tmp_path), stop_after=2)
    with pytest.raises(RunError, match="other axes"):
        make(tmp_path, search_seed=3)
    carry_out(make(tmp_path, trials=12))  # more trials continue the same search
    anew = make(tmp_path, search_seed=3, anew="mismatch")
    assert not anew.settings


@pytest.mark.parametrize("strategy", ["qmc", "tpe"])
def test_two_processes_share_one_search(strategy: str, tmp_path: Path) -> None:
    """Each trains half of the runs; one of them is always ahead by up to a batch."""
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
    options: dict[str, Any] = {"strategy": strategy, "trials": 14, "seeds": 2}
    alone = make(tmp_path / "alone", **options)
    carry_out(alone)
    both = [make(tmp_path / "shared", shared=True, **options) for _ in range(2)]
    outcomes: dict[Path, Outcome] = {}
    for each in both:
        each.start()
    for ahead in [0, 1, 1, 0, 0, 1] * 40:
        one = both[ahead]
        for spec in list(one.ready):
            mine = (spec.trial + spec.seed) % 2 == ahead
            if spec.folder in outcomes or mine:
                outcome = outcomes.setdefault(spec.folder, simulate(one, spec))
                one.ready.remove(spec)
                one.add_outcome(spec, outcome)
    assert [len(one.ready) for one in both] == [0, 0]
    for one in both:
        assert settings_of(one) == settings_of(alone)
        assert one.best() is not None
        assert [s.outcomes.keys() for s in one.settings.values()] == [{0, 1}] * 14
    stored = [make(tmp_path / name, **options)._search for name in ("alone", "shared")]
    assert stored[0] is not None
    assert stored[1] is not None
    assert stored[0].trials() == stored[1].trials()
