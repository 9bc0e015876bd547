"""The spatializer of torch's own modules, which the fast one must equal."""

import torch.nn.functional as F
from torch import Tensor, nn

from mdf_detectron.modeling.deconv_fast.spatializer import Spatializer


class PlainSpatializer(nn.Module):
    """Torch's own deconvolution, batch norm and ReLU out of place, contiguous memory; nothing folded.

    Args:
        spatializer: gives the widths and the weights (copied).
    """

    def __init__(self, spatializer: Spatializer):
        super().__init__()
        self.stages = nn.Sequential(*(_plain_stage(stage) for stage in spatializer.stages))
        self.load_state_dict(spatializer.state_dict())

    def forward(self, encoded: Tensor, size: tuple[int, int]) -> Tensor:
        """As ``Spatializer.forward``."""
        x = self.stages(encoded[:, :, None, None])
        return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear")


def _plain_stage(stage: nn.Sequential) -> nn.Sequential:
    deconvolution, convolution = stage[0], stage[3]
    channels = deconvolution.out_channels
    layers = [
        nn.ConvTranspose2d(deconvolution.in_channels, channels, kernel_size=2, stride=2),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, convolution.out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(convolution.out_channels),
    ]
    return nn.Sequential(*layers, *([] if stage.last else [nn.ReLU()]))
