"""Whole models under autocast, as SOLVER.AMP trains them on GPUs; here in bfloat16, which a CPU computes slowly.

No map may be of one column where a convolution of stride 2 reads it: with AVX-512 bfloat16, torch 2.14 (oneDNN 3.12)
then takes memory that nobody has written for part of the weight's gradient. Training does not meet this: SOLVER.AMP is
refused on a CPU.
"""

import pytest
import torch
import torch.nn.functional as F

FAMILIES = {
    "image-only": ("synthetic_cxr/mask_rcnn.yaml",),
    "compact": ("synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.BRANCH", "compact"),
    "deconv": ("synthetic_cxr/mdf_net.yaml",),
    "cascade": ("mimic_eye/cascade_mdf_net.yaml",),
    "RetinaNet": ("mimic_eye/retinanet_mdf_net.yaml", "INPUT.IMAGE_SIZE", 128),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_in_bfloat16_is_near_one_in_float32(family, fitted, event_storage):
    """Losses of classes that depend on no sampled box agree; gradients are finite, of float32, and point the same way.

    Proposals differ in their last digits and with them what is sampled, so that no more can be asked of the rest.
    """
    torch.manual_seed(0)
    name, *opts = FAMILIES[family]
    small = ["INPUT.IMAGE_SIZE", 64, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32]
    model, batch = fitted(name, *small, *opts, images=4)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    normalizer = getattr(model, "loss_normalizer", None)  # RetinaNet's, a running mean that is no buffer
    steps = []
    for low in (False, True):
        model.load_state_dict(weights)
        model.zero_grad()
        if normalizer is not None:
            model.loss_normalizer = normalizer
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            losses = model(batch)
        sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
        gradients = [p.grad for p in model.parameters()]
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)
        steps.append((losses, torch.cat([g.flatten() for g in gradients])))
    (exact, exact_gradient), (rounded, rounded_gradient) = steps
    for key in {"loss_rpn_cls", "loss_mask", "loss_findings_from_record"} & set(exact):
        torch.testing.assert_close(rounded[key], exact[key], rtol=0.02, atol=0.0)
    assert not torch.equal(exact_gradient, rounded_gradient)
    assert F.cosine_similarity(exact_gradient, rounded_gradient, dim=0) > 0.9
