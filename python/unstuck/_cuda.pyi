"""unstuck's kernels on NVIDIA GPUs."""

# The same names, for tensors on CUDA devices.
from unstuck._C import BlendPlan as BlendPlan
from unstuck._C import gate_layout as gate_layout
from unstuck._C import gate_size as gate_size
from unstuck._C import init as init

__version__: str

def device_status() -> tuple[int, str, int]:
    """What the driver says: error code (0: none), its text, and the number of devices."""
