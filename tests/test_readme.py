"""The README's example is run, on a set that a real run published, by a process without the training libraries."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from vldd_dist.storage.distilled import DistilledSet, NearestCaptions, Recipe

RECIPE = Recipe(
    image_model="test_nfnet", image_model_args={}, image_weights="random", image_train="full", image_head="none", image_size=16,
    mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), text_encoder={"model": "minilm"}, text_head="projection", joint_dim=None,
    loss="symmetric InfoNCE", temperature=0.07, epochs=3, batch_size=4, learning_rate=0.01, momentum=0.9, weight_decay=0.0,
)  # fmt: skip


def distilled_set(pairs: int = 5) -> DistilledSet:
    generator = torch.Generator().manual_seed(0)
    return DistilledSet(
        images=torch.randn(pairs, 3, 16, 16, generator=generator),
        texts=torch.randn(pairs, 8, generator=generator),
        inner_rates={"image": 0.1, "text": 0.2},
        recipe=RECIPE,
        captions=[NearestCaptions(before="a", after="b", similarity=0.5)] * pairs,
    )


def test_the_example_trains_without_the_training_libraries(tmp_path: Path) -> None:
    distilled_set().save(str(tmp_path / "set"))
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    code = code.replace('"URL"', repr(str(tmp_path / "set")))
    libraries = ("ray", "deepspeed", "timm", "transformers", "peft", "webdataset", "s3fs", "matplotlib")
    code += f"\nimport sys; print(loss.item() > 0, [name for name in {libraries} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[0] == "True []"
