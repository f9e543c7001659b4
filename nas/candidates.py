"""What a genome means: one space made of the family's genes and the compressors' knobs, and its reading.

Knows the family, the compressors and the recipe; not how the space is searched, and no weights.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressors import COMPRESSORS
from compressors.steps import TRAINED, Step, blocks, check_order
from nas.recipe import Gene, Recipe
from search_spaces.dimensions import Choice
from search_spaces.errors import ConfigError
from search_spaces.families import FAMILIES
from search_spaces.families.encoder_model import EncoderConfig
from search_spaces.families.text_encoder import Architecture
from search_spaces.registry import unknown_name
from search_spaces.space import Condition, Genes, Space, Value

MOST_VARIANTS = 32  # of one shape
METHODS = "methods"  # the gene that chooses between lists of compressors

Fixed = Mapping[str, Mapping[str, Gene]]
"""Compressors in order with the knobs that a recipe fixes."""


@dataclass(frozen=True)
class Known:
    """What is known of a candidate without training it."""

    macs: float
    parameters: float
    features: Mapping[str, float]


class Candidates:
    """The students one recipe can ask for, as genes."""

    def __init__(self, recipe: Recipe, teacher: EncoderConfig) -> None:
        """Join the family's space with the compressors' knobs that the recipe leaves open.

        Raises:
            ConfigError: An unknown compressor or knob, a value that is not a choice, an empty space, or lists of
                compressors between which nothing can be chosen.
        """
        self.family = FAMILIES.load(recipe.space.family)()
        self.mode = recipe.space.mode
        self.teacher = teacher
        self._lists = _named([recipe.compress, *recipe.or_compress])
        self._fixed = _united(self._lists)
        self._shapes: Space = self.family.space(teacher, self.mode)
        knobs = {name: _open_knobs(name, fixed) for name, fixed in self._fixed.items()}
        self._knobs = {name: space for name, space in knobs.items() if space.names}
        joined = self._join()
        self.space = joined.restricted(recipe.space.genes) if recipe.space.genes else joined
        chosen = self.space.dimensions.get(METHODS)
        for methods in self._lists if chosen is None else chosen.values:
            _check_order([self._strictest(str(methods), name) for name in self._lists[str(methods)]])

    @property
    def need_states(self) -> bool:
        """Return whether some student is trained on the teacher's hidden states."""
        losses = [fixed for name, fixed in self._fixed.items() if COMPRESSORS.load(name).stage == "loss"]
        return any(float(fixed.get("hidden", math.inf)) > 0 for fixed in losses)  # not fixed: the search chooses

    @property
    def shape_genes(self) -> tuple[str, ...]:
        """Return the genes of the shape; the others are knobs of compressors."""
        return self._shapes.names

    def warm_start(self) -> list[dict[str, Value]]:
        """Return the first candidates of a search: teacher shape, smallest, a ladder; compression at its strongest.

        Candidates that the recipe's narrowed genes exclude are left out.
        """
        knobs = {
            f"{name}.{gene}": self._strongest(name, gene) for name, space in self._knobs.items() for gene in space.names
        }
        found: dict[str, dict[str, Value]] = {}
        if len(self._lists) > 1:
            knobs[METHODS] = self.space.dimensions[METHODS].default
        for shape in self.family.warm_start(self.teacher, self.mode):
            try:
                genes = self.space.canonical({**shape, **knobs})
            except ConfigError:  # outside what the recipe allows
                continue
            found.setdefault(self.space.key(genes), genes)
        return list(found.values())

    def _join(self) -> Space:
        """Return the space of shapes and knobs; with several lists, a knob counts only where its compressor acts."""
        prefixed = {name: space.prefixed(name) for name, space in self._knobs.items()}
        if len(self._lists) == 1:
            return self._shapes.joined(*prefixed.values())
        joined = self._shapes.joined(Space({METHODS: Choice(tuple(self._lists))}), *prefixed.values())
        own: dict[str, Condition] = {}
        for name, space in prefixed.items():
            users = tuple(methods for methods, compressors in self._lists.items() if name in compressors)
            if len(users) < len(self._lists):
                own |= {gene: Condition(METHODS, users) for gene in space.names}
        return Space(joined.dimensions, own | dict(joined.conditions))

    def _acting(self, genes: Genes) -> Fixed:
        """Return the compressors of a candidate."""
        return self._lists[str(genes.get(METHODS, next(iter(self._lists))))]

    def _strongest(self, compressor: str, gene: str) -> Value:
        """Return the last choice of an on-off knob, else the default."""
        dimension = self._knobs[compressor].dimensions[gene]
        return True if dimension.contains(True) else dimension.default

    def architecture(self, genes: Genes) -> Architecture:
        """Return the shape that the genes describe, before any compressor."""
        shape = {name: value for name, value in genes.items() if name in self._shapes.dimensions}
        architecture: Architecture = self.family.architecture(self.teacher, shape, self.mode)
        return architecture

    def steps(self, genes: Genes) -> list[Step]:
        """Return the compressors in the recipe's order, with their knobs."""
        return [Step(name, self._bound(name, genes)) for name in self._acting(genes)]

    def _bound(self, compressor: str, genes: Genes) -> dict[str, Any]:
        """Return the knobs of one compressor: those the recipe fixes and those the genes choose."""
        prefix = f"{compressor}."
        chosen = {name.removeprefix(prefix): value for name, value in genes.items() if name.startswith(prefix)}
        return {**self._fixed[compressor], **chosen}

    def _strictest(self, methods: str, compressor: str) -> Step:
        """Return a compressor with an allowed choice of its knobs that limits what may stand beside it, if one does."""
        defaults = {name: dimension.default for name, dimension in self.space.dimensions.items()}
        if METHODS in defaults:
            defaults[METHODS] = methods
        own = [name for name in self.space.names if name.startswith(f"{compressor}.")]
        points = [defaults, *({**defaults, name: value} for name in own for value in _choices(self.space, name))]
        steps = [Step(compressor, self._bound(compressor, self.space.canonical(genes))) for genes in points]
        return next((step for step in steps if step.needs_plain or not step.leaves_plain), steps[0])

    def variant(self, genes: Genes) -> str:
        """Return the name of what is done to a shape; students of one shape and variant run equally fast."""
        bound = {name: self._bound(name, genes) for name in self._acting(genes) if _makes_variants(name)}
        names = [name + self._open_words(name, knobs) for name, knobs in bound.items() if knobs.get("enabled", True)]
        return "+".join(names) or "fp32"

    def _open_words(self, compressor: str, knobs: Mapping[str, Any]) -> str:
        """Return the knobs that the search chooses as part of a variant's name, e.g. ``(per_channel=False)``."""
        words = [f"{name}={knobs[name]}" for name in self._costly(compressor) if name in knobs and name != "enabled"]
        return f"({','.join(words)})" if words else ""

    def _costly(self, compressor: str) -> list[str]:
        """Return the open knobs of a compressor that may change what a student costs."""
        same = getattr(COMPRESSORS.load(compressor), "same_cost", ())
        return [name for name in self._knobs[compressor].names if name not in same] if compressor in self._knobs else []

    def variants(self, genes: Genes) -> list[dict[str, Value]]:
        """Return the candidate once for every variant that exists for its shape (at most a few dozen).

        Raises:
            ConfigError: There are more, and every one would have to be measured.
        """
        makers = {name: self._costly(name) for name in self._fixed if _makes_variants(name)}
        names = [f"{name}.{gene}" for name, open_knobs in makers.items() for gene in open_knobs]
        names += [METHODS] if METHODS in self.space.dimensions else []
        options = [_choices(self.space, name) for name in names]
        found: dict[str, dict[str, Value]] = {}
        for values in itertools.product(*options):
            genes_of = self.space.canonical({**self.space.complete(genes), **dict(zip(names, values, strict=True))})
            found.setdefault(self.variant(genes_of), genes_of)
            if len(found) > MOST_VARIANTS:
                several = ", ".join(name for name, knobs in makers.items() if knobs)
                raise ConfigError(
                    f"compress: {several} make more than {MOST_VARIANTS} variants of one shape, each to be measured; "
                    "fix some of their knobs in the recipe."
                )
        return list(found.values())

    def refusal(self, genes: Genes) -> str | None:
        """Return why a compressor cannot do its work on the shape that it will get, or None."""
        is_told = any(hasattr(COMPRESSORS.load(name), "shape") for name in self._fixed)
        return self._compressed(genes)[1] if is_told else None

    def known(self, genes: Genes, n_tokens: int, n_words: int | None = None) -> Known:
        """Return the figures that follow from the shape alone, for one row of ``n_tokens`` tokens.

        Args:
            genes: A candidate; what its compressors cannot do is left out.
            n_tokens: Length of the row.
            n_words: Rows of the word table after a method whose effect only the data tell; None = it drops none.
        """
        config, _ = self._compressed(genes, n_words)
        macs, parameters = self.family.macs(config, n_tokens), self.family.parameters(config)
        return Known(float(macs), float(parameters), self.family.features(config, n_tokens))

    def _compressed(self, genes: Genes, n_words: int | None = None) -> tuple[EncoderConfig, str | None]:
        """Return the config after all that change shapes, and why one of them cannot."""
        config, why = self.architecture(genes).config, None
        for name in self._acting(genes):
            if hasattr(COMPRESSORS.load(name), "shape"):
                try:
                    config = COMPRESSORS.load(name)(**self._bound(name, genes)).shape(config)
                except ConfigError as error:
                    why = why or str(error)
            elif n_words is not None and _is_seen_in_data(name):
                config = replace(config, vocab_size=n_words)
        return config, why

    def describe(self, genes: Genes) -> str:
        """Return the shape and variant in a few words, e.g. ``3 layers (0,2,5), hidden 384, ffn 768, int8``."""
        return f"{self.architecture(genes).describe()}, {self.variant(genes)}"


