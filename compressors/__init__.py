"""Methods that make a model smaller; each declares its knobs as dimensions and reports what it changed."""

from search_spaces.registry import Table

COMPRESSORS = Table(
    "compressor",
    {
        "distillation": "compressors.distillation:Distillation",
        "structured_pruning": "compressors.structured:StructuredPruning",
        "weight_pruning": "compressors.weights:WeightPruning",
        "tuning": "compressors.tuning:Tuning",
        "fake_quantization": "compressors.fake_quantization:FakeQuantization",
        "quantization_aware": "compressors.quantization_aware:QuantizationAware",
        "mixed_precision": "compressors.mixed_precision:MixedPrecision",
        "vocabulary": "compressors.vocabulary:Vocabulary",
        "low_rank": "compressors.low_rank:LowRank",
        "layer_sharing": "compressors.layer_sharing:LayerSharing",
        "codebook": "compressors.codebook:Codebook",
        "int8": "compressors.int8:DynamicInt8",
        "static_int8": "compressors.static_int8:StaticInt8",
        "weights_4bit": "compressors.weights_4bit:FourBitWeights",
        "half": "compressors.half:Half",
    },
)
