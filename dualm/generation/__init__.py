"""Generation: autoregressive decoding, diffusion samplers, blocks, traces."""
