"""Published ways of making a model smaller, as recipes of steps: what `nas compare` puts side by side.

All get the same data, device and passes over the data. What a method was published to deploy decides its file: int8
where its point is int8, else float32, so that no method borrows another's gain; ``joint`` is what happens when they are
combined. Knows names and steps as text; imports nothing heavy, for the command line lists it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TEACHER, JOINT = "teacher", "joint"
KEEP = 1e-4  # peak learning rate of methods that keep the teacher's shape: the recipe's, made for cut students, is high
ZEROS = "zeros are computed like other weights: smaller zipped, not faster"


@dataclass(frozen=True)
class Method:
    """One recipe.

    Attributes:
        name: Of its row.
        title: What it does, in at most 80 letters.
        source: Where it was published.
        steps: As `compressors.steps.Step.parse` reads them, ``{half}`` standing for half of the teacher's layers; none
            for the teacher, and for what a search makes.
        lr: Peak learning rate; None: that of the budget.
        remarks: What a reader of the table must know.
    """

    name: str
    title: str
    source: str
    steps: tuple[str, ...] = ()
    lr: float | None = None
    remarks: tuple[str, ...] = ()


def _by_name(*methods: Method) -> Mapping[str, Method]:
    """Return methods by their names."""
    return {method.name: method for method in methods}


METHODS = _by_name(
    Method(TEACHER, "the teacher itself, float32", "-"),
    Method(
        "ptq_dynamic",
        "int8 after training; activations scaled as they come",
        "Jacob et al. 2018, https://arxiv.org/abs/1712.05877",
        ("int8",),
    ),
    *(
        Method(
            f"magnitude_{percent}",
            f"{percent} % of the weights zero, the smallest, more and more while it learns",
            "Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878",
            ("distillation", f"weight_pruning:sparsity={percent / 100}"),
            lr=KEEP,
            remarks=(ZEROS,),
        )
        for percent in (50, 80, 90)
    ),
    Method(
        JOINT,
        "best student of a search: shape, distillation, pruning and bits chosen together",
        "this project",
        remarks=("all but the accuracy is that of the delivered student, the best of its seeds",),
    ),
)
