"""The devices students are measured on: a device is a backend, one of this table, with settings."""

from search_spaces.registry import Table

BACKENDS = Table(
    "device backend",
    {
        "onnxruntime": "nas.devices.onnxruntime_backend:OnnxRuntime",
        "torch": "nas.devices.torch_backend:TorchEager",
        "openvino": "nas.devices.openvino_backend:OpenVino",
        "executorch": "nas.devices.executorch_backend:ExecuTorch",
        "litert": "nas.devices.litert_backend:LiteRt",
        "command": "nas.devices.command_backend:Command",
        "lookup": "nas.devices.lookup_backend:Lookup",
        "roofline": "nas.devices.roofline_backend:Roofline",
    },
)
