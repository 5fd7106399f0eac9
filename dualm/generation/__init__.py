"""Reading a trained model aloud: autoregressive decoding and diffusion samplers."""
