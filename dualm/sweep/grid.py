"""The grid: a sweep's YAML file becomes named points, each with its complete recipe.

    base: ../recipes/small.yaml          the recipe of every point (relative to the folder of the sweep file)
    recipe: {train: {steps: 500}}        keys that replace those of the base
    dir: runs/small                      the folder of the sweep
    axes: {data.repetitions: [1, 8], objective.alpha: [0, 63/64, 1]}      every combination of these values
    points: [{data.repetitions: 32, objective.alpha: [1/2, 1]}]           further points; a list gives one point per value;
                                                                          or the path of a YAML file with such a list
    isoflop: {budgets: [1e12], sizes: sizes.yaml}       all of these at equal compute: see dualm/sweep/isoflop.py
    seeds: [0]                           every point is trained once with each seed
    parallel: 2                          number of runs at a time
    slurm: {nodes: 2, gpus_per_node: 8}  for --executor slurm: see dualm/sweep/sections.py
    tasks: {names: [blimp], data: blimp} the benchmark tasks that score every finished run, or {suite: dual}: see the same file

An axis is a recipe key with its dotted name. `data.repetitions` is R, how often each unique token is seen;
`objective.alpha` is alpha, the fraction of training sequences with the AR objective, and may be given as a fraction.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from dualm import config
from dualm.config import Recipe
from dualm.errors import UserError
from dualm.model.size import parameter_count
from dualm.sweep.isoflop import TOKENS, IsoFlop, tokens_of
from dualm.sweep.labels import as_text, count_label, flops_label
from dualm.sweep.sections import Slurm, Tasks, read

REPETITIONS, ALPHA, SEED, DIR = "data.repetitions", "objective.alpha", "run.seed", "run.dir"
FLOPS, PARAMETERS = "flops", "parameters"  # in names of points at equal compute, instead of the keys a budget sets
SHORT = {FLOPS: "C", PARAMETERS: "N", REPETITIONS: "R", ALPHA: "a", SEED: "s"}  # in names; other axes are `key=value`
SECTIONS = ("base", "recipe", "dir", "axes", "points", "isoflop", "seeds", "parallel", "slurm", "tasks")
Values = dict[str, Any]  # axis: value


@dataclass(frozen=True)
class Point:
    """The name of one run, and its recipe with `run.dir` inside the sweep's folder."""

    name: str
    values: Values  # of every axis, then run.seed
    recipe: Recipe


@dataclass(frozen=True)
class Sweep:
    dir: Path
    axes: tuple[str, ...]
    points: tuple[Point, ...]  # in the order in which to train them
    parallel: int | None = None
    slurm: Slurm | None = None
    tasks: Tasks | None = None


def load(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file. `overrides` are recipe keys for every point; `run.dir=` moves the sweep's folder, and `tasks.` begins
    keys of the section of that name.

    Raises:
        UserError: the file is unreadable, an axis is not a recipe key, two points have one name, or `train` would refuse
            a recipe.
    """
    content = _read(path)
    of_tasks = [item for item in overrides if item.startswith("tasks.")]
    overrides = [item for item in overrides if item not in of_tasks]
    isoflop = read(IsoFlop, path, "isoflop", content["isoflop"])
    assignments = _assignments(path, content)
    sizes = _mappings(path, "isoflop.sizes", isoflop.sizes) if isoflop else []
    varied, fixed = _keys(assignments), _keys([*([isoflop.keys] if isoflop else []), *sizes])
    _check_axes(path, [*fixed, *varied], overrides)
    if both := sorted(set(varied) & set(fixed)):
        raise UserError(f"{path}: axes: got {both[0]}, expected it only under isoflop, which sets it")
    folder = next(
        (item.partition("=")[2] for item in reversed(overrides) if item.startswith(f"{DIR}=")), content["dir"]
    )
    base = path.parent / content["base"] if content["base"] else None
    maker = _Maker(path, base, [*_as_overrides(content["recipe"]), *overrides], Path(folder), varied, fixed)
    points = []
    for seed in content["seeds"]:
        seeded = [{**values, SEED: seed} for values in assignments]
        made = maker.at_equal_compute(isoflop, sizes, seeded) if isoflop else [maker.point(each) for each in seeded]
        points += [made[index] for index in informative_order([point.values for point in made], maker.axes)]
    if not points:
        raise UserError(f"{path}: points: got none, expected at least one point from axes, points and seeds")
    if twice := [name for name, count in Counter(point.name for point in points).items() if count > 1]:
        raise UserError(f"{path}: points: {twice[0]} appears more than once, expected every point once")
    tasks = _with_overrides(content["tasks"], of_tasks)
    around = (read(Slurm, path, "slurm", content["slurm"]), read(Tasks, path, "tasks", tasks))
    return Sweep(Path(folder), maker.axes, tuple(points), content["parallel"], *around)


def expand(axes: Mapping[str, Any]) -> list[Values]:
    """Every combination of the axes' values. A value that is not a list is the only value of its axis."""
    lists = [values if isinstance(values, list) else [values] for values in axes.values()]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*lists)]


