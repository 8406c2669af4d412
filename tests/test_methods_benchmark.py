"""`benchmarks.methods`: budgets in bytes of what is measured, figures of other code, and names of methods."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.methods import __main__ as command
from benchmarks.methods.budget import counted_bytes, pair_bytes, pairs_of_budget
from benchmarks.methods.feature_space import FeatureSpace
from benchmarks.methods.method_runs import KeptFigures, MethodRun, digest_of_code
from benchmarks.methods.recalls import difference, recalls_of, recalls_of_images
from benchmarks.methods.rows import Row, row_of
from benchmarks.methods.table import show
from tests.studies import load_study
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.retrieval.encode import joint_features, measure
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of

# Features of MobileNetV2 and MiniLM, as in the preset.
PAIR_BYTES = 4 * (1280 + 384)
# Recalls of two test images.
IMAGES = [30.0, 32.0]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpace:
    tree = experiment("model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16")
    store = Store(str(tmp_path_factory.mktemp("store")))
    run(store, [unit for kind in DATA_KINDS for unit in units_of(tree, kind)])
    return FeatureSpace(tree, store, units_of(tree, "distillation")[0])


def test_a_pair_has_the_size_of_its_features(space: FeatureSpace) -> None:
    images, texts = torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, 384)
    assert 3 * pair_bytes(space) == counted_bytes(space.of_pixels({"images": images, "texts": texts}).rows)


@pytest.mark.parametrize("budget", [100, 200, 500])
@pytest.mark.parametrize("name", ["vldd", "lors", "ptm-st"])
def test_a_learned_similarity_is_paid_for_in_pairs_of_features(name: str, budget: int) -> None:
    loss = load_study(command.PRESET).experiments[name].model.loss

    def set_of(count: int) -> int:
        return count * PAIR_BYTES + counted_bytes(
            {key: row.start for key, row in loss.learned_rows(range(count), count).items()}
        )

    count = pairs_of_budget(loss, budget, PAIR_BYTES)
    assert set_of(count) <= budget * PAIR_BYTES < set_of(count + 1)
    assert (count == budget) == (name == "vldd")


def test_rows_of_one_budget_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever their numbers of pairs are."""
    rows = [("full", "full", 0, 0, 31.0), ("ptm-st", "published", 94, 100, 29.0), ("vldd", "published", 100, 100, 27.0)]
    others = [("bilevel", "ours", 100, 100, 29.5), ("ptm-st", "published", 180, 200, 30.0)]
    show(
        [Row(name, kind, pairs, budget, [mean], [mean, mean - pairs % 4]) for name, kind, pairs, budget, mean in rows + others]
    )
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["best_published_mean_100"], summary["ours_mean_100"]) == (29.0, 29.5)
    # The images' differences are 0.5 and 2.5.
    assert (summary["ours_minus_published_100"], summary["ours_minus_published_100_error"]) == (1.5, 1.0)


def test_figures_of_other_code_are_measured_again(space: FeatureSpace, tmp_path: Path) -> None:
    measured: list[str] = []

    def measuring(figure: str) -> Callable[[], str]:
        def measure() -> str:
            measured.append(figure)
            return figure

        return measure

    file = tmp_path / "figures.jsonl"
    file.write_text(json.dumps({"key": "stored without a digest", "name": "x", "figures": "old"}) + "\n")
    found = [KeptFigures(file, code).once("x", space, measuring(code)) for code in ("one", "one", "other", "one")]
    assert found == ["one", "one", "other", "one"]
    assert measured == ["one", "other"]


