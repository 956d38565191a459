"""The only code that touches native modules: one typed wrapper a family of kernels."""
