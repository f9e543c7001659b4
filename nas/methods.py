"""Published ways of making a model smaller, as recipes of steps: what `nas compare` puts side by side.

All get the same data, device and passes over the data. What a method was published to deploy decides its file: int8
where its point is int8, else float32, so that no method borrows another's gain; ``joint`` is what happens when they are
combined. Knows names and steps as text; imports nothing heavy, for the command line lists it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TEACHER, JOINT, JOINT_ACCURATE = "teacher", "joint", "joint_accurate"
SEARCHED = (JOINT, JOINT_ACCURATE)  # students of one search
KEEP = 1e-4  # peak learning rate of methods that change a whole teacher little by little: the recipe's is for cut ones
DELIVERED = "all but the accuracy is that of the delivered student, the best of its seeds"
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
    Method(
        "ptq_static",
        "int8 after training; activations scaled as calibration rows say",
        "Wu et al. 2020, https://arxiv.org/abs/2004.09602",
        ("static_int8:calibration=percentile",),
    ),
    Method(
        "qat",
        "int8 while it learns, so that it gets used to it",
        "Jacob et al. 2018, https://arxiv.org/abs/1712.05877, sec. 3",
        ("distillation", "quantization_aware:activations=dynamic", "int8"),
        lr=KEEP,
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
        "2:4",
        "the smaller two of every four weights zero, then learning under that mask",
        "Mishra et al. 2021, https://arxiv.org/abs/2104.08378",
        ("distillation", "weight_pruning:sparsity=0.5,pattern=2:4,schedule=oneshot"),
        remarks=("made for GPUs with sparse cores; this runtime computes the zeros",),
    ),
    Method(
        "movement",
        "85 % of the weights zero: those that learning moves towards zero",
        "Sanh et al. 2020, https://arxiv.org/abs/2005.07683",
        ("distillation", "weight_pruning:sparsity=0.85,criterion=movement,scope=global"),
        lr=KEEP,
        remarks=(ZEROS,),
    ),
    Method(
        "distilbert",
        "every second layer, learning from labels, soft answers and directions of states",
        "Sanh et al. 2019, https://arxiv.org/abs/1910.01108",
        (
            "layer_pruning:keep={half},choice=stride",
            "distillation:alpha=0.286,temperature=2.0,live=true,cosine=0.143",  # 2 : 5 : 1, as released
        ),
    ),
    Method(
        "tinybert",
        "half of the layers, learning from embeddings, states, attention and answers",
        "Jiao et al. 2020, https://arxiv.org/abs/1909.10351",
        (
            "layer_pruning:keep={half},choice=stride",
            "distillation:alpha=0.0,temperature=1.0,live=true,tokens=1.0,attention=1.0,embedding=1.0",
        ),
        remarks=("both stages of the paper in one, for the budget is that of one",),
    ),
    Method(
        "heads_ffn",
        "half of the heads and neurons cut, then learning from answers and states",
        "Hou et al. 2020 (DynaBERT), https://arxiv.org/abs/2004.04037",
        ("unit_pruning:heads=0.5,ffn=0.5", "distillation:hidden=0.1"),
    ),
    Method(
        "albert",
        "every two layers share their weights, then learning from answers",
        "Lan et al. 2020, https://arxiv.org/abs/1909.11942",
        ("layer_sharing:group=2", "distillation"),
    ),
    Method(
        "low_rank",
        "matrices as products of two with half of the weights, then learning",
        "Hsu et al. 2022, https://arxiv.org/abs/2207.00112",
        ("low_rank:share=0.5", "distillation"),
    ),
    Method(
        "vocabulary",
        "without the tokens that no training row has; never trained",
        "Ushio et al. 2023, https://arxiv.org/abs/2305.15020",
        ("vocabulary",),
    ),
    Method(
        "binary",
        "weights of one bit and a scale a channel, learning so",
        "Rastegari et al. 2016, https://arxiv.org/abs/1603.05279",
        ("distillation", "quantization_aware:scheme=binary"),
    ),
    Method(
        "weights_4bit",
        "weights of four bits in blocks that share a scale, never trained",
        "Dettmers and Zettlemoyer 2023, https://arxiv.org/abs/2212.09720",
        ("weights_4bit",),
    ),
    Method(
        JOINT,
        "best student of a search: shape, distillation, pruning and bits chosen together",
        "this project",
        remarks=(DELIVERED,),
    ),
    Method(
        JOINT_ACCURATE,
        "the most accurate student that the same search delivered",
        "this project",
        remarks=(DELIVERED,),
    ),
)
