"""Generation: autoregressive decoding, diffusion samplers, blocks, windows, traces."""
