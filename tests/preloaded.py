"""What the server of tests/forked.py imports once: all that is slow to load and harmless to fork."""

import os

if os.environ.get("DUALM_TEST_GPU") != "1":
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import deepspeed  # noqa: F401
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

import dualm.training.loop  # noqa: F401