def _named(lists: Sequence[Fixed]) -> dict[str, Fixed]:
    """Return lists of compressors by their names, e.g. ``distillation+int8``.

    Raises:
        ConfigError: Two have the same compressors in the same order.
    """
    found: dict[str, Fixed] = {}
    for compressors in lists:
        name = "+".join(compressors) or "nothing"
        if name in found:
            raise ConfigError(
                f"or_compress: {name} stands in the recipe twice; lists differ in methods or their order."
            )
        found[name] = compressors
    return found


def _united(lists: Mapping[str, Fixed]) -> dict[str, Mapping[str, Gene]]:
    """Return every compressor of all lists with the knobs that the recipe fixes.

    Raises:
        ConfigError: Two lists fix other knobs of one compressor.
    """
    found: dict[str, Mapping[str, Gene]] = {}
    for methods, compressors in lists.items():
        for name, fixed in compressors.items():
            if found.setdefault(name, fixed) != fixed:
                raise ConfigError(
                    f"or_compress: {name} has {dict(fixed)} in {methods} and {dict(found[name])} before; give it the "
                    "same knobs in all lists, and leave out those that the search shall choose."
                )
    return found


def _check_order(steps: Sequence[Step]) -> None:
    """Refuse compressors in an impossible order; a student is trained once."""
    if steps:
        check_order(steps)
    runs = [block for block in blocks(steps) if block[0].stage in TRAINED]
    if len(runs) > 1:
        first, second = runs[0][-1].name, runs[1][0].name
        raise ConfigError(
            f"compress: {second!r} cannot follow {first!r}: a student of a search is trained once, and something "
            "stands between them. Put losses and training methods side by side."
        )


