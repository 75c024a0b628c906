"""``--keep-fastest``: time each site's alternatives on this machine and keep what wins.

The outcome is a recipe: sites where the float operator wins are added to ``quantize``'s
``exclude``, and those where stock ORT's low-bit operator wins to ``lower``'s ``stock``.  So the
recipe in the result's metadata makes the same result again, on any machine, without timing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from bitfold.frontend.site_times import (
    FLOAT,
    SiteTimes,
    input_shapes,
    relative_times,
    time_models,
    time_site,
)
from bitfold.passes.analysis.fragments import cut_site, facts_of
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.base import Pass
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import BitfoldError, RecipeError, UnsupportedError
from bitfold.runtime.execution import open_session
from bitfold.runtime.op_library import op_library_path

MARGIN = 0.97
"""Another alternative must take less than this share of the target's own time to replace it."""

STOCK = "ort"


@dataclass
class Choices:
    """What was timed and kept.

    Attributes:
        recipe: the recipe that keeps it.
        notes: how often each alternative is the fastest alone, and what the whole model takes.
        timings: a line for each kind of site: what its alternatives take alone.
    """

    recipe: Recipe
    notes: list[str] = field(default_factory=list)
    timings: list[str] = field(default_factory=list)


@dataclass
class _Alike:
    """Sites that take the same time, by their names; one of them stands for all."""

    fragment: ir.Model
    shapes: list[tuple[int, ...]]
    tied: bool
    conv: bool
    names: list[str] = field(default_factory=list)
    kept: str = ""

    def title(self) -> str:
        more = f" and {len(self.names) - 1} like it" if self.names[1:] else ""
        return self.names[0] + more


def keep_fastest(model: ir.Model, recipe: Recipe, context: Context, threads: int = 0) -> Choices:
    """The recipe with which every site takes its fastest alternative on this machine.

    1. The passes before ``quantize`` run, to find the sites as it will see them; the samples give
       the shapes of their inputs.
    2. Of sites that are alike (shape, attributes, what follows), one is timed on its own: in
       float, with the target's operator and, for target ``native``, with that of ``ort``.
    3. The whole model is timed in float, with the recipe as it was, with each site's winner, and
       with all convolutions in float besides (a runtime's own layout of images pays only from
       convolution to convolution, which no single site shows); the fastest recipe is kept.

    Look-ups are left as the recipe has them: they take no time.

    Args:
        model: the float model; stays as it is.
        context: its samples are used; where it has none, they are made up and put there.
        threads: threads inside an operator; 0 lets ORT choose.

    Raises:
        RecipeError: the recipe does not quantize and lower.
        UnsupportedError: the target is ``native`` and the op library is not built; float is the
            fastest everywhere.
    """
    passes = list(recipe)
    quantize = next((item for item in passes if isinstance(item, Quantize)), None)
    lower = next((item for item in passes if isinstance(item, Lower)), None)
    if quantize is None or lower is None:
        raise RecipeError(
            f"keep-fastest: expected a recipe with quantize and lower, found {recipe}",
            "leave keep-fastest out: without them there is nothing to choose",
        )
    if lower.target == "native":
        op_library_path()  # the bodies' times would say nothing
    context.progress("looking for the sites", 0.0)
    timings: list[str] = []
    with ExitStack() as stack:
        # Checked, so that a pass that will be rolled back is left out of the trials too.
        before = Recipe(tuple(passes[: passes.index(quantize)]))
        found, report = Pipeline(before, context).run(model)
        wrong = {entry.name for entry in report.rolled_back}
        kinds = _alike(found, context.samples)
        for done, alike in enumerate(kinds):
            context.progress(f"timing {alike.names[0]}", done / len(kinds))
            own = _of_embedding(quantize) if alike.tied else quantize
            times = time_site(alike.fragment, own, lower, alike.shapes, threads)
            if times is None:
                continue  # not one that is quantized
            alike.kept = _fastest(times, lower.target)
            timings.append(f"{alike.title()}: {times}; fastest alone: {alike.kept}")
        return _best(recipe, kinds, timings, _Trials(model, context, found, wrong, stack), threads)


@dataclass
class _Trials:
    """Unchecked conversions, to be timed.

    Attributes:
        canonical: the float model after the passes before ``quantize``.
        wrong: names of passes that break the model, and are left out.
        stack: keeps the weights that the trials make on disk.
    """

    model: ir.Model
    context: Context
    canonical: ir.Model
    wrong: set[str]
    stack: ExitStack

    def float_model(self) -> ir.Model:
        """The model as it came, or as the first passes leave it where ORT cannot run that."""
        try:
            open_session(self.model, optimize=False)
        except BitfoldError:
            return self.canonical
        return self.model

    def run(self, recipe: Recipe) -> ir.Model | None:
        """The converted model; None where nothing in it is quantized."""
        passes = tuple(
            # For times, the values of scales do not matter: the fastest way to ranges will do.
            replace(item, ranges="minmax") if isinstance(item, Quantize) else item
            for item in recipe
            if item.name not in self.wrong
        )
        own = self.stack.enter_context(Context(seed=self.context.seed))
        converted, report = Pipeline(Recipe(passes), own, verify="off").run(self.model)
        return converted if any(entry.sites for entry in report.passes) else None


