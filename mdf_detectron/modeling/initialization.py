"""The authors' initialization: torch's and torchvision's defaults, instead of starts that let the record through."""

from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from torch import nn

from mdf_detectron.modeling.backbones import TimmBackbone
from mdf_detectron.modeling.fusions import FusedConvolution
from mdf_detectron.modeling.spatializer import SpatializerStage


def start_as_torch(model: nn.Module) -> None:
    """Initialize spatializer, fusion convolutions, the convolution after each trunk, and the heads of RoIs anew.

    Every layer gets torch's default, but the mask logits torchvision's N(0, 2 / (classes + background)). Proposal head
    and mask convolutions start the same in Detectron2 and torchvision; trunks and embeddings keep their weights.
    """
    for module in model.modules():
        layers: list[nn.Module] = []
        if isinstance(module, SpatializerStage):
            layers = [layer for layer in module if not isinstance(layer, nn.ReLU)]
        elif isinstance(module, FusedConvolution):
            layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        elif isinstance(module, (TimmBackbone, FastRCNNOutputLayers, FastRCNNConvFCHead, MaskRCNNConvUpsampleHead)):
            names = ("conv", "cls_score", "bbox_pred", "predictor")
            layers = [*(getattr(module, n) for n in names if hasattr(module, n)), *getattr(module, "fcs", ())]
        for layer in layers:
            layer.reset_parameters()
        if isinstance(module, MaskRCNNConvUpsampleHead):
            nn.init.normal_(module.predictor.weight, std=(2 / (module.predictor.out_channels + 1)) ** 0.5)
        if getattr(module, "fc1_record", None) is not None:  # with fc1 one layer of all these inputs
            bound = (module.fc1.in_features + module.fc1_record.in_features) ** -0.5
            for parameter in (module.fc1.weight, module.fc1.bias, module.fc1_record.weight):
                nn.init.uniform_(parameter, -bound, bound)