def informative_order(points: Sequence[Values], axes: Sequence[str]) -> list[int]:
    """Indices of the points, each as far as possible from all points before it, so that any first part covers the grid.

    Distances are between ranks along each axis, because values may have any scale or none.
    """
    ranks = np.array([_ranks([point[axis] for point in points]) for axis in axes]).reshape(len(axes), len(points)).T
    order, distance = [0][: len(points)], np.full(len(points), np.inf)
    while len(order) < len(points):
        distance = np.minimum(distance, ((ranks - ranks[order[-1]]) ** 2).sum(axis=1))
        distance[order] = -1
        order.append(int(distance.argmax()))
    return order


def _ranks(values: Sequence[Any]) -> list[float]:
    """The rank of each value among the distinct ones, from 0 to 1. Numbers are sorted; other values keep their order."""
    distinct = list({json.dumps(value): value for value in values}.values())
    if all(isinstance(value, int | float) for value in distinct):
        distinct.sort()
    return [distinct.index(value) / max(1, len(distinct) - 1) for value in values]


def name_of(values: Values) -> str:
    """`R32-a63_64-s0`: readable, the same for the same values, valid as a file name."""
    parts = (f"{SHORT.get(key, f'{key}=')}{_text(key, value)}" for key, value in values.items())
    return re.sub(r"[^\w.+=-]", "_", "-".join(parts))


def _text(key: str, value: Any) -> str:
    if key == ALPHA and isinstance(value, int | float):
        near = Fraction(value).limit_denominator(4096)
        return str(near) if float(near) == value else str(value)
    return as_text(value)


# ---------------------------------------------------------------- reading the file


