"""Runs the project's CUDA kernels on the CPU: see ``cuda_emulator.hpp`` and ``build.py``."""
