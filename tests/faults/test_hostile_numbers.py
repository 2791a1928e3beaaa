"""NaN, infinite, negative and huge values for every number in a config give one error message or a run."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import yaml
from every_number import VALUES, Place, component_places, config_with, given, put, structural_places
from forks import Forks
from PIL import Image
from pydantic import ValidationError

from trainer import catalog
from trainer.config.models import Config
from trainer.errors import ConfigError


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options that are texts: a folder of images and a function of a schedule."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "lambdas.py").write_text("def shrink(step):\n    return 0.9**step\n")
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder / "images" / place).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), 40 + number).save(folder / "images" / place / f"{number}.png")
    return {"path": str(folder / "images"), "target": "y", "lr_lambda": str(folder / "lambdas.py:shrink")}


def test_every_option_of_every_component(own: dict[str, str]) -> None:
    """Check the value with the option model, and with the builder where a run does so before training."""
    reported: Counter[str] = Counter()
    component = ("", "")
    for place in component_places():
        if component != (place.kind, place.component):
            component = (place.kind, place.component)
            model, around = catalog.option_model(*component), given(*component, own)
            del around["name"]
        for name, value in VALUES.items():
            try:
                options = model.model_validate(around | {place.option: put(place.fill, value)}).model_dump()
                catalog.check_values(*component, options)
            except (ValidationError, ConfigError):  # any other exception fails the test
                reported["refused"] += 1
            else:
                assert name not in ("nan", "-inf"), place.name
                reported["left to the run"] += 1
    assert reported.total() > 2_500
    assert reported["refused"] > 1_500


def test_every_number_of_the_config_models() -> None:
    places = list(structural_places())
    assert len(places) > 35
    for place in places:
        for name, value in VALUES.items():
            try:
                Config.model_validate(config_with(place, value, {}))
            except ValidationError as error:
                problems = [".".join(map(str, problem["loc"])) for problem in error.errors()]
                assert any(place.option.rpartition(".")[2] in problem for problem in problems), problems
            else:
                assert name[0] not in "n-" or "mean" in place.name, f"{place.name} = {name}"


def config_text(place: Place, value: float, own: dict[str, str], *, group: bool) -> str:
    return yaml.safe_dump(copy.deepcopy(config_with(place, value, own, group=group)), sort_keys=False)


@pytest.mark.nightly
def test_every_number_in_a_separate_run(forks: Forks, tmp_path: Path, own: dict[str, str]) -> None:
    """`optlab train` rejects the value with one message or trains, in bounded time and memory."""
    tried: Counter[int] = Counter()
    cases = [(place, False) for place in (*structural_places(), *component_places())]
    cases += [(place, True) for place in component_places() if place.kind == "optimizer"]
    for number, (place, group) in enumerate(cases):
        for name, value in VALUES.items():
            if place.component.startswith("torchvision.") and name == "0":
                continue  # a dropout of 0 is a valid value, and these models are large
            (tmp_path / "case.yaml").write_text(config_text(place, value, own, group=group))
            ended = forks.run(
                tmp_path, "train", "case.yaml", "--run-dir", f"runs/{number}-{name}", "--quiet",
                most_seconds=15, most_bytes=1500 << 20,
            )  # fmt: skip
            about = f"{place.name}{' in a group' * group} = {name}: {ended}"
            assert ended.code in (0, 2, 3), about
            assert "Traceback" not in ended.err, about
            reported = sum(line.startswith("error: ") for line in ended.err.splitlines())
            assert reported == (ended.code == 2), about  # torch may have warned before
            assert ended.code != 2 or not (tmp_path / f"runs/{number}-{name}").exists(), about
            tried[ended.code] += 1
    print(f"{tried.total()} tried: {tried[2]} refused, {tried[0]} trained, {tried[3]} diverged")
