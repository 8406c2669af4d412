"""The curves of a distillation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class History:
    """The curves, one entry for each outer step.

    Attributes:
        losses: the outer loss, the sum of its terms.
        terms: the values of each term of the outer loss, by name.
        shared: the values of each shared tensor after the step (n numbers), by name.
        validation: (outer step, mean recall in percent) at each validation.
    """

    losses: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    shared: dict[str, list[list[float]]] = field(default_factory=dict)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def add(self, terms: Mapping[str, float], shared: Mapping[str, Tensor]) -> None:
        """Append the values of one outer step, which must have the same terms as all others."""
        if self.losses and terms.keys() != self.terms.keys():
            found, before = sorted(terms), sorted(self.terms)
            raise AssertionError(
                f"the outer loss has the terms {found} at outer step {len(self.losses)}, and {before} before: an objective "
                "names the same at every step, with 0 for one that it leaves out"
            )
        self.losses.append(sum(terms.values()))
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)
        for name, tensor in shared.items():
            self.shared.setdefault(name, []).append(tensor.flatten().tolist())

    def best_validation(self) -> tuple[int, float]:
        """(outer step, recall) of the best validation; of equal ones the first after the start (step 0). So the start is the
        best only if it validates better than all pairs that were learned from it, or if every recall is 0, as it is where
        students diverge."""
        return max(self.validation, key=lambda entry: (entry[1], entry[0] > 0 and entry[1] > 0))

    def as_tensors(self) -> dict[str, Tensor]:
        """`loss` (S,), `terms.NAME` (S,) and `shared.NAME` (S, n), float64, with one row for each of S outer steps."""
        named: dict[str, Any] = {"loss": self.losses}
        named |= {f"terms.{name}": values for name, values in self.terms.items()}
        named |= {f"shared.{name}": values for name, values in self.shared.items()}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in named.items()}

    @classmethod
    def from_tensors(cls, curves: Mapping[str, Tensor], validation: list[tuple[int, float]]) -> "History":
        """The inverse of `as_tensors`."""
        by_kind: dict[str, dict[str, Any]] = {"loss": {}, "terms": {}, "shared": {}}
        for path, values in curves.items():
            kind, _, name = path.partition(".")
            by_kind[kind][name] = values.tolist()
        losses = by_kind["loss"][""]
        return cls(losses, by_kind["terms"], by_kind["shared"], [(step, recall) for step, recall in validation])