def _alike(model: ir.Model, samples: Sequence[Feeds]) -> list[_Alike]:
    """The sites of the main graph but look-ups, those that take the same time together."""
    sites = [site for site in find_sites(model) if site.kind != "gather"]
    looked_up = {site.source for site in find_sites(model) if site.kind == "gather"}
    fragments = {site.node: cut_site(model, site) for site in sites}
    sites = [site for site in sites if fragments[site.node] is not None]
    shapes = input_shapes(model, [site.data for site in sites], samples)
    by_facts: dict[tuple[object, ...], _Alike] = {}
    for site in sites:
        fragment, own = fragments[site.node], shapes[site.data]
        assert fragment is not None, "others were left out"
        tied = site.source in looked_up
        key = (tuple(own), tied, *facts_of(site, fragment))
        new = _Alike(fragment, own, tied, site.conv is not None)
        by_facts.setdefault(key, new).names.append(site.name)
    return list(by_facts.values())


def _of_embedding(quantize: Quantize) -> Quantize:
    """The pass as it quantizes embeddings, and what is tied to them."""
    weight = quantize.scheme(True).weight
    return replace(quantize, weights=weight.format, group=weight.group)


def _fastest(times: SiteTimes, target: str) -> str:
    """The alternative that wins; the target's own unless another is clearly faster."""
    relative = relative_times(times.seconds, target)
    best = min(relative, key=lambda name: relative[name])
    return best if relative[best] < MARGIN else target


def _best(
    recipe: Recipe, kinds: Sequence[_Alike], timings: list[str], trials: _Trials, threads: int
) -> Choices:
    """Time whole models and take the fastest recipe."""
    floats = [name for each in kinds if each.kept == FLOAT for name in each.names]
    stock = [name for each in kinds if each.kept == STOCK for name in each.names]
    images = [name for each in kinds if each.conv and each.kept for name in each.names]
    candidates = {
        "each site's winner": changed_recipe(recipe, floats, stock),
        "each site's winner, convolutions in float": changed_recipe(
            recipe, dict.fromkeys([*floats, *images]), [n for n in stock if n not in images]
        ),
        "the recipe as it was": recipe,
    }
    models: dict[str, ir.Model] = {FLOAT: trials.float_model()}
    recipes: dict[str, Recipe] = {}
    for name, each in candidates.items():
        if each in recipes.values():
            continue
        trials.context.progress(f"trying {name}", 0.5)
        converted = trials.run(each)
        if converted is not None:
            recipes[name], models[name] = each, converted
    if list(recipes.values()) == [recipe] and recipe not in list(candidates.values())[:-1]:
        raise UnsupportedError(
            "float is the fastest at every site of this model on this machine: nothing is left to "
            "quantize",
            "leave keep-fastest out to quantize for size all the same",
        )
    times = time_models(models, trials.context.samples, threads)
    relative = relative_times(times, FLOAT)
    kept = min(recipes, key=lambda name: relative[name])
    shown = ", ".join(f"{name} {relative[name]:.2f}" for name in recipes)
    alone: Counter[str] = Counter()
    for alike in kinds:
        alone[alike.kept] += len(alike.names) if alike.kept else 0
    sites = ", ".join(f"{name} at {count}" for name, count in sorted((+alone).items()))
    notes = [
        f"sites by what is fastest alone: {sites}",
        f"whole model, time relative to float: {shown}; kept {kept}",
    ]
    return Choices(recipes[kept], notes, timings)


def changed_recipe(recipe: Recipe, floats: Iterable[str], stock: Iterable[str]) -> Recipe:
    """The recipe that leaves ``floats`` in float and gives ``stock`` the operators of ORT."""
    excluded, taken = tuple(map(as_glob, floats)), tuple(map(as_glob, stock))

    def change(item: Pass) -> Pass:
        if isinstance(item, Quantize):
            return replace(item, exclude=(*item.exclude, *excluded))
        if isinstance(item, Lower) and item.target == "native":
            return replace(item, stock=(*item.stock, *taken))
        return item

    return Recipe(tuple(change(item) for item in recipe))


def as_glob(name: str) -> str:
    """A glob that matches ``name`` and nothing else."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)
