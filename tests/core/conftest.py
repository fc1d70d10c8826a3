from __future__ import annotations

import pytest

from tests.core import kernel_cases


@pytest.fixture(params=kernel_cases.IMPLEMENTATIONS)
def kernels(request: pytest.FixtureRequest):
    """Every implementation, on NumPy arrays."""
    return kernel_cases.make(request.param)
