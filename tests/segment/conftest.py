"""Fixtures shared by the tests of the networks."""

import pytest

from segment.network.compact import CompactNetwork, new_network


@pytest.fixture(scope="module")
def net() -> CompactNetwork:
    """Return an untrained compact network in evaluation mode."""
    network = new_network(3)
    network.eval()
    return network
