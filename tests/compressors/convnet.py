import torch
from torch import Tensor, nn

from compressors.base import Material


def convnet() -> nn.Module:
    """Return a tiny network for 8 x 8 images of three colours."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.Flatten(),
        nn.Linear(24 * 16, 5),
    ).eval()


def images(rows: int = 12) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def image_material() -> Material:
    return Material([((images(),), torch.zeros(12, dtype=torch.long))])
