"""Recall compared with a slow reference implementation, and properties that it must have."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vldd_dist.recall_metrics import RECALL_AT, RECALL_METRICS, coarseness
from vldd_dist.retrieval import recall as recall_module
from vldd_dist.retrieval.recall import recall


def slow_recall(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> list[float]:
    """Recall by its definition, one query at a time; an equal score counts against the right answer."""
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    scores = images @ texts.T
    image_ranks = []
    for i, row in enumerate(scores):
        best = max(row[c] for c in range(len(texts)) if owner[c] == i)
        image_ranks.append(sum(1 for c in range(len(texts)) if owner[c] != i and row[c] >= best))
    text_ranks = []
    for c in range(len(texts)):
        text_ranks.append(sum(1 for i in range(len(images)) if i != owner[c] and scores[i, c] >= scores[owner[c], c]))
    return [100 * float(np.mean(np.array(ranks) < k)) for ranks in (image_ranks, text_ranks) for k in RECALL_AT]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), pictures=st.integers(1, 30), most=st.integers(1, 5), chunk=st.integers(1, 40))
def test_recall_is_the_definition(seed: int, pictures: int, most: int, chunk: int) -> None:
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(pictures), generator.integers(1, most + 1, pictures))
    owner = generator.permutation(owner)
    centres = generator.normal(size=(pictures, 4))
    # float32 from the start, so that both sides rank the same numbers.
    images = (centres + 0.5 * generator.normal(size=centres.shape)).astype(np.float32)
    texts = (centres[owner] + 0.5 * generator.normal(size=(len(owner), 4))).astype(np.float32)
    before, recall_module._CHUNK = recall_module._CHUNK, chunk
    try:
        found = recall(torch.from_numpy(images), torch.from_numpy(texts), torch.from_numpy(owner))
    finally:
        recall_module._CHUNK = before
    values = [*found.tr, *found.ir]
    np.testing.assert_allclose(values, slow_recall(images, texts, owner), atol=1e-9)
    assert found.mean == sum(values) / 6


def test_collapsed_features_score_nothing() -> None:
    ones = torch.ones(40, 3)
    assert recall(ones, ones, torch.arange(40)).mean == 0


def test_diverged_features_score_nothing() -> None:
    """Comparisons with NaN are false, so that counting larger scores would give the best rank."""
    broken, sound = torch.full((40, 3), torch.nan), torch.eye(40, 3) + 1
    assert recall(broken, broken, torch.arange(40)).mean == 0
    assert recall(broken, sound, torch.arange(40)).mean == 0


def test_among_ten_images_any_features_find_an_image_within_ten() -> None:
    """The size of a split's gallery alone then decides a recall, and the notes of plans and tables say so."""
    for images, (each, note) in {11: (0, ""), 10: (100, "in IR@10 ("), 5: (100, "in IR@5 and IR@10 (")}.items():
        ones, owner = torch.ones(5 * images, 3), torch.arange(images).repeat_interleave(5)
        assert recall(ones[:images], ones, owner).ir[-1] == each
        said = coarseness(images) or ""
        assert ("any student has 100 %" in said) == bool(note)
        assert note in said


def test_perfect_features_score_all() -> None:
    eye = torch.eye(40)
    assert recall(eye, eye.repeat_interleave(5, 0), torch.arange(40).repeat_interleave(5)).mean == 100


def test_recalls_of_a_hand_made_example() -> None:
    """Twenty captions, one per image. For caption i, i images have a higher similarity than its own if i < 12, else none."""
    scores = torch.eye(20).double() * 0.5
    for caption in range(12):
        others = [picture for picture in range(20) if picture != caption][:caption]
        scores[caption, others] = 0.7
    # Rows of an orthogonal basis for pictures: a caption's scores are its coordinates, up to its length.
    found = recall(torch.eye(20), scores, torch.arange(20))
    assert found.ir == (45, 65, 90)
    assert found.as_dict()["mean"] == found.mean
    assert found.mean == sum([*found.tr, *found.ir]) / 6
    assert tuple(found.as_dict()) == RECALL_METRICS == ("tr1", "tr5", "tr10", "ir1", "ir5", "ir10", "mean")
