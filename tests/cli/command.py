"""The command `vldd`, run in this process."""

import pytest

from vldd_dist.cli.main import main


def vldd(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Returns (exit code, output, errors)."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err
