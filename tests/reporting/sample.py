"""A small report with every part: full data, two numbers of pairs, a cross-architecture row, curves, a gallery, a failure."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.reporting.data import (
    DistillationCurve,
    ExpertCurve,
    Gallery,
    GalleryItem,
    PublishedSet,
    ReportData,
    Row,
    RunProgress,
    Stage,
    StageCost,
    ValidationRecall,
    aggregate,
)
from vldd_dist.reporting.figures.drawing import Plot
from vldd_dist.reporting.pages.pictures import encode_picture
from vldd_dist.reporting.pages.report_page import render_html
from vldd_dist.reporting.tables.recall_table import recall_table

HOSTILE_CAPTION = 'a dog <script>alert("x")</script> & a "cat"'


METHODS = ("full", "random", "herding", "k_center", "forgetting", "distilled")


def row(method: str, pairs: int, level: float, image_model: str | None = None, runs: int = 3, students: int = 1) -> Row:
    """A row in which every metric has the mean `level`, and differs by 1 between successive runs and by 4 between successive
    students."""
    recalls = [
        [
            dict.fromkeys(RECALL_METRICS, level + run - (runs - 1) / 2 + 4 * (student - (students - 1) / 2))
            for student in range(students)
        ]
        for run in range(runs)
    ]
    return aggregate(method, pairs, recalls, image_model)


def progress(state: Literal["running", "done", "failed", "stopped"], running: int = 2) -> RunProgress:
    """The progress of a run with this many running units."""
    names = ("dataset", "caption embeddings", "experts", "distillation runs", "evaluations", "distilled sets")
    stages = [
        Stage(name=name, total=total, done=done, failed=failed)
        for name, (total, done, failed) in zip(
            names, ((1, 1, 0), (1, 1, 0), (20, 13, 1), (10, 4, 0), (1200, 480, 20), (10, 2, 0)), strict=True
        )
    ]
    label = "evaluation of distillation 1000 pairs seed 3, vit_base_patch16_224, seed {}"
    return RunProgress(
        state=state,
        written_at="2026-01-02 03:04:05 UTC",
        stages=stages,
        running=[(label.format(index), "4,211/9,000, 12.31 outer steps/s, loss 1.234") for index in range(running)],
        time_left="about 93 min 20 s left",
        notices=[f"expert {index}: retried: {'its process or machine ended: ' + 'x' * 90} <node>" for index in range(3)],
    )


def published(url: str) -> PublishedSet:
    return PublishedSet(url=url, digest="ab" * 32, folder="distilled/scenes-10pairs-seed0", files=["README.md", "preview.png"])


def took(name: str, seconds: float, gpus: int, untimed: int = 0) -> StageCost:
    units = [(f"{name} #{number}", f"units/{name}/{number}/manifest.json") for number in range(2)]
    return StageCost(
        name=name, seconds=seconds, core_seconds=2 * seconds, gpu_seconds=gpus * seconds, untimed=untimed, units=units
    )


def large() -> ReportData:
    """A report with 200 experts and 12 distilled sets."""
    small = report()
    return small.model_copy(
        update={
            "experts": [small.experts[0].model_copy(update={"expert": index}) for index in range(200)],
            "distillations": [small.distillations[0].model_copy(update={"pairs": 10 + index}) for index in range(12)],
            "rows": [row(method, 10 + index, 5.0 + index) for index in range(12) for method in METHODS[1:]],
            "progress": progress("running", running=12),
        }
    )


def report() -> ReportData:
    generator = np.random.default_rng(0)
    loss = [1 + 1 / step for step in range(1, 41)]
    return ReportData(
        name="scenes",
        description={"data": "scenes, 2,000 train pictures", "experts": "2, of 3 epochs each"},
        # Not in order on purpose, because the tables sort the rows.
        rows=[
            row("distilled", 20, 16.0),
            row("random", 10, 5.0),
            row("distilled", 10, 10.0),
            row("herding", 20, 9.0),
            row("random", 20, 8.0),
            row("distilled", 10, 7.0, image_model="nf_resnet50", runs=1),
            row("full", 2000, 55.0),
        ],
        validation=[
            ValidationRecall(method=method, pairs=pairs, mean=pairs / 3)
            for method in ("random", "herding")
            for pairs in (10, 20)
        ],
        experts=[
            ExpertCurve(expert=index, epochs=[0, 1, 2, 3], validation_mean=[2.0, 20.0, 30.0, 40.0], loss=[3.0, 2.0, 1.0])
            for index in range(2)
        ],
        distillations=[
            DistillationCurve(
                pairs=pairs,
                seed=0,
                loss=[2 * value for value in loss],
                terms={"image": loss, "text": loss},
                validation=[(0, 2.0), (20, 8.0), (40, 10.0)],
                learned={"inner_lr_image": [0.1 + step / 1000 for step in range(1, 41)], "inner_lr_text": [0.1] * 40},
            )
            for pairs in (10, 20)
        ],
        galleries=[
            Gallery(
                pairs=10,
                seed=0,
                items=[
                    GalleryItem(
                        before=encode_picture(generator.random((3, 32, 32))) if index else None,
                        after=encode_picture(generator.random((3, 32 if index else 160, 32 if index else 160))),
                        caption_before="a red square",
                        caption_after=HOSTILE_CAPTION,
                        similarity=0.83,
                    )
                    for index in range(2)
                ],
                pages=[("1 to 10", "pairs/ab-1.html")],
                on_pages=10,
                similarity_png=encode_picture(generator.random((3, 400, 400))),
            )
        ],
        failures=[("distillation of 20 pairs, seed 1", "the loss became NaN <here>")],
        store="s3://bucket/experiments/scenes",
        distilled_sets=[published("s3://bucket/experiments/scenes/distilled/scenes-10pairs-seed0")],
        costs=[took("experts", 7325.0, gpus=0), took("distillation runs", 61.0, gpus=1, untimed=1)],
    )


def report_page(data: ReportData, charts: Sequence[Plot] = ()) -> str:
    """The page of a report, with the recall table of its rows."""
    return render_html(data, [recall_table(data)] if data.rows else [], [], charts)
