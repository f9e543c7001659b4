"""Methods that make a model smaller; each declares its knobs as dimensions and reports what it changed."""

from search_spaces.registry import Table

COMPRESSORS = Table(
    "compressor",
    {
        "distillation": "compressors.distillation:Distillation",
        "structured_pruning": "compressors.structured:StructuredPruning",
        "weight_pruning": "compressors.weights:WeightPruning",
        "vocabulary": "compressors.vocabulary:Vocabulary",
        "low_rank": "compressors.low_rank:LowRank",
        "layer_sharing": "compressors.layer_sharing:LayerSharing",
        "codebook": "compressors.codebook:Codebook",
        "int8": "compressors.int8:DynamicInt8",
    },
)
