"""What the server of tests/forked.py imports once: all that is slow to load and harmless to fork."""

import gc
import os

os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import deepspeed.runtime.zero.muon.original_muon  # which loads the compiler that `set_stance` would load
import pytest  # noqa: F401
import torch.onnx  # noqa: F401
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

import dualm.__main__
import dualm.sweep.results
import dualm.sweep.run
import dualm.training.loop  # noqa: F401

deepspeed.ops.__compatible_ops__  # noqa: B018 - what can be compiled on this machine, found out at first use
gc.freeze()  # no collection in a child goes through all this, and copies its pages
