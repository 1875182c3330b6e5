"""SGD and AdamW of torch without torch's compiler, which takes seconds to import.

torch's optimizers import the compiler at their first call, to exclude themselves from compilation. The trainer never
compiles an optimizer, so these classes use the same methods without that.
"""

from __future__ import annotations

from inspect import unwrap

import torch
from torch.optim import Optimizer


class _Uncompiled(Optimizer):
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class SGD(_Uncompiled, torch.optim.SGD):
    """torch.optim.SGD."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class AdamW(_Uncompiled, torch.optim.AdamW):
    """torch.optim.AdamW."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
