"""The student: a dual encoder whose trainable parameters come from outside, and its unroll on one process or several ranks."""
