"""Names of the methods of a report that are not coresets, by the pairs that students are trained on: `FULL` is all real pairs,
`DISTILLED` is distilled pairs."""

FULL, DISTILLED = "full", "distilled"
