"""Run what lies between two cuts of a graph, and take Gram matrices there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.calibrate.append import Appender
from bitfold.passes.calibrate.gram import add_gram
from bitfold.passes.calibrate.shrinkage import MeanOfGrams
from bitfold.passes.calibrate.token_weights import TokenWeights
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.spool import Spool
from bitfold.runtime.execution import open_session
from bitfold.runtime.ops import DOMAIN, VERSION


@dataclass(frozen=True)
class Part:
    """What lies between two cuts.

    Attributes:
        model: the whole.
        wanted: sites, by what they read.
        born: values to keep.
        tokens: how much rows count, by a site's node.
        new: weights of rows that can be computed first here.
    """

    model: ir.Model
    wanted: dict[str, Site]
    born: Sequence[str]
    tokens: Mapping[ir.Node, TokenWeights]
    new: Sequence[TokenWeights]

    def run(
        self, feeds: Sequence[Feeds], alive: list[Feeds], weights: list[Feeds]
    ) -> dict[str, MeanOfGrams]:
        """Run it; keep what is ``born`` and the weights, and return the Gram matrices."""
        known = {*alive[0], *(str(value.name) for value in self.model.graph.inputs)}
        read = [str(site.data.name) for site in self.wanted.values()]
        read += [name for counted in self.new for name in counted.reads]
        part = _part(self.model, known, list(dict.fromkeys([*self.born, *read])))
        types = {str(value.name): value.dtype for value in part.graph.outputs}
        for value in part.graph.inputs:
            if value.dtype is None:  # not all graphs say the types of inner values
                value.dtype = ir.DataType.from_numpy(alive[0][str(value.name)].dtype)
        rows = self._add_weights(part, weights[0])
        names = {
            reading: add_gram(part.graph, site, f"bitfold.gram.{index}", rows.get(self._by(site)))
            for index, (reading, site) in enumerate(self.wanted.items())
        }
        made = {str(rows[each.key].name): each.key for each in self.new}
        given = {str(rows[key].name): key for key in weights[0] if key in rows}
        outputs = [*(name for name in self.born if name not in known), *names.values(), *made]
        session = open_session(part, outputs=outputs, optimize=False)
        grams, spool = {reading: MeanOfGrams() for reading in names}, Spool()
        for inputs, kept, counts in zip(feeds, alive, weights, strict=True):
            rowwise = {name: counts[key] for name, key in given.items()}
            found = session.run({**inputs, **kept, **rowwise})
            for reading, output in names.items():
                grams[reading].add(found.pop(output).astype(np.float64))
            for name, key in made.items():
                counts[key] = found.pop(name)
            for name, array in found.items():
                kept[name] = spool.hold(_of_type(array, types[name]), name)
        return grams

    def _by(self, site: Site) -> str:
        counted = self.tokens.get(site.node)
        return "" if counted is None else counted.key

    def _add_weights(self, part: ir.Model, before: Feeds) -> dict[str, ir.Value]:
        """Values of the part, by key, with weights of rows: the new, and those ``before``."""
        values = ir.convenience.create_value_mapping(part.graph, include_subgraphs=False)
        found: dict[str, ir.Value] = {}
        for index, counted in enumerate(self.new):
            build = Appender(part.graph, f"bitfold.tokens.{index}")
            found[counted.key] = counted.add(build, values)
            part.functions.update(build.functions)
            if build.functions:
                part.graph.opset_imports[DOMAIN] = VERSION
        for key in dict.fromkeys(map(self._by, self.wanted.values())):
            if key in before:
                name = f"bitfold.tokens.{len(found)}.given"
                type_ = ir.TensorType(ir.DataType.FLOAT)
                found[key] = ir.Value(name=name, type=type_, shape=ir.Shape([None]))
                part.graph.inputs.append(found[key])
        return found


def _of_type(array: np.ndarray, dtype: ir.DataType | None) -> np.ndarray:
    """An output as the graph has it: types that NumPy lacks come out of a run as float32."""
    return array if dtype is None else array.astype(dtype.numpy(), copy=False)


def _part(model: ir.Model, known: set[str], outputs: Sequence[str]) -> ir.Model:
    """A model of the values ``outputs``, given those that are ``known``."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    wanted = [values[name] for name in outputs if name not in known]
    # What is known and wanted passes through as an input.
    passing = [values[name] for name in outputs if name in known]
    inputs = [values[name] for name in sorted(known)]
    graph = ir.convenience.extract(model.graph, inputs, [*wanted, *passing])
    return ir.Model(
        graph, ir_version=model.ir_version or 10, functions=list(model.functions.values())
    )
