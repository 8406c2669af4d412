"""Vision-language dataset distillation at cluster scale."""
