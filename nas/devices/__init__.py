"""The devices students are measured on, each with the runtime that ships there."""

from search_spaces.registry import Table

DEVICES = Table("device", {"cpu": "nas.devices.onnxruntime_cpu:OnnxRuntimeCpu"})
