"""Which single weights of a model may be pruned: matrices of Linear and kernels of Conv2d.

Embedding tables are left alone, for a zero in a row that is looked up saves no product, and so is the classification
head, which is small and near the answer. Knows modules; not scores.
"""

from torch import nn

from compressors.base import Skip
from search_spaces.errors import ConfigError

LEFT_ALONE = {
    "embeddings": "belongs to the embeddings",
    "head": "belongs to the classification head",
    "classifier": "belongs to the classification head",
    "fc": "belongs to the classification head",
}
"""First part of a parameter's name -> why it is not pruned; ``fc`` is torchvision's name of the head."""


def prunable(model: nn.Module, where: str) -> tuple[dict[str, nn.Parameter], tuple[Skip, ...]]:
    """Return the weights that may be pruned by name, and every other parameter of two or more axes with the reason.

    Args:
        model: Any module.
        where: Who asks, for the error.

    Raises:
        ConfigError: There are none; names the modules there are.
    """
    weights: dict[str, nn.Parameter] = {}
    skipped = []
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            why = _why_not(name, module)
            if any(parameter is known for known in weights.values()):
                why = "is the weight of another module, too"
            if parameter.ndim > 1 and why:
                skipped.append(Skip(name, why))
            elif parameter.ndim > 1:
                weights[name] = parameter
    if not weights:
        raise ConfigError(
            f"{where}: 0 weights can be pruned; Linear and Conv2d outside of embeddings and head can. "
            f"The model has {kinds(model)}."
        )
    return weights, tuple(skipped)


def block_of(name: str) -> str:
    """Return the layer that a weight belongs to: its name up to the first number, or that of its own module."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1])


def module_of(model: nn.Module, parameter: str) -> nn.Module:
    """Return the module that owns a parameter."""
    return model.get_submodule(parameter.rpartition(".")[0])


def kinds(model: nn.Module) -> str:
    """Return the modules that have parameters of their own, in words, at most five of them."""
    found = [
        f"{path or 'model'} ({type(module).__name__})"
        for path, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (", ".join(found[:5]) or "no module with parameters") + more


def _why_not(name: str, module: nn.Module) -> str:
    """Return why a parameter is not pruned, '' if it may be."""
    if isinstance(module, nn.Embedding):
        return "is an embedding table"
    if name.split(".")[0] in LEFT_ALONE:
        return LEFT_ALONE[name.split(".")[0]]
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return f"{type(module).__name__} is not supported; Linear and Conv2d are"
    return ""