def _read(path: Path) -> dict[str, Any]:
    found = _yaml(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: a sweep is a mapping, got {type(found).__name__}")
    for name in found:
        if name not in SECTIONS:
            raise UserError(f"{path}: unknown section '{name}', expected one of {', '.join(SECTIONS)}")
    content: dict[str, Any] = {name: found.get(name) for name in SECTIONS}
    for name, kind, default in (
        ("recipe", dict, {}),
        ("axes", dict, {}),
        ("points", list | str, []),
        ("seeds", list, [0]),
    ):
        if content[name] is None:
            content[name] = default
        if not isinstance(content[name], kind):
            wanted = "a mapping" if kind is dict else "a list"
            raise UserError(f"{path}: {name}: got {content[name]!r}, expected {wanted}")
    for section, keys in content["recipe"].items():
        if not isinstance(keys, dict):
            raise UserError(f"{path}: recipe: got '{section}: {keys}', expected a mapping of sections")
    if not isinstance(content["base"], str | None):
        raise UserError(f"{path}: base: got {content['base']!r}, expected a recipe, such as ../recipes/small.yaml")
    if not isinstance(content["dir"], str):
        raise UserError(f"{path}: dir: got {content['dir']!r}, expected the sweep's folder, such as runs/{path.stem}")
    if content["parallel"] is not None and not (isinstance(content["parallel"], int) and content["parallel"] > 0):
        raise UserError(f"{path}: parallel: got {content['parallel']!r}, expected a number of runs above 0")
    return content


def _yaml(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # the YAML library raises many kinds
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def _assignments(path: Path, content: dict[str, Any]) -> list[Values]:
    """The values that each point sets, by axis; those of `axes` first. Without axes and points: one point, the recipe."""
    crossed = [_values(path, values) for values in expand(content["axes"])]
    points = _mappings(path, "points", content["points"])
    return [*crossed, *points] if content["axes"] or not points else points


def _mappings(path: Path, section: str, found: Any) -> list[Values]:
    """The list of mappings `found`, or the list in the YAML file that it names, with every list in a mapping expanded."""
    source = path.parent / found if isinstance(found, str) else path
    listed = _yaml(source) if isinstance(found, str) else found
    if not isinstance(listed, list) or not all(isinstance(each, dict) and each for each in listed):
        raise UserError(
            f"{source}: {section}: expected a list of mappings, such as - {{{REPETITIONS}: 4, {ALPHA}: 1/2}}"
        )
    return [_values(path, values) for mapping in listed for values in expand(mapping)]


def _values(path: Path, values: Values) -> Values:
    return {key: _value(path, key, value) for key, value in values.items()}


def _keys(assignments: Sequence[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(assignments)))


def _value(path: Path, key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_value(path, key, item) for item in value]
    if key == ALPHA and isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise UserError(f"{path}: {ALPHA}: got {value!r}, expected a number or a fraction such as 63/64") from None
    return value


def _check_axes(path: Path, axes: Sequence[str], overrides: Sequence[str]) -> None:
    known = list(config.flatten(Recipe()))
    for axis in axes:
        if axis not in known:
            near = difflib.get_close_matches(str(axis), known, 1)
            hint = f", did you mean '{near[0]}'?" if near else ", such as model.layers"
            raise UserError(f"{path}: axes: '{axis}' is not a recipe key{hint}")
        if axis in (SEED, DIR):
            raise UserError(f"{path}: axes: got {axis}, expected under '{'seeds' if axis == SEED else 'dir'}:' instead")
        if any(item.startswith(f"{axis}=") for item in overrides):
            raise UserError(f"{axis}: got a value on the command line, expected none: it is an axis of {path}")


@dataclass(frozen=True)
class _Maker:
    """What all points of a sweep file share; makes a point from its own values."""

    path: Path
    base: Path | None
    layers: list[str]
    folder: Path
    varied: tuple[str, ...]  # axes whose values appear in names
    fixed: tuple[str, ...]  # axes that follow from a budget and a size, which appear in names instead

    @property
    def axes(self) -> tuple[str, ...]:
        return *self.fixed, *self.varied

    def point(self, values: Values) -> Point:
        """The point with `values`. An axis without a value takes that of the recipe."""
        return self._of(self._recipe(values), labels={})

    def at_equal_compute(self, isoflop: IsoFlop, sizes: Sequence[Values], assignments: Sequence[Values]) -> list[Point]:
        """A point for every assignment, budget and size that `isoflop` keeps."""
        made = []
        for values, budget, size in itertools.product(assignments, isoflop.budgets, sizes):
            # The recipe decides what a token costs. Until it is read, the budget is a placeholder for the tokens.
            recipe = self._recipe({TOKENS: int(budget), **isoflop.batch_at(budget), **size, **values})
            if not isoflop.keeps(recipe.model, budget):
                continue
            try:
                recipe.data.tokens = tokens_of(recipe, budget)
            except UserError as error:
                raise UserError(f"{self.path}: point {name_of({**size, **values})}: {error}") from None
            parameters = count_label(parameter_count(recipe.model, embedding=False))
            made.append(self._of(recipe, {FLOPS: flops_label(budget), PARAMETERS: parameters}))
        return made

    def _recipe(self, values: Values) -> Recipe:
        try:
            return config.load(
                self.base, [*self.layers, *(f"{key}={json.dumps(value)}" for key, value in values.items())]
            )
        except UserError as error:
            raise UserError(f"{self.path}: point {name_of(values)}: {error}") from None

    def _of(self, recipe: Recipe, labels: Values) -> Point:
        flat = config.flatten(recipe)
        name = name_of({**labels, **{key: flat[key] for key in (*self.varied, SEED)}})
        recipe.run.dir = str(self.folder / "runs" / name)
        return Point(name, {axis: flat[axis] for axis in (*self.axes, SEED)}, recipe)


def _with_overrides(section: Any, overrides: Sequence[str]) -> Any:
    """A section with the keys that the command line gives as `section.key=value`."""
    if not overrides or not isinstance(section, dict | None):
        return section
    ((_, given),) = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))).items()  # type: ignore[union-attr]
    return {**(section or {}), **given}


def _as_overrides(recipe: Mapping[str, Any]) -> list[str]:
    return [f"{section}.{key}={json.dumps(value)}" for section, keys in recipe.items() for key, value in keys.items()]
