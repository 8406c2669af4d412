"""Membership inference: its scores and figures, and who counts as a member."""

import numpy as np
import pytest
import torch

from tests.applications.small_inputs import random_split, small_students
from vldd_dist.applications.feature_space.inputs import DistilledPairs, Inputs
from vldd_dist.applications.feature_space.part_distillation import PartDistillation
from vldd_dist.applications.feature_space.students import PairNumbers
from vldd_dist.applications.membership_inference import MembershipInference, Pairs, confidence, success
from vldd_dist.applications.result import Result
from vldd_dist.applications.tables import application_table
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.feature_backbone import FeatureBackbone
from vldd_dist.reporting.tables.table import Statistic
from vldd_dist.testing.allocated import allocated_peak


def test_attack_success_and_true_positive_rate_by_hand() -> None:
    """With 200 non-members, a false-positive rate of 1 % allows two of them above the threshold."""
    others = np.arange(200.0)
    assert success(np.array([197.5, 300.0]), others) == (pytest.approx((198 + 200) / 400), 1.0)
    assert success(np.array([196.5, 300.0]), others)[1] == 0.5
    # Members and others have the same scores, so that the curve is a line.
    assert success(others, others) == (pytest.approx(0.5), 0.01)


def test_guessing_finds_more_than_one_percent_of_the_members_where_the_test_pairs_are_few() -> None:
    """(k + 1)/(n + 1) of them, as the table's note says."""
    generator = np.random.default_rng(0)
    found = [success(generator.random(300), generator.random(200))[1] for _ in range(300)]
    assert np.mean(found) == pytest.approx(3 / 201, abs=0.002)
    note = MembershipInference().notes()[1]
    assert "(k + 1)/(n + 1), which is above 1 % if there are few test pairs: 1.5 % for 200" in note
    assert "guessing gives 1 %" not in note


def test_no_area_is_marked_as_the_most_private() -> None:
    """One of 0.4 separates as well as one of 0.6; of true-positive rates the lower one is marked."""
    results = [
        Result(method="random", figures={"auc_loss": [0.5], "tpr_loss": [1.0]}),
        Result(method="distilled", figures={"auc_loss": [0.4], "tpr_loss": [2.0]}),
    ]
    ((random, distilled),) = (section.rows for section in application_table(MembershipInference(), "x", results).sections)
    marked = [[cell.best for cell in row.cells if isinstance(cell, Statistic)] for row in (random, distilled)]
    assert marked == [[False, True], [False, False]]


def test_pairs_are_encoded_and_scored_in_chunks() -> None:
    """The memory does not grow with the number of pairs times that of the gallery, 32 MiB here for each of three matrices, nor
    with the number of pairs times the activations of a wide head, 17 MiB here for each of four."""
    student, generator = small_students().build(), torch.Generator().manual_seed(0)
    pairs, gallery = (
        Pairs(torch.randn(count, 8, generator=generator), torch.randn(count, 6, generator=generator)) for count in (8192, 1024)
    )
    scores = confidence(student, pairs, gallery, 0.07)
    assert allocated_peak(lambda: confidence(student, pairs, gallery, 0.07)) < 40 * 2**20
    some = slice(1000, 1100)
    alone = confidence(student, Pairs(pairs.images[some], pairs.texts[some]), gallery, 0.07)
    torch.testing.assert_close(scores[some], alone)
    assert scores.shape == (8192,)
    wide, head = 512, HeadSettings(kind="projection", dropout=0)
    image = ImageTowerSettings(model="test_vit", weights="random", train="head", head=head)
    settings = ModelSettings(image=image, text=TextTowerSettings(head=head), joint_dim=wide)
    large, few = DualEncoder(FeatureBackbone(8), settings, 6), Pairs(gallery.images[:100], gallery.texts[:100])
    assert allocated_peak(lambda: confidence(large, pairs, few, 0.07)) < 20 * 2**20


@pytest.mark.parametrize(
    ("half_real", "members"),
    [
        (False, "members: the other training pairs"),
        (True, "members: all training pairs, with those that half of the set was initialised with"),
    ],
)
def test_the_members_of_a_set_whose_pairs_did_not_start_as_real_ones(half_real: bool, members: str) -> None:
    """Only one setting: no pair counts as its start, and if half of it was real, the members include that half."""
    split, students = random_split(), small_students()
    start = PairNumbers(torch.arange(5), torch.arange(5))
    pairs = PartDistillation(outer_steps=2, validate_every=2).run(students, split, split, start)
    assert pairs.rows["images"].shape == (5, 8)
    given = Inputs(
        train=split,
        validation=split,
        test=split,
        students=students,
        seeds=[0],
        seed=0,
        distilled=DistilledPairs(pairs, half_real=half_real),
        count=5,
    )
    found = MembershipInference(references=1).run(given)
    assert {result.setting for result in found if result.method == "distilled"} == {f"{members}, 5 pairs"}
