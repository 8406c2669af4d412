"""Models that cannot be loaded from the hub: an outage is another error than a wrong name, because a unit survives it."""

import errno
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError, Outage, UnusableHere, VlddError
from vldd_dist.models import libraries
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.models.text.architecture import find_architecture
from vldd_dist.models.text.encoder import FrozenTextEncoder

TEXT = TextTowerSettings(model="google-bert/bert-base-uncased")


def answer(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


def wrapped(cause: Exception) -> Exception:
    """As `huggingface_hub` and then transformers wrap an error."""
    try:
        try:
            raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub") from cause
        except LocalEntryNotFoundError as error:
            raise OSError("We couldn't connect to 'https://huggingface.co' to load the files") from error
    except OSError as error:
        return error


ERRORS: dict[str, tuple[Exception, type[VlddError]]] = {
    "no connection": (wrapped(httpx.ConnectError("Connection refused")), Outage),
    "no connection, not wrapped": (httpx.ConnectError("Connection refused"), Outage),
    "throttling": (wrapped(HfHubHTTPError("429 Too Many Requests", response=answer(429))), Outage),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), UnusableHere),
    "offline mode": (wrapped(OfflineModeIsEnabled("offline mode is enabled")), ConfigError),
    "no such model": (wrapped(RepositoryNotFoundError("404 Client Error", response=answer(404))), ConfigError),
}


@pytest.fixture(params=ERRORS, autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[VlddError]:
    """The kind of error that every loading from the hub ends with."""
    error, kind = ERRORS[request.param]

    def fails(*arguments: object, **more: object) -> None:
        raise error

    for name in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(transformers, name, SimpleNamespace(from_pretrained=fails))
    monkeypatch.setattr(transformers.utils.hub, "cached_file", fails)
    monkeypatch.setattr(libraries.timm(), "create_model", fails)
    return kind


def test_image_weights(kind: type[VlddError]) -> None:
    with pytest.raises(VlddError, match=r"model\.image\.weights: timm") as caught:
        create_backbone("test_vit", {}, pretrained=True, seed=0)
    assert type(caught.value) is kind


@pytest.mark.parametrize("configured", [False, True])
def test_a_text_encoder(kind: type[VlddError], configured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration, and its tokenizer or weights."""
    if configured:
        monkeypatch.setattr(transformers.utils.hub, "cached_file", lambda *arguments, **more: "/snapshots/abc/config.json")
        config = SimpleNamespace(from_pretrained=lambda *arguments, **more: transformers.BertConfig())
        monkeypatch.setattr(transformers, "AutoConfig", config)
    with pytest.raises(VlddError, match=r"model\.text\.model: google-bert/bert-base-uncased") as caught:
        FrozenTextEncoder(TEXT, torch.device("cpu"))
    assert type(caught.value) is kind


def test_a_plan_goes_on_without_the_hub() -> None:
    assert find_architecture(TEXT, ask_hub=True) is None
