"""The kernels against this machine's limits and ORT's own kernels, in one run."""
