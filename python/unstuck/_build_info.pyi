"""What this build of unstuck contains (the module itself is written by CMake)."""

have_cuda: bool
why_no_cuda: str
nvcc: str
cuda_architectures: str
cxx: str
openmp: bool
sanitized: bool
