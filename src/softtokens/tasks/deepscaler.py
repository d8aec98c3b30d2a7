"""DeepScaleR: 40,000 problems of AIME, AMC, Omni-MATH and STILL, for training (Agentica, DeepScaleR-Preview)."""

from __future__ import annotations

from softtokens.tasks.spec import TaskSpec

DEEPSCALER = TaskSpec(
    name="deepscaler",
    hub="agentica-org/DeepScaleR-Preview-Dataset",
    splits={"train": "train"},
)
