"""What the tests of whole deploys share."""

import pytest

from lab import Lab
from tests.deploys.states import States


@pytest.fixture(scope="session")
def states(lab: Lab) -> States:
    """States to boot hosts in, each made when first asked for."""
    return States(lab)