@pytest.mark.parametrize(
    "name", ["vldd_dist/models/losses.py", "vldd_dist/seeding.py", "vldd_dist/sharding/engines/replicas.py"]
)
def test_the_digest_of_the_code_is_that_of_its_statements(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    digests = []
    for code in ("x = 1\n", "x   =  1  # the same\n", "x = 2\n"):
        file.write_text(code)
        digests.append(digest_of_code(tmp_path))
    assert digests[0] == digests[1] != digests[2]
    assert digest_of_code() == digest_of_code()


def test_an_unknown_method_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods", "--photographs", "/none", "--methods", "vldd", "typo"])
    monkeypatch.setattr(command, "measure_all", None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "--methods: typo is not a variant of" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("best", "tried"), [(1, [0.5, 1, 2]), (8, [0.5, 1, 2, 4, 8, 16]), (0.125, [0.5, 1, 2, 0.25, 0.125, 0.0625])]
)
def test_tuning_goes_on_while_the_best_multiple_is_at_an_end_of_the_range(best: float, tried: list[float]) -> None:
    runs: list[float] = []

    def run(rate: float) -> MethodRun:
        runs.append(rate)
        return MethodRun("vldd", 100, 100, 150, rate, 0, -abs(rate - best), [0.0], IMAGES, 1, 1.0)

    assert command.best_rate(run, [0.5, 1, 2]) == best
    assert runs == tried
    assert command.best_rate(run, [1]) == 1


def test_the_share_is_that_of_full_data_with_the_same_heads(capsys: pytest.CaptureFixture[str]) -> None:
    full = [Row("full", "full", 0, 0, [30.0], IMAGES), Row("full, heads of repblend", "full", 0, 0, [25.0], IMAGES)]
    rows = [Row("vldd", "published", 100, 100, [15.0], IMAGES, full=30.0)]
    show([*full, *rows, Row("repblend", "published", 98, 100, [20.0], IMAGES, full=25.0)])
    assert shown_column(7, capsys) == {"full": "", "full, heads of repblend": "", "vldd": "50", "repblend": "80"}


def shown_column(number: int, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Name of a row -> its cell in this column of the first table that was printed."""
    first_table, *_ = capsys.readouterr().out.split("└")
    lines = [line.split("│") for line in first_table.splitlines() if "│" in line]
    return {cells[1].strip(): cells[number].strip() for cells in lines}


def test_the_table_says_how_many_outer_steps_each_method_had(capsys: pytest.CaptureFixture[str]) -> None:
    experiments = load_study(command.PRESET).experiments
    rows = [Row("full", "full", 0, 0, [31.0], IMAGES)]
    for name in ("vldd", "bilevel"):
        steps = experiments[name].distill.outer_steps
        rows.append(row_of([MethodRun(name, 99, 100, steps, 2.0, seed, 29.0, [30.0, 31.0], IMAGES, 1, 1.0) for seed in (0, 1)]))
    show(rows)
    assert shown_column(8, capsys) == {"full": "", "vldd": "150", "bilevel": "300"}


def test_ours_is_bilevel_also_if_a_changed_method_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the figure called ours would be chosen by the test recall."""
    means = {"ptm-st": 29.0, "bilevel": 30.0, "ptm-st-k-means": 30.5, "bilevel-no-noise": 30.6}
    runs = [MethodRun(name, 94, 100, 150, 2.0, 0, 29.0, [mean], [mean, mean], 1, 1.0) for name, mean in means.items()]
    show([Row("full", "full", 0, 0, [31.0], IMAGES), *(row_of([run]) for run in runs)])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["ours_mean_100"], summary["best_published_mean_100"]) == (30.0, 29.0)


def test_means_of_real_pairs_have_the_means_of_their_features(tmp_path: Path) -> None:
    tree = experiment(
        "model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16", "coresets.methods=[prototypes, random]"
    )
    store = Store(str(tmp_path))
    space = FeatureSpace.prepare(tree, store)
    graph, real = Graph(tree), space.split("train").inputs
    (pairs,) = tree.distill.pairs
    for chosen in evaluated_sets(tree):
        if chosen.method in ("prototypes", "random"):
            unit = graph.unit(*chosen.source)
            found = space.of_coreset(unit).rows["images"]
            facts = UnitReader(store, unit.kind, unit.id).manifest.facts
            counts = facts.get("means_of") or [1] * pairs
            distances = (torch.cdist(found, real) / found.norm(dim=1, keepdim=True)).min(dim=1).values.tolist()
            assert all((distance < 1e-2) == (count == 1) for distance, count in zip(distances, counts, strict=True))
            assert max(counts) > 1 or chosen.method == "random"


def test_the_recalls_of_images_have_the_mean_recall_of_the_split(space: FeatureSpace) -> None:
    """With images that have different numbers of captions; and an image's recall is that of its own queries."""
    split = space.split("test")
    kept = torch.arange(len(split.texts)) % 7 != 1
    split = replace(split, texts=split.texts[kept], image_of_caption=split.image_of_caption[kept])
    assert len(set(split.image_of_caption.bincount().tolist())) > 1
    students = [space.students().with_seed(seed).build() for seed in (0, 1)]
    of_students = [recalls_of_images(student, split, 16) for student in students]
    recalls = recalls_of(of_students)
    assert recalls.students == pytest.approx([measure(student, split, 16).mean for student in students], abs=1e-9)
    assert sum(recalls.images) / len(recalls.images) == pytest.approx(sum(recalls.students) / 2, abs=1e-3)
    # The first image and its captions, ranked here again from the scores.
    images, texts = (torch.nn.functional.normalize(rows) for rows in joint_features(students[0], split, 16))
    scores, own = images @ texts.T, split.image_of_caption == 0
    rank_of_image = int((scores[0][~own] >= scores[0][own].max()).sum())
    ranks_of_captions = [(int((scores[:, c] >= scores[0, c]).sum()) - 1) for c in own.nonzero()[:, 0].tolist()]
    found = [sum(rank < k for k in (1, 5, 10)) / 3 for rank in (rank_of_image, *ranks_of_captions)]
    weight = len(split.inputs) / len(split.texts)
    assert float(of_students[0][0]) == pytest.approx(50 * (found[0] + weight * sum(found[1:])), abs=1e-9)


def test_a_difference_is_that_of_the_means_with_its_error_over_images() -> None:
    one, other = [3.0, 5.0, 10.0, 2.0], [1.0, 4.0, 4.0, 3.0]
    points, error = difference(one, other)
    assert points == 2.0
    assert error == pytest.approx(float(torch.tensor([2.0, 1.0, 6.0, -1.0]).std()) / 2)
