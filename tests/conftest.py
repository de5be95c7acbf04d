"""What every test needs: torchvision beside any PyTorch, and no more threads than the machine has to spare."""

from __future__ import annotations

import torch

from skipgraph.sources.torchvision_operators import declare_missing

declare_missing()  # before torchvision, timm or segmentation_models_pytorch is imported anywhere
torch.set_num_threads(1)
