"""dualm: train one transformer as autoregressive model and masked diffusion model at once."""

__version__ = "0.1.0"
