"""The curves of a distillation run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class History:
    """Attributes:
    losses: the outer loss at each outer step, the sum of its terms.
    terms: of the outer loss, by name: its value at each outer step.
    shared: the shared tensors, by name: their values (n numbers) after each outer step.
    validation: (outer step, mean recall in percent) at each validation.
    """

    losses: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    shared: dict[str, list[list[float]]] = field(default_factory=dict)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def add(self, terms: Mapping[str, float], shared: Mapping[str, Tensor]) -> None:
        """One outer step."""
        self.losses.append(sum(terms.values()))
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)
        for name, tensor in shared.items():
            self.shared.setdefault(name, []).append(tensor.flatten().tolist())

    def best_validation(self) -> tuple[int, float]:
        """(outer step, recall) of the first of the best validations."""
        return max(self.validation, key=lambda entry: entry[1])

    def as_tensors(self) -> dict[str, Tensor]:
        """`loss` (S,), `terms.NAME` (S,) and `shared.NAME` (S, n), float64, a row an outer step."""
        named: dict[str, Any] = {"loss": self.losses}
        named |= {f"terms.{name}": values for name, values in self.terms.items()}
        named |= {f"shared.{name}": values for name, values in self.shared.items()}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in named.items()}

    @classmethod
    def from_tensors(cls, curves: Mapping[str, Tensor], validation: list[tuple[int, float]]) -> "History":
        """What `as_tensors` gave."""
        by_kind: dict[str, dict[str, Any]] = {"loss": {}, "terms": {}, "shared": {}}
        for path, values in curves.items():
            kind, _, name = path.partition(".")
            by_kind[kind][name] = values.tolist()
        losses = by_kind["loss"][""]
        return cls(losses, by_kind["terms"], by_kind["shared"], [(step, recall) for step, recall in validation])
