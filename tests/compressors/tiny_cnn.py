"""A residual network of a few hundred weights that says its groups, and pictures for it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressors.base import Material
from search_spaces.families.groups import Group, Member


class Block(nn.Module):
    """Convolution, depthwise convolution, convolution, and what came in is added."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.second = nn.Conv2d(inner, width, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.depthwise(F.relu(self.first_norm(self.first(x)))))
        return F.relu(x + self.second_norm(self.second(inner)))


def norm_members(name: str) -> list[Member]:
    return [Member(f"{name}.{own}") for own in ("weight", "bias", "running_mean", "running_var")]


class TinyCnn(nn.Module):
    """Pictures ``(rows, 3, 8, 8)`` in, three logits out."""

    def __init__(self, width: int = 16, inner: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(2))
        self.head = nn.Linear(width * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(F.avg_pool2d(x, 2).flatten(1))

    def unit_groups(self) -> list[Group]:
        stream = [Member("stem.weight"), *norm_members("stem_norm"), Member("head.weight", 1, 16)]
        groups = []
        for index, block in enumerate(self.blocks):
            name = f"blocks.{index}"
            stream += [Member(f"{name}.first.weight", 1), Member(f"{name}.second.weight")]
            stream += norm_members(f"{name}.second_norm")
            inner = [Member(f"{name}.first.weight"), *norm_members(f"{name}.first_norm")]
            inner += [Member(f"{name}.depthwise.weight"), Member(f"{name}.depthwise.bias")]
            inner += [Member(f"{name}.second.weight", 1)]
            groups.append(Group(f"channels.{index}", block.first.out_channels, tuple(inner)))
        return [Group("channels.stream", self.stem.out_channels, tuple(stream)), *groups]


def cnn(**widths: int) -> TinyCnn:
    """Return a network whose every weight and statistic matters."""
    torch.manual_seed(0)
    model = TinyCnn(**widths).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model


def pictures(rows: int = 12) -> Material:
    """Return two batches."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    half = rows // 2
    return Material([((images[:half],), labels[:half]), ((images[half:],), labels[half:])])
