"""torch.compile as an option of training, refused before the run where the machine cannot compile."""

import torch
from torch import Tensor, nn


def compile_in_place(module: nn.Module, device: torch.device) -> None:
    """Compile a module's forward and backward; its parameters keep their names.

    Raises:
        ValueError: Nothing can be compiled here, as without a C++ compiler on a CPU.
    """
    try:
        torch.compile(_one_operation)(torch.ones(8, device=device))
    except Exception as error:  # each back end and compiler has errors of its own
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"torch.compile does not work here ({reason}); leave out --model.compiled") from None
    module.compile()


def _one_operation(values: Tensor) -> Tensor:
    return values.sin() + 1
