"""One thread: operations of a few microseconds only wait for each other on more."""

import torch

torch.set_num_threads(1)
