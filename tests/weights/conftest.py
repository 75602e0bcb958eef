"""What several tests of weights use."""

import pytest

from alexnet_torch.model.presets import PRESETS
from tests.support.caffe_files import narrow


@pytest.fixture
def narrow_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrows the presets with the paper's shapes; torchvision's is tested at full size."""
    for name in ("paper", "source_2012", "caffe", "caffenet"):
        monkeypatch.setitem(PRESETS, name, narrow(PRESETS[name]))
