"""The facts of the units that prepare data. They are read here and in folders above."""

from typing import Any

from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts


class ShardFacts(Facts):
    name: str = Field(description="NAME in NAME.tar, NAME.jsonl, and the names of the embeddings and features of this shard")
    images: Count
    captions: Count
    bytes: Count = Field(description="size of the tar")


class GroupSplitFacts(Facts):
    shards: list[ShardFacts]


class BadFacts(Facts):
    count: Count = Field(description="number of samples of the source that could not be used and were left out")
    worst: str = Field(description="the shard or folder that contains the most of them")
    in_worst: Count = Field(description="how many of them it contains")


class ShardGroupFacts(Facts):
    splits: dict[str, GroupSplitFacts]
    samples: Count = Field(description="number of samples of the source, including bad ones")
    bad: BadFacts


class SplitFacts(Facts):
    images: Count
    captions: Count
    shards: Count
    bytes: Count = Field(description="total size of its tars")
    bad_images: Count = Field(description="images of the source that could not be read and were left out")


class SharedCaptions(Facts):
    images: Count = Field(description="number of images whose captions were compared")
    all_shared: Count = Field(description="those of which each caption belongs to another image of the split too")
    some_shared: Count = Field(description="those of which this holds for some captions, but not for all")

    def in_words(self, split: str) -> str | None:
        """A sentence about such images of a split; None if there are none."""
        if not self.all_shared and not self.some_shared:
            return None
        counts = {"only": self.all_shared, "some": self.some_shared}
        first, *others = [f"{count:,} have {which}" for which, count in counts.items() if count]
        shared = " and ".join([f"{first} captions that another one has too", *others])
        return (
            f"of {self.images:,} images of {split}, {shared}: recall and training count the other one as wrong, so that no "
            "model reaches 100 %: give each image captions of its own"
        )


class DatasetFacts(Facts):
    splits: dict[str, SplitFacts]
    duplicates: dict[str, Count] = Field(description='"SPLIT, SPLIT" -> number of images with identical bytes in both')
    shared_captions: dict[str, SharedCaptions] = Field({}, description="for val and test")
    image_size: Count = Field(description="width and height in pixels")
    source: str
    licence: str = Field(description="as in the run that prepared the data; a distilled set has that of its own run")


class CaptionEmbeddingsFacts(Facts):
    captions: Count
    dim: Count
    encoder: dict[str, Any] = Field(description="encoder, revision, pooling and preprocessing that produced the vectors")
    cut: Count = Field(0, description="captions with more tokens than `max_tokens`, whose ends are left out")
    positions: Count | None = Field(None, description="largest number of tokens that the encoder takes; null: it has no limit")

    def of_cut_captions(self) -> str | None:
        """A sentence about captions that were cut; None if there are none."""
        if not self.cut:
            return None
        how_many, encoder = f"{self.cut:,} of {self.captions:,}", self.encoder
        return cut_captions(how_many, encoder["model"], encoder["max_tokens"], self.positions)


def cut_captions(how_many: str, model: str, max_tokens: int, positions: int | None) -> str:
    """The sentence about captions of which the text encoder gets only the first tokens.

    Args:
        positions: largest number of tokens that the encoder takes; None: it has no limit.
    """
    if max_tokens == positions:
        mend = "shorten them, or name an encoder that takes more"
    else:
        mend = "raise it" + (f" ({model} takes up to {positions})" if positions else "")
    return (
        f"{how_many} captions have more than model.text.max_tokens ({max_tokens}) tokens and are cut, so that captions that "
        f"begin alike may have the same embedding: {mend}"
    )
