"""The command line and recipe that a report opens: what is ticked is excluded, and nothing else."""

from __future__ import annotations

import json
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bitfold.frontend.cli.command_line import given_command
from bitfold.frontend.report.command import (
    again,
    exclusion,
    glob_of,
    open_forms,
    shell_line,
    text_item,
    toml_item,
)
from bitfold.passes.core.recipe import Recipe, format_text, from_toml, parse_text

NAMES = [
    "a",
    "/layer.0/MatMul",
    "it's",
    "[0]",
    "*",
    "a?b",
    'say "x"',
    "-dash",
    "back\\slash",
    "é\t",
]
TEXT = 'canonicalize, merge-siblings, quantize{weights=int8 exclude=["lm_*"]}, lower'


@given(st.text(), st.text())
def test_a_glob_matches_its_own_name_alone(name: str, other: str) -> None:
    assert fnmatchcase(name, glob_of(name))
    assert fnmatchcase(other, glob_of(name)) == (other == name)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_shell_reads_the_option_back(name: str) -> None:
    assert shlex.split(exclusion(name)) == [f"--exclude={glob_of(name)}"]


def test_ticked_sites_join_every_exclude_of_the_recipe() -> None:
    recipe = parse_text(TEXT)
    forms = open_forms(recipe)
    assert forms is not None
    assert forms[0].text == format_text(recipe)
    # As the page's script fills the templates:
    text = forms[0].template.replace(forms[0].quoted, ", ".join(map(text_item, NAMES)))
    toml = forms[1].template.replace(forms[1].quoted, ", ".join(map(toml_item, NAMES)))
    globs = tuple(map(glob_of, NAMES))
    for made in (parse_text(text), from_toml(toml)):
        excluded = {item.name: getattr(item, "exclude", None) for item in made}
        assert excluded["quantize"] == ("lm_*", *globs)
        assert excluded["merge-siblings"] == globs
        assert excluded["lower"] is None


def test_a_recipe_that_excludes_nothing_stays_closed() -> None:
    assert open_forms(parse_text("canonicalize, lower")) is None


def test_the_command_runs_the_same_recipe() -> None:
    recipe = parse_text(TEXT)
    words = again("my model.onnx", Path("out.onnx"), recipe, 3, "report")
    assert shlex.split(shell_line(words)) == words
    assert words[:4] == ["bitfold", "convert", "my model.onnx", "--output=out.onnx"]
    passes = next(word for word in words if word.startswith("--passes="))
    assert Recipe.of(passes.removeprefix("--passes=")) == recipe
    assert words[-3:] == ["--seed=3", "--report=report", "--force"]


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--verify", type=click.Choice(["off", "fast"]), default="fast")
@click.option("--exclude", multiple=True)
@click.option("--strict", is_flag=True)
@click.option("--library/--no-library", default=True)
@click.option("--seed", type=int)
@click.option("--json", "as_json", is_flag=True)
def tool(**_: object) -> None:
    click.echo(json.dumps(given_command(click.get_current_context(), ("as_json",))))


@pytest.mark.parametrize(
    ("given_words", "expected"),
    [
        (["m", "-o", "x y"], ["m", "--output=x y"]),
        (["m", "-ox", "--verify", "fast", "--json"], ["m", "--output=x"]),
        (
            ["m", "-ox", "--verify=off", "--strict", "--no-library", "--seed", "0"],
            ["m", "--output=x", "--verify=off", "--strict", "--no-library", "--seed=0"],
        ),
        (
            ["m", "-ox", "--exclude=-a", "--exclude", "*"],
            ["m", "--output=x", "--exclude=-a", "--exclude=*"],
        ),
    ],
)
def test_gives_the_command_again(given_words: list[str], expected: list[str]) -> None:
    outcome = CliRunner().invoke(tool, given_words, prog_name="tool")
    assert json.loads(outcome.stdout) == ["bitfold", "tool", *expected]
    second = CliRunner().invoke(tool, json.loads(outcome.stdout)[2:], prog_name="tool")
    assert second.stdout == outcome.stdout
