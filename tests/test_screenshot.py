"""`scripts/screenshot`: the README's picture is made of the demo as it is today."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pytest

_ROOT: Final = Path(__file__).parent.parent


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_it_shows_four_live_pictures(tmp_path: Path) -> None:
    path = tmp_path / "web.png"
    subprocess.run([_ROOT / "scripts" / "screenshot", "--output", path], check=True)
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == (690, 1280, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(int)
    yellow = (abs(hsv[..., 0] - 27) < 6) & (hsv[..., 1] > 120) & (hsv[..., 2] > 200)  # the clocks
    quarters = [yellow[:350, 230:750], yellow[:350, 750:], yellow[350:, 230:750], yellow[350:, 750:]]
    assert all(np.count_nonzero(quarter) > 500 for quarter in quarters)
