"""Ranks that do not find each other."""

import socket
from datetime import timedelta

import pytest
import torch

from vldd_dist.sharding import rendezvous
from vldd_dist.sharding.rendezvous import JoinFailed, Rendezvous, join, open_rendezvous


@pytest.fixture(autouse=True)
def _short_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "MEETING", timedelta(seconds=1))


def failed(meeting: Rendezvous, rank: int) -> JoinFailed:
    with pytest.raises(JoinFailed) as raised:
        join(meeting, rank, 3, device=torch.device("cpu"), timeout=timedelta(seconds=1))
    return raised.value


def test_the_ranks_that_never_connect_are_named() -> None:
    meeting, _server = open_rendezvous("127.0.0.1", 3)
    error = failed(meeting, 0)
    assert error.missing == (1, 2)
    assert str(error).startswith("rank 1, 2 of 3 did not connect to rank 0 within ")


def test_a_rank_that_cannot_connect_names_itself() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = failed(Rendezvous("127.0.0.1", unused.getsockname()[1]), 2)
    assert error.missing == (2,)
    assert str(error).startswith("rank 2 of 3 could not connect to rank 0 within ")
