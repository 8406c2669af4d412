"""The student, a dual encoder that gets its trainable parameters as arguments, and its unroll on one process or several
ranks."""
