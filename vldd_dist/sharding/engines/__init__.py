"""How a model is distributed over ranks: replicas, DeepSpeed ZeRO, FSDP2."""