def _makes_variants(name: str) -> bool:
    """Return whether students of one shape run differently by a method, in a way that its knobs alone tell."""
    return COMPRESSORS.load(name).stage == "artefact" or _is_seen_in_data(name)


def _is_seen_in_data(name: str) -> bool:
    """Return whether a method changes shapes in a way that only the data tell."""
    cls = COMPRESSORS.load(name)
    return cls.stage == "model" and cls.phase == "structure" and not hasattr(cls, "shape")


def _open_knobs(name: str, fixed: Mapping[str, Gene]) -> Space:
    """Return the knobs of a compressor that the recipe does not fix, after checking those it does."""
    space: Space = COMPRESSORS.load(name).space()
    for knob, value in fixed.items():
        if knob not in space.dimensions:
            raise unknown_name(f"compress.{name}", knob, list(space.names))
        try:
            space.restricted({knob: (value,)})
        except ConfigError as error:
            raise ConfigError(str(error).replace("space.", f"compress.{name}.", 1)) from None
    return space.without(fixed)


def _choices(space: Space, name: str) -> tuple[Value, ...]:
    """Return the values of an artefact knob; a knob with a continuum is represented by its default."""
    dimension = space.dimensions[name]
    if math.isinf(dimension.size):
        return (dimension.default,)
    return tuple(dimension.values)
