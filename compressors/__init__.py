"""Methods that make a model smaller; each declares its knobs as dimensions and reports what it changed."""

from search_spaces.registry import Table

COMPRESSORS = Table(
    "compressor",
    {
        "distillation": "compressors.distillation:Distillation",
        "structured_pruning": "compressors.structured:StructuredPruning",
        "weight_pruning": "compressors.weights:WeightPruning",
        "one_shot_pruning": "compressors.one_shot:OneShotPruning",
        "unit_pruning": "compressors.unit_pruning:UnitPruning",
        "layer_pruning": "compressors.layer_pruning:LayerPruning",
        "int8": "compressors.int8:DynamicInt8",
    },
)
