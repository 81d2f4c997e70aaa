"""What differs between versions of PyTorch."""

import torch

# Makes torch.compile run a function as plain Python. PyTorch 2.0 has it elsewhere.
if hasattr(torch, "compiler"):
    not_compiled = torch.compiler.disable
else:
    from torch._dynamo import disable as not_compiled  # noqa: F401
