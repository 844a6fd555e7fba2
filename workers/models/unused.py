"""Parameters of an architecture that its feature does not depend on, and how they are left out.

A checkpoint's pooler under another pooling, a mask token of pretraining: an optimizer would decay them, a
checkpoint would store them, and a reduction of gradients would wait for them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def unused_parameters(network: nn.Module, output: Tensor) -> frozenset[str]:
    """Names of the parameters that can be trained and that `output`, made by `network`, was not computed from."""
    reached = set()
    seen = set()
    stack = [output.grad_fn]
    while stack:
        node: Any = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # where autograd adds up a leaf's gradient
            reached.add(id(node.variable))
        stack.extend(following for following, _ in node.next_functions)
    return frozenset(name for name, p in network.named_parameters() if p.requires_grad and id(p) not in reached)


class LeftOut(nn.Module):
    """Stands for a part without use: gives back its first input."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`hidden`."""
        return hidden


def leave_out(network: nn.Module, unused: frozenset[str]) -> None:
    """Takes the parameters of these names out of `network`: whole modules where they hold no others."""
    _leave_out(network, "", unused)


def _leave_out(module: nn.Module, prefix: str, unused: frozenset[str]) -> None:
    for name, child in list(module.named_children()):
        path = f"{prefix}{name}"
        names = {f"{path}.{inner}" for inner, _ in child.named_parameters()}
        if names and names <= unused:
            setattr(module, name, LeftOut())
        else:
            _leave_out(child, f"{path}.", unused)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and f"{prefix}{name}" in unused:
            setattr(module, name, None)
