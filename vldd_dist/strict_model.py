"""The base of small immutable records that are stored as JSON, and the words for what is wrong with one."""

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def first_error(error: ValidationError, *prefix: str) -> str:
    """The first error of a validation as `key.of.it: message`.

    Args:
        prefix: the keys that lead to what was validated.
    """
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, (*prefix, *first['loc'])))}: {first['msg']}"
