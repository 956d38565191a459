import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Train small models on one thread: a second one only waits on a busy machine."""
    torch.set_num_threads(1)
