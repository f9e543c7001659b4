"""Seeds of a search: for a few latency budgets, the candidate whose single changes do the least damage in sum.

Damage and latency are taken to add up, which they do less and less the more is changed: what comes out are good first
candidates, not answers. Nothing is trained. Of several devices the first one's latency counts.
"""

from collections.abc import Iterator, Sequence

from compressors.knapsack import Frontier, frontier
from nas.goals import ceilings_on
from nas.knowledge import Profile
from nas.objectives import LATENCY, Constraint, Objective, at
from nas.prepare import Prepared
from nas.sensitivity import Damages, changed, sensitivity, shape_changes, teacher_shape
from search_spaces.families.importance import Importance
from search_spaces.seeding import rng_for
from search_spaces.space import Genes, Value

ROWS = 32  # training rows that damage is estimated on, at most; ranks changes as 128 do (Spearman .98), in a quarter
SHARES = (0.15, 0.35, 0.6)  # budgets: of the way from the fastest student to the ceiling, or to the teacher's shape
STEP, TRIES = 1.02, 50  # how the saving asked for grows, and how often, while an answer is slower than it adds up to

Option = tuple[dict[str, Value], float]
"""Some genes changed together, and the sum of their damages."""


def knapsack_seeds(
    prepared: Prepared, known: Profile, objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> tuple[list[dict[str, Value]], Damages]:
    """Return candidates that are likely to be good at a few latencies, none of them in the warm start; and why.

    Both are empty when nobody asks for accuracy at a latency, or when the recipe excludes the teacher's shape.
    """
    base = teacher_shape(known.candidates)
    names = {objective.name for objective in objectives}
    is_timed = at(LATENCY, known.device) in names | {constraint.metric for constraint in constraints}
    is_wanted = "accuracy" in names and is_timed
    if base is None or not is_wanted or not shape_changes(known.candidates, base):
        return [], {}
    damages = _damages(prepared, base)
    return seeds(known, base, damages, constraints), damages


def seeds(
    known: Profile, base: dict[str, Value], damages: Damages, constraints: Sequence[Constraint]
) -> list[dict[str, Value]]:
    """Return the least damaged candidate for every budget, without those of the warm start.

    Args:
        known: Predicts latency.
        base: The candidate of the teacher's shape.
        damages: Of its single changes.
        constraints: The seeds are predicted to meet them.
    """
    space = known.candidates.space
    slots = [list(_options(known, gene, base, damages)) for gene in _roots(known, damages)]
    whole_ms = known.metrics(base)[LATENCY]
    costs = [[_latency_ms(known, base, change) - whole_ms for change, _ in slot] for slot in slots]
    trade_off = frontier([[damage for _, damage in slot] for slot in slots], costs)
    old = {space.key(genes) for genes in known.candidates.warm_start()}
    found: dict[str, dict[str, Value]] = {}
    for budget_ms in _budgets(known, whole_ms, constraints):
        for genes in _answers(known, base, slots, trade_off, budget_ms):
            if _latency_ms(known, base, genes) <= budget_ms and known.shortfall(genes, constraints) <= 0:
                found.setdefault(space.key(genes), genes)
                break
    return [genes for key, genes in found.items() if key not in old]


def _damages(prepared: Prepared, base: Genes) -> Damages:
    """Return the damage of every single change, estimated on a few training rows."""
    bundle = prepared.bundle
    rows = rng_for(bundle.recipe["search"]["seed"], "sensitivity").permutation(len(bundle.train))[:ROWS]
    importance = Importance.from_arrays(bundle.importance)
    teacher, said = prepared.teacher.model, bundle.outputs.logits[rows]
    return sensitivity(prepared.candidates, base, teacher, importance, bundle.train.subset(rows), said)


def _answers(
    known: Profile, base: Genes, slots: Sequence[Sequence[Option]], trade_off: Frontier, budget_ms: float
) -> Iterator[dict[str, Value]]:
    """Yield the answer for a budget, then for larger and larger savings, while there is one."""
    whole_ms = known.metrics(base)[LATENCY]
    for attempt in range(TRIES + 1):
        picks = trade_off.within((budget_ms - whole_ms) * (STEP**attempt if budget_ms < whole_ms else 1))
        if picks is None:
            return
        chosen = [slot[pick][0] for slot, pick in zip(slots, picks, strict=True)]
        yield changed(known.candidates, base, {gene: value for change in chosen for gene, value in change.items()})


def _budgets(known: Profile, whole_ms: float, constraints: Sequence[Constraint]) -> list[float]:
    """Return the lowest ceiling on latency in ms, if there is one, and a few latencies below it.

    Without a ceiling these are below the latency of the teacher's shape.
    """
    ceilings = [c.limit(known.teacher) for c in ceilings_on(known.device, constraints)]
    top_ms = min([whole_ms, *ceilings])
    below = [known.fastest_ms + share * (top_ms - known.fastest_ms) for share in SHARES]
    return [*below, min(ceilings)] if ceilings else below


def _roots(known: Profile, damages: Damages) -> list[str]:
    """Return the genes that depend on no other; those that do are decided together with their parent."""
    return [gene for gene in damages if _parent(known, gene) not in damages]


def _parent(known: Profile, gene: str) -> str | None:
    """Return the gene that another depends on, None where there is none."""
    condition = known.candidates.space.conditions.get(gene)
    return condition.parent if condition else None


def _options(known: Profile, gene: str, base: Genes, damages: Damages) -> Iterator[Option]:
    """Yield all choices for a gene and, where it keeps the teacher's value, for those that depend on it."""
    yield from (({gene: value}, damage) for value, damage in damages[gene].items() if value != base[gene])
    kept: list[Option] = [({}, 0.0)]
    for child in (name for name in damages if _parent(known, name) == gene):
        more = list(_options(known, child, base, damages))
        kept = [({**one, **other}, harm + extra) for one, harm in kept for other, extra in more]
    yield from kept


def _latency_ms(known: Profile, base: Genes, change: Genes) -> float:
    """Return the predicted latency of a candidate with some genes changed."""
    return known.metrics(changed(known.candidates, base, change))[LATENCY]
