"""Methods that make a model smaller; each declares its knobs as dimensions and reports what it changed."""

from search_spaces.registry import Table

COMPRESSORS = Table(
    "compressor",
    {
        "vocabulary": "compressors.vocabulary:Vocabulary",
        "layer_pruning": "compressors.layer_pruning:LayerPruning",
        "layer_sharing": "compressors.layer_sharing:LayerSharing",
        "unit_pruning": "compressors.unit_pruning:UnitPruning",
        "structured_pruning": "compressors.structured:StructuredPruning",
        "low_rank": "compressors.low_rank:LowRank",
        "one_shot_pruning": "compressors.one_shot:OneShotPruning",
        "weight_pruning": "compressors.weights:WeightPruning",
        "distillation": "compressors.distillation:Distillation",
        "tuning": "compressors.tuning:Tuning",
        "fake_quantization": "compressors.fake_quantization:FakeQuantization",
        "mixed_precision": "compressors.mixed_precision:MixedPrecision",
        "codebook": "compressors.codebook:Codebook",
        "quantization_aware": "compressors.quantization_aware:QuantizationAware",
        "int8": "compressors.int8:DynamicInt8",
        "static_int8": "compressors.static_int8:StaticInt8",
        "weights_4bit": "compressors.weights_4bit:FourBitWeights",
        "half": "compressors.half:Half",
        "torchao": "compressors.torchao:TorchAo",
    },
)
